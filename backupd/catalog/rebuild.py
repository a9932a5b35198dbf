"""Rebuild the catalog from manifests and replace the old file in one step.

The order of `_put_in_place` makes a kill or a power failure harmless. A WAL is not bound to its database: SQLite would
replay a stale one into the new file (https://sqlite.org/howtocorrupt.html), so the WAL's name is removed, durably,
before the new file takes the old one's name. An old file that was read completely has no WAL any more; any other gets a
second name first, and so does its WAL.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.orm import Session

from backupd.catalog.database import (
    LATEST,
    MIGRATING,
    WORKING,
    catalog_errors,
    catalog_lock,
    connect,
    create,
    migrate,
    primary_code,
    require_own_database,
    require_regular_file,
    upgrade,
    user_version,
)
from backupd.catalog.models import Base, CopyRow, GenerationRow, UtcDateTime, generation_row
from backupd.catalog.session import make_engine, sqlalchemy_errors
from backupd.model import Manifest, utc_from_text
from backupd.report import report_from_json
from backupd.system.fs import fsync_directory, fsync_file

Row = dict[str, Any]
_CopyKey = tuple[str, str]  # generation, store
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")
_TABLES: Final = ("run", "copy", "check_result", "notice", "outbox", "ping")  # what no manifest contains
_LENIENT: Final = ("writable_schema=ON",)  # without it SQLite opens no truncated file


@dataclass(slots=True)
class OldCatalog:
    """The readable rows of the old catalog by table; it need not be kept when they are `complete`."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in _TABLES})
    complete: bool = True

    def note_loss(self, error: sqlite3.Error) -> None:
        """Note that rows are lost; raises `error` when the file is only locked."""
        if primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise error
        self.complete = False


def rebuild(path: Path, manifests: Iterable[tuple[Manifest, str]]) -> int:
    """Index `manifests`, each with its store, in a new catalog at `path`; return the number of generations.

    Keeps all readable runs, checks, marks of damage and notices of the old catalog; when some rows were unreadable, it
    keeps the old file as `….damaged-N`. The old catalog stays in place until the new one is complete. The caller
    holds the locks of the stores, so that nothing is published during the rebuild. Raises CatalogUnavailable, and
    whatever `manifests` raises.
    """
    generations: dict[str, GenerationRow] = {}
    copies: set[_CopyKey] = set()
    for manifest, store in manifests:
        generations[manifest.id] = generation_row(manifest)
        copies.add((manifest.id, store))
    with catalog_errors(path), sqlalchemy_errors(), catalog_lock(path.parent, exclusive=True):
        _replace(path, generations.values(), copies)
    return len(generations)


def _replace(path: Path, generations: Iterable[GenerationRow], copies: Iterable[_CopyKey]) -> None:
    old = _read_old(path)
    new = _beside(path, ".rebuild")
    _remove(new)  # of a rebuild that was killed
    try:
        _build(new, [*generations, *_copy_rows(copies, old)], old)
        _put_in_place(new, path, keep_old=not old.complete)
    finally:
        _remove(new)
    upgrade(path)


def _build(new: Path, rows: Iterable[Base], old: OldCatalog) -> None:
    """Create the file `new`, durably; without WAL, so that it is one file."""
    create(new)
    with closing(connect(new, *MIGRATING)) as connection:
        migrate(connection)
    with Session(make_engine(new)) as session, session.begin():
        session.add_all(rows)
    with closing(connect(new, *WORKING)) as connection, connection:
        connection.execute("BEGIN")
        for table in _TABLES:
            if table != "copy":
                _insert(connection, table, old.rows[table])
    fsync_file(new)


def _copy_rows(copies: Iterable[_CopyKey], old: OldCatalog) -> Iterator[CopyRow]:
    """Return the row of each copy; one that the old catalog marks damaged remains so."""
    damaged = {
        (row["generation"], row["store"]): utc_from_text(row["since"])
        for row in old.rows["copy"]
        if row["state"] == "damaged"
    }
    now = datetime.now(UTC)
    for copy in copies:
        state = "damaged" if copy in damaged else "present"
        yield CopyRow(generation=copy[0], store=copy[1], state=state, since=damaged.get(copy, now))


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    """Insert old rows with their ids; skips checks of removed copies and rows that violate constraints."""
    for row in rows:
        values = ", ".join(f":{name}" for name in row)
        query = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})"  # noqa: S608 - our own names
        with suppress(sqlite3.IntegrityError):
            connection.execute(query, row)


def _put_in_place(new: Path, path: Path, *, keep_old: bool) -> None:
    if keep_old:
        _set_aside(path)
    for suffix in _SIDE_FILES:
        _beside(path, suffix).unlink(missing_ok=True)
    fsync_directory(path.parent)
    new.replace(path)
    fsync_directory(path.parent)


def _set_aside(path: Path) -> None:
    """Give the old file and its WAL or journal a second name, `….damaged-N` with the first free N."""
    aside = next(name for n in count(1) if not (name := _beside(path, f".damaged-{n}")).exists())
    for suffix in ("", "-wal", "-journal"):
        name = _beside(path, suffix)
        if name.exists():
            try:
                _beside(aside, suffix).hardlink_to(name)
            except OSError:  # no hard links, or none to another user's file: the old name disappears a moment early
                name.replace(_beside(aside, suffix))
    fsync_directory(path.parent)


def _remove(path: Path) -> None:
    for suffix in ("", *_SIDE_FILES):
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read_old(path: Path) -> OldCatalog:
    """Read the old catalog at `path`, if there is one, and checkpoint its WAL. Needs the exclusive lock.

    Raises CatalogUnavailable when it is the database of another program, sqlite3.Error when it is locked, OSError.
    """
    old = OldCatalog()
    require_regular_file(path)
    if path.exists():
        try:
            with closing(connect(path, *_LENIENT)) as connection:
                _read_tables(path, connection, old)
        except sqlite3.Error as error:
            old.note_loss(error)
    return old


def _read_tables(path: Path, connection: sqlite3.Connection, old: OldCatalog) -> None:
    require_own_database(path, connection)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    old.complete = user_version(connection) <= LATEST
    try:
        migrate(connection)
    except sqlite3.Error as error:
        old.note_loss(error)
    for table in _TABLES:
        old.rows[table] = _rows(connection, Base.metadata.tables[table], old)
    old.complete &= connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    connection.execute("PRAGMA journal_mode=DELETE")  # a WAL that is gone cannot be replayed


def _rows(connection: sqlite3.Connection, table: Table, old: OldCatalog) -> list[Row]:
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
            old.note_loss(error)
    readable = [row for row in rows.values() if _is_readable(table, row)]
    old.complete &= len(readable) == len(rows)
    return readable


def _is_readable(table: Table, row: Row) -> bool:
    values = [(column, row.get(column.name)) for column in table.columns]
    try:
        for column, value in values:
            if value is not None and isinstance(column.type, UtcDateTime):
                utc_from_text(value)
        if row.get("report") is not None:
            report_from_json(row["report"])
    except (TypeError, ValueError):
        return False
    return all(column.nullable or value is not None for column, value in values)
