"""A new catalog from manifests, put in place of the old one in one step.

The order of `_put_in_place` is what makes a kill or a power cut harmless. A WAL is not bound to its database:
SQLite would replay a stale one into the new file (https://sqlite.org/howtocorrupt.html), so its name is gone,
durably, before the new file takes the old one's name. An old file that could be read in full has no WAL left
by then; any other gets a second name first, and its WAL too.
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
    MIGRATING,
    WORKING,
    connect,
    create,
    directory_lock,
    refuse_foreign,
    refuse_other_than_file,
    upgrade,
)
from backupd.catalog.errors import is_locked, unavailable
from backupd.catalog.migrations import LATEST, migrate, user_version
from backupd.catalog.models import Base, Copy, Generation
from backupd.catalog.queries import generation_row
from backupd.catalog.session import in_sqlite_words, make_engine
from backupd.model import Manifest, utc_from_text
from backupd.report import report_from_json
from backupd.system.files import fsync_directory, fsync_file

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


_CopyKey = tuple[str, str]  # generation, store
_SIDE_FILES: Final = ("-wal", "-shm", "-journal")


def rebuild(path: Path, manifests: Iterable[tuple[Manifest, str]]) -> int:
    """Index `manifests`, each with its store, in a new catalog at `path`; return the number of generations.

    Runs, checks, marks of damage and what was said that can be read in the old catalog are kept; where not all could be
    read, the old file stays as `….damaged-N`. The old catalog is in place until the new one is complete. The
    caller holds the stores' locks, so that nothing is published meanwhile. Raises CatalogUnavailable, and
    whatever `manifests` raises.
    """
    generations: dict[str, Generation] = {}
    copies: set[_CopyKey] = set()
    for manifest, store in manifests:
        generations[manifest.id] = generation_row(manifest)
        copies.add((manifest.id, store))
    with unavailable(path), in_sqlite_words(), directory_lock(path.parent, exclusive=True):
        _replace(path, generations.values(), copies)
    return len(generations)


def _replace(path: Path, generations: Iterable[Generation], copies: Iterable[_CopyKey]) -> None:
    old = salvage(path)
    new = _beside(path, ".rebuild")
    _remove(new)  # of a rebuild that was killed
    try:
        _build(new, [*generations, *_copy_rows(copies, old)], old)
        _put_in_place(new, path, keep_old=not old.whole)
    finally:
        _remove(new)
    upgrade(path)


def _build(new: Path, rows: Iterable[Base], old: Salvage) -> None:
    """Make the file `new`: without WAL, so that it is one file, and durable."""
    create(new)
    with closing(connect(new, *MIGRATING)) as connection:
        migrate(connection)
    engine = make_engine(new)
    with Session(engine) as session, session.begin():
        session.add_all(rows)
    with closing(connect(new, *WORKING)) as connection, connection:
        connection.execute("BEGIN")
        for table in ("run", "check_result", "told", "outbox", "ping"):
            _insert(connection, table, old.rows[table])
    fsync_file(new)


def _copy_rows(copies: Iterable[_CopyKey], old: Salvage) -> Iterator[Copy]:
    """Make a row of each copy; one that was known to be damaged still is."""
    damaged = {
        (row["generation"], row["store"]): utc_from_text(row["since"])
        for row in old.rows["copy"]
        if row["state"] == "damaged"
    }
    now = datetime.now(UTC)
    for copy in copies:
        state = "damaged" if copy in damaged else "present"
        yield Copy(generation=copy[0], store=copy[1], state=state, since=damaged.get(copy, now))


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    """Insert old rows with their ids; leave out checks of copies that are gone and rows against the rules."""
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
    """Give the old file and what belongs to it a second name, `….damaged-N` with the first N that is free."""
    aside = next(name for n in count(1) if not (name := _beside(path, f".damaged-{n}")).exists())
    for suffix in ("", "-wal", "-journal"):
        name = _beside(path, suffix)
        if name.exists():
            _keep_as(name, _beside(aside, suffix))
    fsync_directory(path.parent)


def _keep_as(name: Path, kept: Path) -> None:
    try:
        kept.hardlink_to(name)
    except OSError:  # no hard links there, or none to another user's file: the old name goes a moment early
        name.replace(kept)


def _remove(path: Path) -> None:
    for suffix in ("", *_SIDE_FILES):
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


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
