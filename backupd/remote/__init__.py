"""Backups that are requested over HTTP: how one stands, and the client that asks for it (docs/api.md)."""
