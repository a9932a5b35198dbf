"""What happens, one file a verb, each read from top to bottom; begin with `jobs.backup`."""
