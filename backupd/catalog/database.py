"""The catalog's file without SQLAlchemy: its lock, creation, schema and migrations.

No connection outlives a unit of work. A flock(2) on the *directory* (shared for a unit of work, exclusive where the
file is created, migrated or replaced) keeps a rebuild from replacing the file under a writer. It needs no lock file,
and the kernel releases it when the process ends.

A user who may write to the directory may have planted a trigger, a view or an index: nothing is read or written unless
the schema is exactly ours.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from backupd.catalog.connection import (
    LOCK_TIMEOUT_S,
    REBUILD,
    SIDE_FILES,
    catalog_errors,
    connect,
    require_regular_file,
)
from backupd.errors import CatalogForeign, CatalogUnavailable
from backupd.formatting import printable
from backupd.system.directory import Directory
from backupd.system.file_lock import directory_lock

# https://sqlite.org/fileformat2.html#file_format_version_numbers
_VERSIONS_AT, _WAL_VERSIONS, _ROLLBACK_VERSIONS = 18, b"\2\2", b"\1\1"
APPLICATION_ID: Final = 0x626B7570  # "bkup"; set by migrations/0001_initial.sql
# A few commits a day, and a manifest says neither that a run began nor that a copy is damaged: each commit is fsynced.
MIGRATING: Final = ("synchronous=FULL", "foreign_keys=OFF")
WORKING: Final = ("synchronous=FULL", "foreign_keys=ON")
# Schema changes in order; `PRAGMA user_version` is the number of those that a file has.
_MIGRATIONS: Final = tuple(
    script.read_text(encoding="utf-8")
    for script in sorted(files("backupd.catalog").joinpath("migrations").iterdir(), key=lambda script: script.name)
    if script.name.endswith(".sql")
)
LATEST: Final = len(_MIGRATIONS)
_MOST_OBJECTS: Final = 1000  # of a schema; ours has two dozen
_MOST_NAMES, _NAME_CHARACTERS = 3, 60


@contextmanager
def catalog_lock(directory: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock on `directory`. Raises TimeoutError after `LOCK_TIMEOUT_S` seconds, else OSError."""
    with directory_lock(directory, shared=not exclusive, timeout_s=LOCK_TIMEOUT_S) as held:
        if not held:
            raise TimeoutError(errno.ETIMEDOUT, f"locked for more than {LOCK_TIMEOUT_S:g} s")
        yield


def prepare(path: Path) -> None:
    """Create a missing catalog, or migrate it. Raises CatalogUnavailable as `upgrade`, sqlite3.Error, OSError."""
    with catalog_lock(path.parent, exclusive=False):
        if os.path.lexists(path) and _is_ready(path):
            return
    with catalog_lock(path.parent, exclusive=True):
        create(path)
        upgrade(path)


def require_ready(path: Path) -> None:
    """Check that the catalog can be read without a migration. Raises CatalogUnavailable, sqlite3.Error or OSError."""
    with catalog_lock(path.parent, exclusive=False):
        if not os.path.lexists(path):
            raise CatalogUnavailable(f"there is no catalog {path}", hint=f"the next backup creates one, or {REBUILD}")
        if not _is_ready(path):
            what = f"the catalog {path} is unfinished or of an older version"
            raise CatalogUnavailable(what, hint=f"the next backup migrates it, or {REBUILD}")


