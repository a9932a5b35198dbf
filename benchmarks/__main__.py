"""`python -m benchmarks [--mib 500] [--runs 5] [--large 4096] [--work DIR]`: all figures of docs/performance.md."""

import argparse
import tempfile
from pathlib import Path

from benchmarks import backup, latency, listing
from benchmarks.database import make_database


def main() -> None:
    """Print the tables."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        small, database = work / "small.db", work / "tasks.db"
        make_database(small, 64)
        make_database(database, options.mib)
        print(f"Database: {database.stat().st_size / 2**20:.0f} MiB; medians of {options.runs} runs in turn.\n")
        print("| | recipe | backupd | ratio |\n|---|---|---|---|")
        _print(backup.compare(database, work, options.runs))
        print("\n| peak of anonymous memory, whole process tree | |\n|---|---|")
        sizes = {64: small, options.mib: database}
        for mib, path in sizes.items():
            print(f"| {mib} MiB | {backup.memory(path, work) / 2**20:.0f} MiB |")
        print("\n| commits every 4 ms, WAL | p50 ms | p99 ms | max ms | refused |\n|---|---|---|---|---|")
        for synchronous in ("NORMAL", "FULL"):
            _print(latency.compare(database, work, synchronous, options.runs))
        print("\n| command | wall time |\n|---|---|")
        _print(listing.compare(small, work, options.runs))
        if options.large:
            database.unlink()
            large = work / "large.db"
            make_database(large, options.large)
            print(f"\nMemory at {options.large} MiB: {backup.memory(large, work) / 2**20:.0f} MiB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=500, help="size of the database (500)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--large", type=int, default=0, help="measure memory at this size in MiB too")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    return parser.parse_args()


def _print(rows: list[str]) -> None:
    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
