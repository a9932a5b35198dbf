"""Builds values and adapters from the configuration; the only rooms that know both."""
