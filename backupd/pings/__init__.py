"""Pings: outside monitors hear of each run, so that they notice when there is none."""
