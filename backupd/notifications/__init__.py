"""Messages: what is said to people, when, and how it gets to them (docs/messages.md)."""
