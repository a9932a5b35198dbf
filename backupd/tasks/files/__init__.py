"""Backups of sets of files."""
