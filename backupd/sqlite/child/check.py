"""Prove one of our own copies sound, and say what is in it.

Run as `python -m backupd.sqlite.child.check`. The copy is opened `immutable=1`: nobody writes to it, no lock and no
side file is needed, and CHECK constraints, which may call functions of the app, are not evaluated.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import apsw

from backupd.priority import Priority, give_way
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
        contents = {"tables": count_rows(connection), "schema_sha256": schema_digest(connection)}
        connection.close()
    verdict["duration_s"] = round(time.monotonic() - began, 3)
    return {"verdict": verdict, "contents": contents}


def foreign_key_violations(connection: apsw.Connection) -> int:
    """Count rows whose parent is missing: for the report only, since what they mean is the app's affair."""
    try:
        return int(connection.execute("SELECT count(*) FROM pragma_foreign_key_check").get)
    except apsw.SQLError:
        return 0


def count_rows(connection: apsw.Connection) -> dict[str, int | None]:
    """Count the rows of each ordinary table; None where a table cannot be read without the app's own functions."""
    names = _texts(
        connection,
        "SELECT CAST(name AS BLOB) FROM pragma_table_list WHERE schema='main' AND type='table' "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )
    return {name: _rows(connection, name) for (name,) in names}


def _rows(connection: apsw.Connection, table: str) -> int | None:
    name = table.replace('"', '""')
    try:
        return int(connection.execute(f'SELECT count(*) FROM "{name}"').get)  # noqa: S608 - quoted as an identifier
    except apsw.SQLError:
        return None


def schema_digest(connection: apsw.Connection) -> str:
    """Return the SHA-256 of the schema: a JSON line of type, name, table and SQL for each object, in sorted order."""
    digest = hashlib.sha256()
    for row in _texts(
        connection,
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema "
        "ORDER BY type, name, tbl_name, sql",
    ):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _texts(connection: apsw.Connection, query: str) -> Iterator[list[Any]]:
    """Yield rows of blobs as texts: SQLite takes any bytes for a name, apsw only those that are Unicode."""
    encoding = str(connection.execute("PRAGMA encoding").get)
    for row in connection.execute(query):
        yield [value.decode(encoding, "backslashreplace") if isinstance(value, bytes) else value for value in row]


if __name__ == "__main__":
    serve(work)
