"""The catalog's file without SQLAlchemy: its lock, creation, schema migrations, connections and errors.

No connection outlives a unit of work. A flock(2) on the *directory* (shared for a unit of work, exclusive where the
file is created, migrated or replaced) keeps a rebuild from replacing the file under a writer. It needs no lock file,
and the kernel releases it when the process ends.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backupd.errors import CatalogDamaged, CatalogDiskError, CatalogForeign, CatalogUnavailable
from backupd.system.file_lock import directory_lock
from backupd.system.fs import inherit_owner
from backupd.system.os_errors import lacks_inodes

APPLICATION_ID: Final = 0x626B7570  # "bkup"; set by migrations/0001_initial.sql
LOCK_TIMEOUT_S: Final = 5.0
# A few commits a day, and a manifest says neither that a run began nor that a copy is damaged: each commit is fsynced.
MIGRATING: Final = ("synchronous=FULL", "foreign_keys=OFF")
WORKING: Final = ("synchronous=FULL", "foreign_keys=ON")
# The tables of `models`, by name: checking for them needs no SQLAlchemy.
TABLES: Final = frozenset({"run", "generation", "copy", "check_result", "notice", "outbox", "ping"})

# Schema changes in order; `PRAGMA user_version` is the number of those that a file has.
_MIGRATIONS: Final = tuple(
    script.read_text(encoding="utf-8")
    for script in sorted(files("backupd.catalog").joinpath("migrations").iterdir(), key=lambda script: script.name)
    if script.name.endswith(".sql")
)
LATEST: Final = len(_MIGRATIONS)

REBUILD: Final = "run `backupd catalog rebuild`"
_DAMAGED: Final = f"{REBUILD}: it reads all manifests and keeps the readable rows of the old catalog"
_LOCKED: Final = f"another process holds it: try again; if no other backupd runs, {REBUILD}"
_DENIED: Final = f"check owner, mode and mount of the file and its directory; if those are right, {REBUILD}"
_FULL: Final = "free some space on the file system of the catalog; if there is enough, check the disk (dmesg)"
_NO_INODES: Final = "remove files from the file system of the catalog: it has no free inodes (df -i)"
_HINTS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_CANTOPEN: _DENIED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
}
_ERROR_TYPES: Final = {_DAMAGED: CatalogDamaged, _FULL: CatalogDiskError, _NO_INODES: CatalogDiskError}


@contextmanager
def catalog_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system, and unreadable values, into CatalogUnavailable."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        hint = _hint(error, path)
        error_type = _ERROR_TYPES.get(hint, CatalogUnavailable)
        raise error_type(f"cannot use the catalog {path}: {error}", hint=hint) from error


def _hint(error: BaseException, path: Path) -> str:
    if isinstance(error, TimeoutError):
        return _LOCKED
    if primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL) and lacks_inodes(path.parent, 1):
        return _NO_INODES
    if isinstance(error, OSError):
        return _DENIED
    return _HINTS.get(primary_code(error), _DAMAGED)


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code (https://sqlite.org/rescode.html), SQLITE_ERROR by default."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


@contextmanager
def catalog_lock(directory: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock on `directory`. Raises TimeoutError after `LOCK_TIMEOUT_S` seconds, else OSError."""
    with directory_lock(directory, shared=not exclusive, timeout_s=LOCK_TIMEOUT_S) as held:
        if not held:
            raise TimeoutError(errno.ETIMEDOUT, f"locked for more than {LOCK_TIMEOUT_S:g} s")
        yield


def connect(path: Path, *pragmas: str) -> sqlite3.Connection:
    """Open the existing file in autocommit mode: callers begin transactions themselves, DDL included.

    Raises CatalogForeign where `path` is not a regular file, sqlite3.Error, OSError.
    """
    require_regular_file(path)
    uri = f"file://{quote(os.fsencode(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


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
            for generation, store in connection.execute(query):
                found[generation] = (*found.get(generation, ()), store)
    return found


def _is_ready(path: Path) -> bool:
    with closing(connect(path, *MIGRATING)) as connection:
        if _checked_version(path, connection) < LATEST:
            return False
        missing = TABLES - table_names(connection)
        if missing:
            raise sqlite3.DatabaseError(f"no such table: {', '.join(sorted(missing))}")
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return mode == "wal"


def create(path: Path) -> None:
    """Create an empty file that belongs to the directory's owner, if there is none. Raises CatalogForeign, OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    require_regular_file(path)
    if path.stat().st_size == 0:
        inherit_owner(path.parent, path)


def upgrade(path: Path) -> None:
    """Apply missing migrations and switch to WAL, which the file keeps. Call it with the exclusive lock held.

    Raises CatalogUnavailable for a newer or a foreign database, sqlite3.Error.
    """
    with closing(connect(path, *MIGRATING)) as connection:
        _checked_version(path, connection)
        migrate(connection)
        connection.execute("PRAGMA journal_mode=WAL")


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


def user_version(connection: sqlite3.Connection) -> int:
    """Return how many migrations the file has; 0 when it is empty."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def table_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the names of the tables in the file. Raises sqlite3.Error."""
    return frozenset(row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"))


def require_regular_file(path: Path) -> None:
    """Raise CatalogForeign for a link, a pipe and so on: the directory's owner must not redirect writes of root.

    SQLite itself follows no link that has the name of a side file. Raises IsADirectoryError for a directory, which is
    clearer than SQLite's "unable to open database file"; a missing file is accepted.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            what = "a symbolic link, which may lead out of the store" if stat.S_ISLNK(mode) else "not a regular file"
            hint = "replace it with the catalog's file, or remove it: the next backup creates a new catalog"
            raise CatalogForeign(f"the catalog {path} is {what}", hint=hint)


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
    return version