def read_copies(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the stores that hold each generation, by its id: damaged copies included, missing ones not.

    It reads without SQLAlchemy, which takes longer to import than a listing of 5,000 generations (docs/adr/0013).
    Raises CatalogUnavailable as `read_catalog` does.
    """
    query = "SELECT generation, store FROM copy WHERE state != 'missing' ORDER BY generation, store"
    found: dict[str, tuple[str, ...]] = {}
    with catalog_errors(path):
        require_ready(path)
        with catalog_lock(path.parent, exclusive=False), closing(connect(path, "query_only=ON")) as connection:
            connection.execute("BEGIN")
            require_schema(connection)
            for generation, store in connection.execute(query):
                found[generation] = (*found.get(generation, ()), store)
    return found


def _is_ready(path: Path) -> bool:
    with closing(connect(path, *MIGRATING)) as connection:
        if _checked_version(path, connection) < LATEST:
            return False
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return mode == "wal"


def create(path: Path) -> None:
    """Create an empty catalog with the owner of the directory, if there is none. Raises CatalogForeign, OSError."""
    with Directory.open(path.parent) as directory:
        if require_regular_file(path) is None or not path.lstat().st_size:
            for suffix in SIDE_FILES:  # of a lost one: SQLite would play them back into this one
                directory.unlink(f"{path.name}{suffix}")
            directory.replace(path.name, empty_catalog(), temporary=f"{path.name}.new", mode=0o640)


@cache
def empty_catalog() -> bytes:
    """Return the file of an empty catalog, in WAL mode.

    SQLite itself would make it with a rollback journal, see `connection.connect`.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        data = bytearray(connection.serialize())
    data[_VERSIONS_AT : _VERSIONS_AT + len(_WAL_VERSIONS)] = _WAL_VERSIONS
    return bytes(data)


def upgrade(path: Path) -> None:
    """Apply missing migrations, in WAL mode. Call it with the exclusive lock held.

    Raises CatalogUnavailable for a newer or a foreign database, sqlite3.Error, OSError.
    """
    with closing(connect(path, *MIGRATING)) as connection:
        _checked_version(path, connection)
    set_wal_mode(path)
    with closing(connect(path, *MIGRATING)) as connection:
        migrate(connection)


def set_wal_mode(path: Path) -> None:
    """Set WAL mode in the header of a catalog, which has no connection open: SQLite would write a rollback journal.

    Raises OSError.
    """
    with Directory.open(path.parent) as directory:
        descriptor = directory.hold(directory.open_file(path.name, os.O_RDWR))
        if os.pread(descriptor, len(_WAL_VERSIONS), _VERSIONS_AT) == _ROLLBACK_VERSIONS:
            os.pwrite(descriptor, _WAL_VERSIONS, _VERSIONS_AT)
            os.fsync(descriptor)


def migrate(connection: sqlite3.Connection, target: int = LATEST) -> None:
    """Apply the missing migrations up to `target`, each with its version in one transaction.

    `connection` is in autocommit mode (`isolation_level=None`) with foreign keys off: a migration that recreates a
    table must not cascade (https://sqlite.org/lang_altertable.html#otheralter). Two processes may do this at the same
    time: the second waits for the first, then finds the migration applied. Raises sqlite3.Error.
    """
    seen = user_version(connection)
    for version, script in enumerate(_MIGRATIONS[seen:target], start=seen + 1):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if user_version(connection) < version:
                _apply(connection, version, script)


def _apply(connection: sqlite3.Connection, version: int, script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement)
    if connection.execute("PRAGMA foreign_key_check").fetchone():
        raise sqlite3.IntegrityError(f"migration {version} breaks foreign keys")
    connection.execute(f"PRAGMA user_version = {version:d}")


def _statements(script: str) -> Iterator[str]:
    """Split `script` into statements; `executescript` would commit first and end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


Schema = frozenset[tuple[str, str, str, str]]  # type, name, table and SQL of each object


def schema_of(connection: sqlite3.Connection) -> Schema:
    """Return the schema of the file; of one with far more objects than ours, some of them. Raises sqlite3.Error."""
    query = f"SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema LIMIT {_MOST_OBJECTS:d}"  # noqa: S608
    return frozenset(connection.execute(query).fetchall())


@cache
def our_schema(version: int) -> Schema:
    """Return the schema of a catalog that has so many migrations."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, version)
        return schema_of(connection)


def require_schema(connection: sqlite3.Connection, version: int = LATEST) -> None:
    """Raise sqlite3.DatabaseError unless the schema of the file is exactly that of a catalog of this version."""
    differing = schema_of(connection) ^ our_schema(version)
    if differing:
        names = ", ".join(sorted({printable(str(name)[:_NAME_CHARACTERS]) for _, name, *_ in differing})[:_MOST_NAMES])
        raise sqlite3.DatabaseError(f"its schema is not that of a catalog: {names} missing, changed or added")


def user_version(connection: sqlite3.Connection) -> int:
    """Return how many migrations the file has; 0 when it is empty."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def table_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the names of the tables in the file. Raises sqlite3.Error."""
    return frozenset(row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"))


def require_own_database(path: Path, connection: sqlite3.Connection) -> None:
    """Raise CatalogForeign when the file is the database of another program, which must not be changed."""
    application_id: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID and table_names(connection):
        raise CatalogForeign(
            f"{path} is the database of another program, not a catalog",
            hint="check backups_dir in the configuration, and move that database away: the next backup creates one",
        )


def _checked_version(path: Path, connection: sqlite3.Connection) -> int:
    require_own_database(path, connection)
    version = user_version(connection)
    if version > LATEST:
        raise CatalogForeign(
            f"the catalog {path} has version {version}; this backupd knows versions up to {LATEST}",
            hint=f"use the newer backupd again, or {REBUILD}, which keeps the rows that this version can read",
        )
    require_schema(connection, version)
    return version
