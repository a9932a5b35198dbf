"""An app with several databases, to which one process writes in turn: each transaction has its number and its time.

Run as `python taking_turns.py DATABASE...`: it makes the databases that do not exist, says `ready`, and writes until
its standard input closes. Transaction N is in database N modulo their number; its time is read before its commit, and
so after the commit of the one before.
"""

import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

Turns = dict[int, int]


@contextmanager
def taking_turns(paths: Sequence[Path]) -> Iterator[None]:
    """Run the app on databases at `paths` while the block runs; the first half of them is in WAL mode."""
    command = [sys.executable, __file__, *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
            process.stdin.close()
            assert process.wait(30) == 0, "the app failed beside the copies"
        finally:
            process.kill()


def make_turns(paths: Sequence[Path], modes: Sequence[str]) -> None:
    """Make the databases, each in its journal mode, with the transaction of its first turn."""
    for number, (path, mode) in enumerate(zip(paths, modes, strict=True)):
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"PRAGMA journal_mode={mode}")
            database.execute("CREATE TABLE turn(number INTEGER PRIMARY KEY, at INTEGER NOT NULL)")
            database.execute("INSERT INTO turn VALUES (?, ?)", (number, time.time_ns()))
            database.commit()


def turns(path: Path) -> Turns:
    """Return the time of each transaction in the database at `path`."""
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT number, at FROM turn"))


def last_turn(path: Path) -> int:
    """Return the number of the last transaction in the copy at `path`."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
        return int(database.execute("SELECT max(number) FROM turn").fetchone()[0])


def apart_ns(last: Sequence[int], at: Turns) -> int:
    """Return how far apart copies are at least that end with the transactions `last`, by the times `at` of all.

    One has a transaction that began so long after the next transaction that another one lacks had been committed.
    """
    return max(at[has] for has in last) - min(at.get(lacks + len(last) + 1, max(at.values())) for lacks in last)


def _write(paths: Sequence[str]) -> None:
    databases = [sqlite3.connect(path, isolation_level=None, timeout=30) for path in paths]
    for database in databases:
        database.execute("PRAGMA synchronous=OFF")
    number = max(last_turn(Path(path)) for path in paths) + 1
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        database = databases[number % len(databases)]
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO turn VALUES (?, ?)", (number, time.time_ns()))
        database.execute("COMMIT")
        number += 1


if __name__ == "__main__":
    _write(sys.argv[1:])
