"""Rebuild the catalog from manifests and replace the old file in one step.

The order of `_put_in_place` makes a kill or a power failure harmless. A WAL is not bound to its database: SQLite would
replay a stale one into the new file (https://sqlite.org/howtocorrupt.html), so the WAL's name is removed, durably,
before the new file takes the old one's name. An old file that was read completely has no WAL any more; any other gets a
second name first, and so does its WAL.
"""

import os
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

from backupd.catalog.connection import (
    REBUILD_S,
    SIDE_FILES,
    catalog_errors,
    connect,
    primary_code,
    require_regular_file,
)
from backupd.catalog.database import (
    LATEST,
    WORKING,
    catalog_lock,
    empty_catalog,
    migrate,
    require_own_database,
    require_schema,
    set_wal_mode,
    upgrade,
    user_version,
)
from backupd.catalog.models import Base, CopyRow, GenerationRow, UtcDateTime, generation_row
from backupd.catalog.session import make_engine, sqlalchemy_errors
from backupd.model import AnyManifest, utc_from_text
from backupd.report import report_from_json
from backupd.system.directory import Directory

_ALONE: Final = "locking_mode=EXCLUSIVE"  # another program that has the file open makes it locked
Row = dict[str, Any]
_CopyKey = tuple[str, str]  # generation, store
_TABLES: Final = ("run", "copy", "check_result", "notice", "outbox", "ping")  # what no manifest contains


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


def rebuild(path: Path, manifests: Iterable[tuple[AnyManifest, str]]) -> int:
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
    new = path.with_name(f"{path.name}.rebuild")
    with Directory.open(path.parent) as directory:
        _remove(directory, new.name)  # of a rebuild that was killed
        try:
            directory.write(new.name, empty_catalog(), mode=0o640)
            _build(new, [*generations, *_copy_rows(copies, old)], old)
            _put_in_place(directory, new.name, path.name, keep_old=not old.complete)
        finally:
            _remove(directory, new.name)
    upgrade(path)


def _build(new: Path, rows: Iterable[Base], old: OldCatalog) -> None:
    """Write the rows into the file `new`; the last connection leaves no WAL, so that it is one file."""
    with Session(make_engine(new)) as session, session.begin():
        session.add_all(rows)
    with closing(connect(new, *WORKING)) as connection, connection:
        connection.execute("BEGIN")
        for table in _TABLES:
            if table != "copy":
                _insert(connection, table, old.rows[table])


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


def _put_in_place(directory: Directory, new: str, name: str, *, keep_old: bool) -> None:
    descriptor = directory.open_file(new)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if keep_old:
        _set_aside(directory, name)
    for suffix in SIDE_FILES:
        directory.unlink(name + suffix)
    directory.fsync()
    directory.rename(new, directory, name)
    directory.fsync()


def _set_aside(directory: Directory, name: str) -> None:
    """Give the old file and its WAL or journal a second name, `….damaged-N` with the first free N."""
    aside = next(free for n in count(1) if directory.stat(free := f"{name}.damaged-{n}") is None)
    for suffix in ("", "-wal", "-journal"):
        if directory.stat(name + suffix) is not None:
            _keep_as(directory, name + suffix, aside + suffix)
    directory.fsync()


def _keep_as(directory: Directory, name: str, kept: str) -> None:
    try:
        os.link(name, kept, src_dir_fd=directory.descriptor, dst_dir_fd=directory.descriptor, follow_symlinks=False)
    except OSError:  # no hard links there, or none to another user's file: the old name disappears a moment early
        directory.rename(name, directory, kept)


def _remove(directory: Directory, name: str) -> None:
    for suffix in ("", *SIDE_FILES):
        directory.unlink(name + suffix)


def _read_old(path: Path) -> OldCatalog:
    """Read the old catalog at `path`, if there is one, and checkpoint its WAL. Needs the exclusive lock.

    Raises CatalogUnavailable when it is the database of another program, sqlite3.Error when it is locked, OSError.
    """
    old = OldCatalog()
    if require_regular_file(path) is not None and path.lstat().st_size:
        try:
            # Lenient: else SQLite opens no truncated file.
            with closing(connect(path, lenient=True)) as connection:
                require_own_database(path, connection)
            set_wal_mode(path)
            with closing(connect(path, _ALONE, limit_s=REBUILD_S, lenient=True)) as connection:
                _read_tables(path, connection, old)
        except MemoryError:
            old.complete = False
        except sqlite3.Error as error:
            old.note_loss(error)
    return old


def _read_tables(path: Path, connection: sqlite3.Connection, old: OldCatalog) -> None:
    require_own_database(path, connection)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        require_schema(connection, min(user_version(connection), LATEST))
        migrate(connection)
        old.complete = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.Error as error:  # also a planted trigger or view, which must not run
        old.note_loss(error)
    # No view and no virtual table, which compute their rows.
    stored = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0").fetchall()
    for table in {name for (name,) in stored}.intersection(_TABLES):
        old.rows[table] = _rows(connection, Base.metadata.tables[table], old)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a WAL that is empty cannot be replayed


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
