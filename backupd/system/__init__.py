"""The operating system: each primitive once."""
