"""Files beside `find` and `tar | pigz`: `python -m benchmarks.files [--files 20000] [--mib 2048] [--runs 3]`.

Two files of five are noise, as photos are, the others text. What backupd does is more than `tar`: each content is
unpacked again and compared, made durable, and read back from the disk.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, middle, peak_anonymous_bytes, run

_FORMAT = "%m %U %G %T@ %s %C@ %i %p\n"
_CHANGED = 100
_CONFIG = """
backups_dir = "{0}/backups"
[space]
reserve = 0
[sources.app]
path = "{0}/app.db"
[files.uploads]
path = "{0}/uploads"
"""
_BACKUP = (sys.executable, "-m", "backupd", "backup", "--source", "uploads", "--no-pin", "--json")


def make_files(root: Path, files: int, size_bytes: int) -> None:
    """Make the files, a hundred to a directory."""
    dice = random.Random(1)
    words = [bytes(dice.choices(b"abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(2000)]
    text = b" ".join(dice.choices(words, k=max(1 << 18, size_bytes)))
    for number in range(files):
        directory = root / f"{number // 100}"
        directory.mkdir(parents=True, exist_ok=True)
        begin = dice.randrange(len(text) - size_bytes)
        content = dice.randbytes(size_bytes) if number % 5 < 2 else text[begin : begin + size_bytes]
        (directory / f"upload-{number}.bin").write_bytes(content)


def look_s(environ: dict[str, str]) -> float:
    """Back up, and return the seconds that looking at the files took, without the start of the command."""
    done = subprocess.run(_BACKUP, env=environ, stdout=subprocess.PIPE, check=False)
    stages = json.loads(done.stdout)["stages"]
    return float(stages["hold"] + stages.get("rescan", 0.0))


def tar(root: Path) -> Cost:
    """Run `tar | pigz -6` into a file, and write it out."""
    command = f"tar -C {root} -cf - uploads | pigz -6 > {root}/all.tar.gz && sync -f {root}/all.tar.gz"
    return run(["sh", "-c", command])


def compare(root: Path, files: int, mib: int, runs: int) -> list[str]:
    """Return rows of a Markdown table: seconds, and their ratio to those of the tools beside."""
    make_files(root / "uploads", files, (mib << 20) // files)
    subprocess.run(["sqlite3", str(root / "app.db"), "CREATE TABLE t(a)"], check=True)
    (root / "config.toml").write_text(_CONFIG.format(root))
    environ = os.environ | {"BACKUPD_CONFIG": str(root / "config.toml")}
    beside, first = [], []
    for _ in range(runs):
        beside.append(tar(root))
        subprocess.run(["rm", "-rf", str(root / "backups")], check=True)
        first.append(run(_BACKUP, environ))
    found, looked, again = [], [], []
    for _ in range(runs):
        found.append(run(["find", str(root / "uploads"), "-printf", _FORMAT]))
        looked.append(Cost(look_s(environ), 0.0))
        again.append(run(_BACKUP, environ))
    for number in range(_CHANGED):
        (root / "uploads" / str(number % (files // 100)) / f"new-{number}.bin").write_bytes(os.urandom(1000))
    changed = run(_BACKUP, environ)
    peak = peak_anonymous_bytes(_BACKUP, environ)
    find_s, tar_s, look = middle(found).wall_s, middle(beside).wall_s, middle(looked).wall_s
    made = middle(first)
    return [
        f"| `find -printf` | {find_s:.2f} s | |",
        f"| nothing changed: looking at the files | {look:.2f} s | {look / find_s:.2f} |",
        f"| nothing changed: the whole command | {middle(again).wall_s:.2f} s | |",
        f"| {_CHANGED} new files: the whole command | {changed.wall_s:.2f} s | |",
        f"| `tar \\| pigz -6` | {tar_s:.1f} s, {middle(beside).cpu_s:.1f} s of CPU | |",
        f"| first backup | {made.wall_s:.1f} s, {made.cpu_s:.1f} s of CPU | {made.wall_s / tar_s:.2f} |",
        f"| memory of the whole process tree, nothing changed | {peak >> 20} MiB | |",
    ]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="number of files (20000)")
    parser.add_argument("--mib", type=int, default=2048, help="size of all files (2048)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        rows = compare(Path(name), options.files, options.mib, options.runs)
    print(f"| {options.files} files, {options.mib} MiB, medians of {options.runs} runs in turn | | |\n|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
