"""Check the integrity of a copy, and report its contents: rows and columns of each table, and the digest of the schema.

Run as `python -m backupd.sqlite.worker.integrity_check`. The copy is opened `immutable=1`: no process writes to it, no
lock and no side file is needed, and CHECK constraints, which may call functions of the app, are not evaluated.
"""

import hashlib
import json
import re
import time
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import apsw

from backupd.sqlite.file_format import has_checksums, is_encrypted, mismatched_pages
from backupd.sqlite.shadow_tables import SHADOW_TABLES
from backupd.sqlite.worker.connection import open_immutable, text_rows
from backupd.sqlite.worker.integrity_levels import MAX_MESSAGES, IntegrityResult, check_integrity
from backupd.sqlite.worker.protocol import IntegrityReply, IntegrityRequest
from backupd.system.resources import Priority, lower_priority
from backupd.system.small_file import opened_file
from backupd.system.worker import ParentPipe, serve

_OPAQUE = {
    "level": "opaque",
    "checks": ["size in whole pages", "looks encrypted throughout"],
    "doubt": "it is encrypted: without its key, only its digest and its size can be verified",
}


def check_copy(request: IntegrityRequest, _parent: ParentPipe) -> IntegrityReply:
    """Check the copy and describe its contents."""
    lower_priority(Priority(**request["priority"]))
    began = time.monotonic()
    path = f"/proc/self/fd/{request['held']}"
    if is_encrypted(path):
        return IntegrityReply(verdict=_OPAQUE, contents=None)

    def connect(_path: str) -> apsw.Connection:
        return open_immutable(request["path"], request["held"])

    result = check_integrity(connect, path, request["writer"], request["thorough"])
    if result.level != "corrupt":
        verify_checksums(path, result)
    violations, contents = 0, None
    if result.level != "corrupt":
        with closing(result.prepare(connect(path))) as connection:
            violations = foreign_key_violations(connection) if request["thorough"] == "all" else 0
            contents = contents_of(connection, result.rows, indexes_compared=result.level == "full")
    verdict = {
        "level": result.level,
        "checks": result.checks,
        "damage": result.damage,
        "notes": result.notes,
        "doubt": result.doubt,
        "foreign_key_violations": violations,
        "duration_s": round(time.monotonic() - began, 3),
    }
    return IntegrityReply(verdict=verdict, contents=contents)


def verify_checksums(path: str, result: IntegrityResult) -> None:
    """Verify the checksum of each page, where the app keeps them; a mismatch is damage."""
    with opened_file(path) as descriptor:
        if not has_checksums(descriptor):
            return
        result.checks.append("page checksums")
        for page in islice(mismatched_pages(descriptor), MAX_MESSAGES):
            result.damage.append(f"page {page} does not match its checksum")
            result.level = "corrupt"


def foreign_key_violations(connection: apsw.Connection) -> int:
    """Count rows whose parent is missing: only for the report, since their meaning depends on the app."""
    try:
        return int(connection.execute("SELECT count(*) FROM pragma_foreign_key_check").get)
    except apsw.Error:
        return 0


# A virtual table may compute its rows: an FTS5 table can read them from any view.
_COUNT_S = 10.0  # for all of them
_STEPS_PER_CHECK = 10_000
_DIGITS = 16
_LISTED_BYTES, _ENTRY_BYTES = 7 << 20, 30  # of the 8 MiB of a manifest; three entries for each table at most
# SQLite stores the statement from the table's name on as it was typed: a quoted or bare name, blanks and comments.
_GAP = r"(?>\s|/\*.*?\*/|--[^\n]*\n)*+"
_NAME = r'"(?:[^"]|"")*"|`(?:[^`]|``)*`|\'(?:[^\']|\'\')*\'|\[[^\]]*\]|[^\s"`\'\[/(-]+'
_TABLES = (
    "SELECT CAST(name AS BLOB), CAST(substr(sql, 1, 65536) AS BLOB) FROM sqlite_schema WHERE type = 'table' "
    "AND sql NOT NULL AND length(name) <= 4096 "
    "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 100000"
)
_MODULE = rf"(?is)CREATE VIRTUAL TABLE {_GAP}(?:{_NAME}){_GAP}USING{_GAP}(?P<module>{_NAME})"


def contents_of(connection: apsw.Connection, cells: dict[str, int], *, indexes_compared: bool) -> dict[str, Any]:
    """Return the fields of `model.Contents`; `cells` has the rows of tables that this library cannot parse.

    Virtual tables and their shadow tables count as tables: they may hold all data of the app. An index is counted in
    place of its table only if a check has compared the two (`indexes_compared`). What exceeds a manifest is left out.
    """
    tables: dict[str, int | None] = {}
    columns: dict[str, str] = {}
    virtual: dict[str, str] = {}
    left_bytes, deadline = _LISTED_BYTES, time.monotonic() + _COUNT_S
    for name, sql in list(text_rows(connection, _TABLES)):
        left_bytes -= 3 * (len(json.dumps(name)) + _ENTRY_BYTES)
        if left_bytes < 0:
            break
        module = re.match(_MODULE, sql)
        if module:
            virtual[name] = module["module"].strip("\"'`[]").lower()
        rows = _rows(connection, name, virtual.get(name), deadline, "" if indexes_compared else " NOT INDEXED")
        tables[name] = cells.get(name) if rows is None else rows
        digest = _columns(connection, name)
        if digest:
            columns[name] = digest
    return {"tables": tables, "schema_sha256": schema_digest(connection), "columns": columns, "virtual": virtual}


def _rows(connection: apsw.Connection, table: str, module: str | None, deadline: float, how: str) -> int | None:
    """Count rows; None where that needs functions of the app, or a virtual table stores no rows of its own.

    Those of a virtual table are counted until `deadline` by the monotonic clock.
    """
    if module is not None and module not in SHADOW_TABLES:
        return None
    name = table.replace('"', '""')
    if module is not None:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_PER_CHECK)
    try:
        return int(connection.execute(f'SELECT count(*) FROM "{name}"{how}').get)  # noqa: S608 - quoted as an identifier
    except apsw.Error:
        return None
    finally:
        connection.set_progress_handler(None)


def _columns(connection: apsw.Connection, table: str) -> str:
    """Return a digest of the column names, which a renamed table keeps; empty where they cannot be read.

    A full-text table has a hidden column with the name of the table, which is left out.
    """
    query = "SELECT CAST(name AS BLOB) FROM pragma_table_xinfo(?) WHERE hidden <> 1"
    with suppress(apsw.Error):
        if names := list(text_rows(connection, query, (table,))):
            return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:_DIGITS]
    return ""


def schema_digest(connection: apsw.Connection) -> str:
    """Return the SHA-256 of the schema: a JSON line of type, name, table and SQL for each object, in sorted order."""
    digest = hashlib.sha256()
    for row in text_rows(
        connection,
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema "
        "ORDER BY type, name, tbl_name, sql",
    ):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


if __name__ == "__main__":
    serve(check_copy)
