"""Reading what can still be read of an old catalog, whatever state it is in."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Table

from backupd.catalog.database import connect, refuse_foreign, refuse_other_than_file
from backupd.catalog.migrations import LATEST, migrate, user_version
from backupd.catalog.models import Base
from backupd.catalog.records import report_from_json, utc_from_text
from backupd.catalog.unavailable import is_locked

Row = dict[str, Any]

_TABLES: Final = ("run", "copy", "check_result", "told", "outbox", "ping")  # what stands in no manifest
_LENIENT: Final = ("writable_schema=ON",)  # else SQLite opens no truncated file at all
_READERS: Final = {
    "started_at": utc_from_text,
    "finished_at": utc_from_text,
    "checked_at": utc_from_text,
    "since": utc_from_text,
    "told_at": utc_from_text,
    "made_at": utc_from_text,
    "next_at": utc_from_text,
    "taken_at": utc_from_text,
    "failed_at": utc_from_text,
    "report": report_from_json,
}


@dataclass(slots=True)
class Salvage:
    """Rows by table; `whole` says that nothing was lost, so that the old file need not be kept."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in _TABLES})
    whole: bool = True


def salvage(path: Path) -> Salvage:
    """Read the old catalog at `path`, if there is one, and fold its WAL into it. Needs the exclusive lock.

    Raises CatalogUnavailable when it is another program's database, sqlite3.Error when it is locked, OSError.
    """
    found = Salvage()
    refuse_other_than_file(path)
    if path.exists():
        try:
            with closing(connect(path, *_LENIENT)) as connection:
                _read(path, connection, found)
        except sqlite3.Error as error:
            _give_up_part(error, found)
    return found


def _read(path: Path, connection: sqlite3.Connection, found: Salvage) -> None:
    refuse_foreign(path, connection)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    found.whole = user_version(connection) <= LATEST
    try:
        migrate(connection)
    except sqlite3.Error as error:
        _give_up_part(error, found)
    for table in _TABLES:
        found.rows[table] = _rows(connection, Base.metadata.tables[table], found)
    found.whole &= connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    connection.execute("PRAGMA journal_mode=DELETE")  # a WAL that is gone can be replayed into nothing


def _rows(connection: sqlite3.Connection, table: Table, found: Salvage) -> list[Row]:
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
    columns = [column.name for column in table.columns if column.name in present]
    rows: dict[int, Row] = {}
    for order in ("DESC", "ASC"):  # from both ends, as a scan stops at a damaged page
        query = f"SELECT {', '.join(['rowid', *columns])} FROM {table.name} ORDER BY rowid {order}"  # noqa: S608 - our own names
        try:
            for rowid, *values in connection.execute(query):
                rows[rowid] = dict(zip(columns, values, strict=True))
            break
        except sqlite3.Error as error:
            _give_up_part(error, found)
    readable = [row for row in rows.values() if _is_readable(table, row)]
    found.whole &= len(readable) == len(rows)
    return readable


def _is_readable(table: Table, row: Row) -> bool:
    try:
        for name, read in _READERS.items():
            if row.get(name) is not None:
                read(row[name])
    except (TypeError, ValueError):
        return False
    return all(column.nullable or row.get(column.name) is not None for column in table.columns)


def _give_up_part(error: sqlite3.Error, found: Salvage) -> None:
    """Note that something is lost; but raise `error` when the file is merely locked."""
    if is_locked(error):
        raise error
    found.whole = False
