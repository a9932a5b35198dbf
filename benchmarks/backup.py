"""A backup, side by side with the shell recipe that it replaces."""

import os
import sys
from pathlib import Path

from benchmarks.measure import Cost, middle, peak_anonymous_bytes, run

STEPS = ("copy", "integrity_check", "gzip -9")


def recipe(database: Path, work: Path) -> tuple[Cost, dict[str, float], int]:
    """Run `.backup`, `integrity_check`, `gzip -9`; returns the cost, wall seconds by step, and the archive's bytes."""
    out, packed = work / "recipe.db", work / "recipe.db.gz"
    out.unlink(missing_ok=True)
    packed.unlink(missing_ok=True)
    commands = (
        ["sqlite3", str(database), f".backup {out}"],
        ["sqlite3", str(out), "PRAGMA integrity_check"],
        ["gzip", "-9", str(out)],
    )
    costs = [run(command) for command in commands]
    total = Cost(sum(c.wall_s for c in costs), sum(c.cpu_s for c in costs))
    return total, {step: cost.wall_s for step, cost in zip(STEPS, costs, strict=True)}, packed.stat().st_size


def environment(database: Path, backups: Path, **more: str) -> dict[str, str]:
    """Return the environment for a backup of `database` into `backups`."""
    return {**os.environ, "BACKUPD_DATABASE": str(database), "BACKUPD_BACKUPS_DIR": str(backups), **more}


def backupd(database: Path, work: Path) -> tuple[Cost, int]:
    """Take one backup into an empty directory; returns the cost and the archive's size."""
    backups = empty(work / "backups")
    cost = run(command(), environment(database, backups))
    return cost, next(backups.glob("*.sqlite3.gz")).stat().st_size


def command() -> list[str]:
    """Return the command that is measured."""
    return [sys.executable, "-m", "backupd", "backup"]


def empty(directory: Path) -> Path:
    """Return `directory`, emptied."""
    os.system(f"rm -rf '{directory}'")
    directory.mkdir()
    return directory


def compare(database: Path, work: Path, runs: int) -> list[str]:
    """Return rows of a Markdown table: recipe, backupd and ratio."""
    recipes, ours = [], []
    for _ in range(runs):  # in turn, so that a slow minute of the machine hits both
        recipes.append(recipe(database, work))
        ours.append(backupd(database, work))
    theirs, mine = middle([r[0] for r in recipes]), middle([o[0] for o in ours])
    their_bytes, my_bytes = recipes[0][2], ours[0][1]
    floor = sorted(r[1]["copy"] + r[1]["integrity_check"] for r in recipes)[runs // 2]
    return [
        f"| wall time | {theirs.wall_s:.1f} s | {mine.wall_s:.1f} s | recipe ÷ {theirs.wall_s / mine.wall_s:.1f} |",
        f"| … of which copy and integrity check alone | {floor:.1f} s | | |",
        f"| CPU time | {theirs.cpu_s:.1f} s | {mine.cpu_s:.1f} s | recipe ÷ {theirs.cpu_s / mine.cpu_s:.1f} |",
        f"| archive | {their_bytes / 1e6:.1f} MB | {my_bytes / 1e6:.1f} MB | by {my_bytes / their_bytes:.3f} |",
    ]


def memory(database: Path, work: Path) -> int:
    """Return the peak of anonymous memory of one backup, the whole process tree, in bytes."""
    return peak_anonymous_bytes(command(), environment(database, empty(work / "backups")))
