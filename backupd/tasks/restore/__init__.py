"""Restore a generation: to a new path, in place of the database, or into a live one."""
