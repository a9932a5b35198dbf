"""Restoring files beside `tar`: `python -m benchmarks.files_restore [--files 20000] [--mib 2048] [--work DIR]`.

`tar -x` unpacks what `tar | pigz -6` has packed. What backupd does is more: it proves each file by its SHA-256, and all
are durable before the first is put in place.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.backup import environment
from benchmarks.measure import Cost, middle, run

_DIRECTORIES = 200
_LINE = 64


def make_files(directory: Path, files: int, mib: int) -> None:
    """Make files of random sizes: half of them text that packs well, half of them noise that does not."""
    noise = random.Random(20261130)
    words = [noise.randbytes(4).hex()[: noise.randrange(3, 8)].encode() for _ in range(4000)]
    for number in range(files):
        place = directory / f"{number % _DIRECTORIES:03}"
        place.mkdir(parents=True, exist_ok=True)
        size = int(noise.expovariate(files / (mib << 20))) + 1
        text = b" ".join(noise.choices(words, k=size // 6 + 1))[:size] if number % 2 else noise.randbytes(size)
        (place / f"{number}.bin").write_bytes(text)


def unpacked(archive: Path, target: Path) -> Cost:
    """Run `tar -x` with pigz into a new directory."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    subprocess.run(["sync"], check=True)
    return run(["tar", "-C", str(target), "-I", "pigz", "-xf", str(archive)])


def restored(target: Path, environ: dict[str, str]) -> Cost:
    """Run `backupd restore` of the files into the emptied directory."""
    shutil.rmtree(target)
    target.mkdir()
    subprocess.run(["sync"], check=True)
    return run([sys.executable, "-m", "backupd", "restore", "--point", "latest", "--only", "uploads"], environ)


def compared(environ: dict[str, str]) -> Cost:
    """Run the same where nothing is missing: each file is read and compared."""
    return run([sys.executable, "-m", "backupd", "restore", "--point", "latest", "--only", "uploads"], environ)


def compare(work: Path, files: int, mib: int, runs: int) -> list[str]:
    """Return rows of a Markdown table: seconds, and their ratio to those of `tar`."""
    uploads, database, archive = work / "app" / "uploads", work / "app" / "tasks.db", work / "all.tar.gz"
    make_files(uploads, files, mib)
    subprocess.run(["sqlite3", str(database), "CREATE TABLE task(id)"], check=True)
    environ = environment(database, work / "backups") | {"BACKUPD_FILES__UPLOADS__PATH": str(uploads)}
    run([sys.executable, "-m", "backupd", "backup"], environ)
    subprocess.run(["tar", "-C", str(uploads), "-I", "pigz -6", "-cf", str(archive), "."], check=True)
    by_tar, by_backupd, equal = [], [], []
    for _ in range(runs):  # in turn, so that a slow minute of the machine hits all
        by_tar.append(unpacked(archive, work / "unpacked"))
        by_backupd.append(restored(uploads, environ))
        equal.append(compared(environ))
        shutil.rmtree(work / "unpacked")
    base = middle(by_tar).wall_s
    rows = (("`backupd restore` of all", by_backupd), ("`backupd restore`, nothing missing", equal))
    return [
        f"| `tar -x` by pigz | {base:.1f} s | |",
        *(
            f"| {name} | {middle(cost).wall_s:.1f} s | {middle(cost).wall_s / base:.2f} of that |"
            for name, cost in rows
        ),
    ]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="how many (20,000)")
    parser.add_argument("--mib", type=int, default=2048, help="their size in all (2,048)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        rows = compare(Path(name), options.files, options.mib, options.runs)
        print(
            f"| {options.files} files, {options.mib} MiB, medians of {options.runs} runs in turn | | |\n|---|---|---|"
        )
        print("\n".join(rows))


if __name__ == "__main__":
    main()
