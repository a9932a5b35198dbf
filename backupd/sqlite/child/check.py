"""Prove one of our own copies sound, and say what is in it.

Run as `python -m backupd.sqlite.child.check`. The copy is opened `immutable=1`: nobody writes to it, no lock and no
side file is needed, and CHECK constraints, which may call functions of the app, are not evaluated.
"""

import os
import time
from typing import Any
from urllib.parse import quote

import apsw

from backupd.priority import Priority, give_way
from backupd.sqlite.child.contents import contents_of
from backupd.sqlite.child.ladder import climb
from backupd.sqlite.child.wire import Wire, serve


def open_immutable(path: str) -> apsw.Connection:
    """Open the copy at `path` read-only and mapped: mapped pages cost no memory of ours and no system calls."""
    uri = f"file:{quote(os.fsencode(path))}?immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.execute(f"PRAGMA mmap_size={os.stat(path).st_size}")
    return connection


def work(request: dict[str, Any], _wire: Wire) -> dict[str, Any]:
    """Check the copy; the answer holds the fields of `model.Verdict` and, unless it is corrupt, of `model.Contents`."""
    give_way(Priority(**request["priority"]))
    began = time.monotonic()
    path: str = request["path"]
    result = climb(lambda: open_immutable(path), request["writer"])
    verdict: dict[str, Any] = {
        "level": result.level,
        "checks": result.checks,
        "damage": result.damage,
        "notes": result.notes,
        "foreign_key_violations": 0,
    }
    contents = None
    if result.level != "corrupt":
        connection = result.prepare(open_immutable(path))
        verdict["foreign_key_violations"] = foreign_key_violations(connection)
        contents = contents_of(connection, {})
        connection.close()
    verdict["duration_s"] = round(time.monotonic() - began, 3)
    return {"verdict": verdict, "contents": contents}


def foreign_key_violations(connection: apsw.Connection) -> int:
    """Count rows whose parent is missing: for the report only, since what they mean is the app's affair."""
    try:
        return int(connection.execute("SELECT count(*) FROM pragma_foreign_key_check").get)
    except apsw.SQLError:
        return 0


if __name__ == "__main__":
    serve(work)
