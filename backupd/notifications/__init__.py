"""Notifications: which messages are sent, when, and how they are delivered (docs/messages.md)."""
