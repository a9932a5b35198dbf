"""Benchmarks: figures side by side with what the user would otherwise run; `python -m benchmarks --help`."""
