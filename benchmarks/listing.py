"""Duration of small commands: `--help`, and `list` of 5,000 generations."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.model import generation_id
from benchmarks.backup import backupd, environment
from benchmarks.measure import median, run


def many_generations(database: Path, work: Path, count: int) -> Path:
    """Take one backup, and copy its manifest under `count` ids; the archives are empty files of the right size."""
    backupd(database, work)
    backups = work / "backups"
    (path,) = backups.glob("*.manifest.json")
    first = decode_manifest(path.read_bytes(), path.name.removesuffix(".manifest.json"))
    for number in range(1, count):
        taken_at = first.taken_at - timedelta(hours=number)
        key = generation_id(first.source, taken_at)
        archive = backups / f"{key}.sqlite3.gz"
        archive.touch()
        with archive.open("wb") as stream:
            stream.truncate(first.archive.size_bytes)
        (backups / f"{key}.manifest.json").write_bytes(encode_manifest(replace(first, id=key, taken_at=taken_at)))
    run([sys.executable, "-m", "backupd", "catalog", "rebuild"], environment(database, backups))
    return backups


def compare(database: Path, work: Path, runs: int) -> list[str]:
    """Return rows of a Markdown table."""
    program = [sys.executable, "-m", "backupd"]
    help_s = median(lambda: run([*program, "--help"]), runs).wall_s
    env = environment(database, many_generations(database, work, 5000))
    list_s = median(lambda: run([*program, "list"], env), runs).wall_s
    return [f"| `backupd --help` | {help_s:.2f} s |", f"| `backupd list`, 5,000 generations | {list_s:.2f} s |"]
