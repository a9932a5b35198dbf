"""What is in a sound copy: the rows and columns of each table, and the digest of the schema."""

import hashlib
import json
import re
import time
from contextlib import suppress
from typing import Any

import apsw

from backupd.sqlite.shadows import SHADOWS
from backupd.sqlite.worker.texts import texts

# A virtual table may compute its rows: an FTS5 table can read them from any view.
_COUNT_S = 10.0
_STEPS_A_LOOK = 10_000
_DIGITS = 16
# SQLite stores the statement from the table's name on as it was typed: a quoted or bare name, blanks and comments.
_GAP = r"(?:\s|/\*.*?\*/|--[^\n]*\n)*"
_NAME = r'"(?:[^"]|"")*"|`(?:[^`]|``)*`|\'(?:[^\']|\'\')*\'|\[[^\]]*\]|[^\s"`\'\[/(-]+'
_MODULE = rf"(?is)CREATE VIRTUAL TABLE {_GAP}(?:{_NAME}){_GAP}USING{_GAP}(?P<module>{_NAME})"


def contents_of(connection: apsw.Connection, cells: dict[str, int], *, indexes_compared: bool) -> dict[str, Any]:
    """Return the fields of `model.Contents`; `cells` has the rows of tables that this library cannot parse.

    Virtual tables and their shadow tables are tables like others: they may hold all that the app has. No index is
    counted in place of its table where no check has compared the two (`indexes_compared`).
    """
    tables: dict[str, int | None] = {}
    columns: dict[str, str] = {}
    virtual: dict[str, str] = {}
    for name, sql in _tables(connection):
        module = re.match(_MODULE, sql)
        if module:
            virtual[name] = module["module"].strip("\"'`[]").lower()
        rows = _rows(connection, name, virtual.get(name), "" if indexes_compared else " NOT INDEXED")
        tables[name] = cells.get(name) if rows is None else rows
        digest = _columns(connection, name)
        if digest:
            columns[name] = digest
    return {"tables": tables, "schema_sha256": schema_digest(connection), "columns": columns, "virtual": virtual}


def _tables(connection: apsw.Connection) -> list[list[str]]:
    return list(
        texts(
            connection,
            "SELECT CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema WHERE type = 'table' AND sql NOT NULL "
            "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        )
    )


def _rows(connection: apsw.Connection, table: str, module: str | None, how: str) -> int | None:
    """Count rows; None where that takes functions of the app, or where a virtual table stores none of its own."""
    if module is not None and module not in SHADOWS:
        return None
    name, give_up = table.replace('"', '""'), time.monotonic() + _COUNT_S
    if module is not None:
        connection.set_progress_handler(lambda: time.monotonic() > give_up, _STEPS_A_LOOK)
    try:
        return int(connection.execute(f'SELECT count(*) FROM "{name}"{how}').get)  # noqa: S608 - quoted as an identifier
    except apsw.Error:
        return None
    finally:
        connection.set_progress_handler(None)


def _columns(connection: apsw.Connection, table: str) -> str:
    """Return a digest of the names of the columns, which a renamed table keeps; empty where they cannot be read.

    A full text table has a hidden column of its own name, which does not count.
    """
    names: list[list[str]] = []
    with suppress(apsw.Error):
        names = list(
            texts(connection, "SELECT CAST(name AS BLOB) FROM pragma_table_xinfo(?) WHERE hidden <> 1", (table,))
        )
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:_DIGITS] if names else ""


def schema_digest(connection: apsw.Connection) -> str:
    """Return the SHA-256 of the schema: a JSON line of type, name, table and SQL for each object, in sorted order."""
    digest = hashlib.sha256()
    for row in texts(
        connection,
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema "
        "ORDER BY type, name, tbl_name, sql",
    ):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
