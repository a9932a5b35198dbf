"""An app of another process: it runs the SQL that a test gives it, on a connection that it keeps open."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class App:
    """The running app; `sql` returns rows, and raises AssertionError with the app's own error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def sql(self, statement: str) -> list[list[Any]]:
        """Run one statement there and return its rows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(statement) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        rows: list[list[Any]] = answer["rows"]
        return rows

    def kill(self) -> None:
        """Kill -9: whatever is in the WAL or the journal stays there."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running_app(
    path: Path | str, uid: int = 0, through: Sequence[str | Path] = (), cipher: Sequence[str] = ()
) -> Iterator[App]:
    """Run the app, as user `uid`, on the database at `path` while the block runs; then it ends by itself.

    `path` may be a URI (`file:…?nolock=1`); `through` is a command that starts the app. With pragmas for a `cipher` it
    is one that uses SQLCipher.
    """
    process = subprocess.Popen(
        [*through, sys.executable, __file__, os.fsencode(path), str(uid), *cipher],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield App(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
        finally:
            process.kill()


def _serve(path: str, uid: int, cipher: Sequence[str]) -> None:
    if uid:  # here and not before, since the interpreter may lie where only root can reach it
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    if cipher:
        from sqlcipher3 import dbapi2 as library
    else:
        library = sqlite3
    connection = library.connect(path, isolation_level=None, timeout=10, uri=path.startswith("file:"))
    for pragma in cipher:
        connection.execute(f"PRAGMA {pragma}")
    connection.create_function("app_function", 1, lambda value: value, deterministic=True)
    connection.create_collation("app_collation", lambda a, b: (a > b) - (a < b))
    for line in sys.stdin:
        try:
            answer = {"rows": connection.execute(json.loads(line)).fetchall()}
        except library.Error as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    connection.close()


if __name__ == "__main__":
    _serve(os.fsdecode(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
