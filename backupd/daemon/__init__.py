"""The daemon: what fires, runs, listens and answers while nobody looks."""
