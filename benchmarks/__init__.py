"""Benchmarks: figures beside the usual manual commands; `python -m benchmarks --help`."""
