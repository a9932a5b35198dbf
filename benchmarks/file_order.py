"""Rows without their file, by the order of copying: `python -m benchmarks.file_order [--runs 5] [--work DIR]`.

An app writes a file and then its row, and deletes a row and then its file, every few milliseconds; meanwhile database
and files are copied in each order. A row whose file is not in the copy is a loss; a file without a row is none.
"""

import argparse
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

_FILES = 400
_PAUSE_S = 0.004
_COPY_S = 0.0005  # that a file takes to be copied, beside the copy itself: it goes to another disk, compressed
_APP = f"""
import os, random, sqlite3, sys, time
root = sys.argv[1]
database = sqlite3.connect(root + "/app.db", isolation_level=None)
database.execute("PRAGMA journal_mode = wal")
database.execute("PRAGMA synchronous = normal")
database.execute("CREATE TABLE IF NOT EXISTS uploads(name TEXT)")
number, live = 0, []
while True:
    with open(f"{{root}}/files/{{number}}", "wb") as stream:
        stream.write(os.urandom(4096))
    database.execute("INSERT INTO uploads VALUES (?)", (str(number),))
    live.append(number)
    if number >= {_FILES}:
        old = str(live.pop(random.randrange(len(live))))
        database.execute("DELETE FROM uploads WHERE name = ?", (old,))
        os.unlink(f"{{root}}/files/{{old}}")
    else:
        print(number, flush=True)
    number += 1
    if number >= {_FILES}:
        time.sleep({_PAUSE_S})
"""


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


class Copier:
    """Copies the app at `app` to `out`, one part after the other."""

    def __init__(self, app: Path, out: Path) -> None:
        self.app, self.out = app, out
        (out / "files").mkdir()
        self.began = self.ended = 0.0

    def database(self) -> None:
        """Copy the database, as of one instant."""
        source = sqlite3.connect(f"file:{self.app}/app.db?mode=ro", uri=True)
        with closing(source), closing(sqlite3.connect(self.out / "app.db")) as copy:
            source.backup(copy)

    def files(self) -> None:
        """Copy what is listed now by its names, but for what is copied already."""
        for name in _names(self.app / "files"):
            if not (self.out / "files" / name).exists():
                with suppress(FileNotFoundError):
                    self._copy((self.app / "files" / name).read_bytes(), name)

    def _copy(self, data: bytes, name: str) -> None:
        time.sleep(_COPY_S)
        (self.out / "files" / name).write_bytes(data)

    def linked(self) -> None:
        """Give each file a second name, twice around the database; then copy from the second names."""
        links = self.app / "links"
        links.mkdir()
        for look in range(2):
            for name in _names(self.app / "files"):
                with suppress(FileNotFoundError, FileExistsError):
                    os.link(self.app / "files" / name, links / name)
            if not look:
                self.database()
        for name in _names(links):
            self._copy((links / name).read_bytes(), name)
        shutil.rmtree(links)

    def held(self) -> None:
        """Open each file, twice around the database; then copy from the descriptors."""
        descriptors: dict[str, int] = {}
        for look in range(2):
            for name in _names(self.app / "files"):
                if name not in descriptors:
                    with suppress(FileNotFoundError):
                        descriptors[name] = os.open(self.app / "files" / name, os.O_RDONLY)
            if not look:
                self.database()
        for name, descriptor in descriptors.items():
            with open(descriptor, "rb") as stream:
                self._copy(stream.read(), name)

    def lost(self) -> int:
        """Return how many rows of the copy have no file in it."""
        with closing(sqlite3.connect(self.out / "app.db")) as copy:
            names = {name for (name,) in copy.execute("SELECT name FROM uploads")}
        return len(names - set(_names(self.out / "files")))


_ORDERS: dict[str, tuple[Callable[[Copier], None], ...]] = {
    "database, files": (Copier.database, Copier.files),
    "files, database": (Copier.files, Copier.database),
    "files, database, files": (Copier.files, Copier.database, Copier.files),
    "hard links, database, hard links": (Copier.linked,),
    "descriptors, database, descriptors": (Copier.held,),
}


def measure(work: Path, order: str) -> int:
    """Return the losses of one copy of a running app."""
    app, out = Path(tempfile.mkdtemp(dir=work)), Path(tempfile.mkdtemp(dir=work))
    (app / "files").mkdir()
    process = subprocess.Popen([sys.executable, "-c", _APP, str(app)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for _ in range(_FILES):
            process.stdout.readline()
        copier = Copier(app, out)
        for step in _ORDERS[order]:
            step(copier)
        return copier.lost()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(app)
        shutil.rmtree(out)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each order (5)")
    parser.add_argument("--work", type=Path, help="directory for the work (the system's temporary one)")
    options = parser.parse_args()
    found: dict[str, list[int]] = {order: [] for order in _ORDERS}
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        for _ in range(options.runs):
            for order, losses in found.items():
                losses.append(measure(Path(name), order))
    print(f"| order of copying, {options.runs} runs of each in turn | rows without their file |\n|---|---|")
    for order, losses in found.items():
        print(f"| {order} | {', '.join(map(str, losses))} |")


if __name__ == "__main__":
    main()
