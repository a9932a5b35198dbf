"""Restoring beside `gunzip` and a check: `python -m benchmarks.restore [--mib 500] [--runs 3] [--work DIR]`.

What backupd does is more: it proves two digests, makes the file durable, and in place it keeps the old database.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.backup import backupd, environment
from benchmarks.database import make_database
from benchmarks.measure import Cost, middle, run

_OLD_MIB = 16


def by_hand(archive: Path, out: Path) -> Cost:
    """Run `gunzip -c` into a new file, and `integrity_check` of it."""
    out.unlink(missing_ok=True)
    with out.open("wb") as stream:
        began = time.perf_counter()
        subprocess.run(["gunzip", "-c", str(archive)], stdout=stream, check=True)
        unpacked_s = time.perf_counter() - began
    check = run(["sqlite3", str(out), "PRAGMA integrity_check"])
    return Cost(unpacked_s + check.wall_s, check.cpu_s)


def restore_to(out: Path, environ: dict[str, str]) -> Cost:
    """Run `backupd restore --to` a new file."""
    out.unlink(missing_ok=True)
    return run([sys.executable, "-m", "backupd", "restore", "--to", str(out)], environ)


def in_place(database: Path, environ: dict[str, str]) -> Cost:
    """Run `backupd restore` over a fresh small database of an app that has stopped."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()
    make_database(database, _OLD_MIB)
    return run([sys.executable, "-m", "backupd", "restore", "--app-is-stopped"], environ)


def compare(work: Path, mib: int, runs: int) -> list[str]:
    """Return rows of a Markdown table: seconds, and their ratio to those by hand."""
    (work / "app").mkdir()
    database, out = work / "app" / "tasks.db", work / "out.db"
    make_database(database, mib)
    backupd(database, work)
    environ = environment(database, work / "backups")
    (archive,) = (work / "backups").glob("*.sqlite3.gz")
    hand, beside, over = [], [], []
    for _ in range(runs):  # in turn, so that a slow minute of the machine hits all
        hand.append(by_hand(archive, out))
        beside.append(restore_to(out, environ))
        over.append(in_place(database, environ))
    base = middle(hand).wall_s
    return [
        f"| `gunzip -c`, `PRAGMA integrity_check` | {base:.1f} s | |",
        *(
            f"| {name} | {middle(costs).wall_s:.1f} s | {middle(costs).wall_s / base:.2f} of that |"
            for name, costs in (("`backupd restore --to`", beside), ("`backupd restore` in place", over))
        ),
    ]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=500, help="size of the database (500)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        rows = compare(Path(name), options.mib, options.runs)
        print(f"| {options.mib} MiB, medians of {options.runs} runs in turn | | |\n|---|---|---|")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
