"""The catalog as a file: how it is locked, made, recognised, brought up to date and connected to.

No connection outlives a unit of work. The kernel's lock on the *directory* (shared for a unit of work,
exclusive where the file itself is made, migrated or replaced) keeps a rebuild from pulling the file away
under a writer; it needs no file of its own, and a killed process leaves none of it behind.
"""

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backupd.catalog.errors import REBUILD, CatalogNotOurs, CatalogUnavailable
from backupd.catalog.migrations import LATEST, migrate, user_version
from backupd.system.files import give_to_owner_of

APPLICATION_ID: Final = 0x626B7570  # "bkup"; set by migrations/0001_initial.sql
LOCK_TIMEOUT_S: Final = 5.0
# There are a few commits a day, and neither that a run began nor that a copy is damaged stands in a manifest:
# each commit is worth its fsync.
MIGRATING: Final = ("synchronous=FULL", "foreign_keys=OFF")
WORKING: Final = ("synchronous=FULL", "foreign_keys=ON")
_POLL_S: Final = 0.01
_REPLACE: Final = "put the file itself in its place, or remove it: the next backup makes a new catalog"
# The tables of `models`, which whoever only looks whether they are there need not import.
TABLES: Final = frozenset({"run", "generation", "copy", "check_result", "told", "outbox", "ping"})


@contextmanager
def directory_lock(directory: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock on `directory`. Raises TimeoutError after `LOCK_TIMEOUT_S` seconds, else OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"locked for more than {LOCK_TIMEOUT_S:g} s") from busy
        time.sleep(_POLL_S)


def connect(path: Path, *pragmas: str) -> sqlite3.Connection:
    """Open the file, never making it, in autocommit mode: transactions begin where we say so, DDL included.

    Raises CatalogNotOurs for what is no file of its own, sqlite3.Error, OSError.
    """
    refuse_other_than_file(path)
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
    """Make the catalog where there is none, and take the migrations it lacks.

    Raises CatalogUnavailable for a newer, an incomplete or a foreign database, sqlite3.Error or OSError.
    """
    with directory_lock(path.parent, exclusive=False):
        if os.path.lexists(path) and _is_ready(path):
            return
    with directory_lock(path.parent, exclusive=True):
        create(path)
        upgrade(path)


def require_ready(path: Path) -> None:
    """Make sure that the catalog can be read as it is. Raises CatalogUnavailable, sqlite3.Error or OSError."""
    with directory_lock(path.parent, exclusive=False):
        if not os.path.lexists(path):
            raise CatalogUnavailable(f"there is no catalog {path}", hint=f"the next backup makes one, or {REBUILD}")
        if not _is_ready(path):
            what = f"the catalog {path} is unfinished or of an older version"
            raise CatalogUnavailable(what, hint=f"the next backup mends it, or {REBUILD}")


def _is_ready(path: Path) -> bool:
    with closing(connect(path, *MIGRATING)) as connection:
        if _recognise(path, connection) < LATEST:
            return False
        missing = TABLES - table_names(connection)
        if missing:
            raise sqlite3.DatabaseError(f"no such table: {', '.join(sorted(missing))}")
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
        return mode == "wal"


def create(path: Path) -> None:
    """Make an empty file of the directory's owner, unless there is one. Raises CatalogNotOurs, OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    refuse_other_than_file(path)
    if path.stat().st_size == 0:
        give_to_owner_of(path.parent, path)


def upgrade(path: Path) -> None:
    """Take the missing migrations and switch to WAL, which the file remembers. Call with the exclusive lock.

    Raises CatalogUnavailable for a newer or a foreign database, sqlite3.Error.
    """
    with closing(connect(path, *MIGRATING)) as connection:
        _recognise(path, connection)
        migrate(connection)
        connection.execute("PRAGMA journal_mode=WAL")


def table_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the names of the tables in the file. Raises sqlite3.Error."""
    return frozenset(row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"))


def refuse_other_than_file(path: Path) -> None:
    """Raise CatalogNotOurs for a link, a pipe or the like: whoever owns the directory must not lead root elsewhere.

    SQLite itself follows no link that bears the name of a side file. Raises IsADirectoryError for a directory, which
    says more than SQLite's "unable to open database file"; nothing for what is not there.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            what = "a symbolic link, which may lead out of the store" if stat.S_ISLNK(mode) else "no regular file"
            raise CatalogNotOurs(f"the catalog {path} is {what}", hint=_REPLACE)


def refuse_foreign(path: Path, connection: sqlite3.Connection) -> None:
    """Raise CatalogUnavailable when the file is another program's database: that one must not be touched."""
    application_id: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID and table_names(connection):
        raise CatalogNotOurs(
            f"{path} is the database of another program, not a catalog",
            hint="check backups_dir in the configuration, and move that database away: the next backup makes a catalog",
        )


def _recognise(path: Path, connection: sqlite3.Connection) -> int:
    refuse_foreign(path, connection)
    version = user_version(connection)
    if version > LATEST:
        raise CatalogNotOurs(
            f"the catalog {path} has version {version}; this backupd knows versions up to {LATEST}",
            hint=f"use the newer backupd again, or {REBUILD}, which keeps what it can of the old runs",
        )
    return version
