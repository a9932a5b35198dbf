"""Builds values and adapters from the configuration: the only composition root."""
