"""The search for databases in the volume of an app: `python -m benchmarks.search [--files 10000] [--runs 5]`."""

import argparse
import resource
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from backupd.config import load_config

_IN_A_DIRECTORY = 100


def make_volume(directory: Path, files: int, databases: int) -> None:
    """Make so many files of 1 KiB, 100 in a directory, and databases, in the volume of an app."""
    for number in range(files):
        place = directory / "uploads" / f"{number // _IN_A_DIRECTORY:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(bytes(1024))
    for number in range(databases):
        place = directory / "tenants" / f"{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(place / f"{number}.db")) as app:
            app.execute("CREATE TABLE task(id)")


def seconds_of_search(path: str, work: Path) -> tuple[float, float, int]:
    """Return the seconds and the CPU seconds until the configuration knows all databases, and how many these are."""
    environ = {"BACKUPD_DATABASE": path, "BACKUPD_BACKUPS_DIR": f"{work}/store"}
    before, began = _cpu_s(), time.perf_counter()
    found = load_config(None, environ, work).sources
    return time.perf_counter() - began, _cpu_s() - before, len(found)


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=9500, help="files that are no databases (9500)")
    parser.add_argument("--databases", type=int, default=200, help="databases (200)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        volume = work / "data"
        make_volume(volume, options.files, options.databases)
        print("| search, median; longest; CPU | databases | |\n|---|---|---|")
        for pattern in ("", "/**/*.db", "/tenants/*/*.db"):
            runs = [seconds_of_search(f"{volume}{pattern}", work) for _ in range(options.runs)]
            times, cpu, found = [run[0] for run in runs], [run[1] for run in runs], runs[0][2]
            shown = f"{statistics.median(times):.2f} s; {max(times):.2f} s; {statistics.median(cpu):.2f} s"
            print(f"| `/app/data{pattern}` | {found} | {shown} |")


if __name__ == "__main__":
    main()
