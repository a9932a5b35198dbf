"""Places that keep generations."""
