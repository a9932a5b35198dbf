"""Prove one of our own copies sound, and say what is in it.

Run as `python -m backupd.sqlite.worker.integrity_check`. The copy is opened `immutable=1`: nobody writes to it, no
lock and no side file is needed, and CHECK constraints, which may call functions of the app, are not evaluated.
"""

import os
import time
from itertools import islice
from typing import Any
from urllib.parse import quote

import apsw

from backupd.sqlite.checksums import has_checksums, wrong_pages
from backupd.sqlite.encryption import is_encrypted
from backupd.sqlite.worker.contents import contents_of
from backupd.sqlite.worker.integrity_levels import MAX_MESSAGES, IntegrityResult, check_integrity
from backupd.sqlite.worker.protocol import Wire, serve
from backupd.system.resources import Priority, lower_priority

_OPAQUE = {
    "level": "opaque",
    "checks": ["size in whole pages", "looks encrypted throughout"],
    "damage": [],
    "notes": [],
    "doubt": "it is encrypted: without its key only its digest and its size can be verified",
    "foreign_key_violations": 0,
    "duration_s": 0.0,
}


def open_immutable(path: str) -> apsw.Connection:
    """Open the copy at `path` read-only and mapped: mapped pages cost no memory of ours and no system calls."""
    uri = f"file:{quote(os.fsencode(path))}?immutable=1"
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.execute(f"PRAGMA mmap_size={os.stat(path).st_size}")
    return connection


def work(request: dict[str, Any], _wire: Wire) -> dict[str, Any]:
    """Check the copy; the answer holds the fields of `model.Verdict` and, where it could be read, of `Contents`."""
    lower_priority(Priority(**request["priority"]))
    began = time.monotonic()
    path: str = request["path"]
    if is_encrypted(path):
        return {"verdict": _OPAQUE, "contents": None}
    result = check_integrity(open_immutable, path, request["writer"])
    if result.level != "corrupt":
        verify_checksums(path, result)
    verdict: dict[str, Any] = {
        "level": result.level,
        "checks": result.checks,
        "damage": result.damage,
        "notes": result.notes,
        "doubt": result.doubt,
        "foreign_key_violations": 0,
    }
    contents = None
    if result.level != "corrupt":
        connection = result.prepare(open_immutable(path))
        verdict["foreign_key_violations"] = foreign_key_violations(connection)
        contents = contents_of(connection, result.rows, indexes_compared=result.level == "full")
        connection.close()
    verdict["duration_s"] = round(time.monotonic() - began, 3)
    return {"verdict": verdict, "contents": contents}


def verify_checksums(path: str, ladder: IntegrityResult) -> None:
    """Verify the checksum of each page, where the app keeps them; a wrong one is damage."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if not has_checksums(descriptor):
            return
        ladder.checks.append("page checksums")
        for page in islice(wrong_pages(descriptor), MAX_MESSAGES):
            ladder.damage.append(f"page {page} does not match its checksum")
            ladder.level = "corrupt"
    finally:
        os.close(descriptor)


def foreign_key_violations(connection: apsw.Connection) -> int:
    """Count rows whose parent is missing: for the report only, since what they mean is the app's affair."""
    try:
        return int(connection.execute("SELECT count(*) FROM pragma_foreign_key_check").get)
    except apsw.Error:
        return 0


if __name__ == "__main__":
    serve(work)
