"""Tasks: one verb a file, each read from top to bottom; begin with `tasks.backup`."""
