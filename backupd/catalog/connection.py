"""Connections to the catalog's file, and their errors.

A user who may write to its directory may have put another file there, or a schema that runs something: a connection
trusts nothing in the file (https://sqlite.org/security.html). Python 3.11 can set only a part of that; the rest is done
by `database.require_schema`, which accepts no schema but ours.
"""

import errno
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backupd.errors import CatalogDamaged, CatalogDiskError, CatalogForeign, CatalogUnavailable
from backupd.system.os_errors import lacks_inodes

LOCK_TIMEOUT_S: Final = 5.0
# Until all statements of a unit of work, or of a rebuild, must have ended.
UNIT_S: Final = 60.0
REBUILD_S: Final = 3600.0
SIDE_FILES: Final = ("-wal", "-shm", "-journal")

_STEPS_PER_CHECK: Final = 100_000
_MOST_BYTES: Final = 64 << 20  # of one value; a report has a few thousand
_DEFENSES: Final = ("trusted_schema=OFF", "cell_size_check=ON", f"hard_heap_limit={2 * _MOST_BYTES}")

REBUILD: Final = "run `backupd catalog rebuild`"
_DAMAGED: Final = f"{REBUILD}: it reads all manifests and keeps the readable rows of the old catalog"
_LOCKED: Final = f"another process holds it: try again; if no other backupd runs, {REBUILD}"
_DENIED: Final = f"check owner, mode and mount of the file and its directory; if those are right, {REBUILD}"
_FULL: Final = "free some space on the file system of the catalog; if there is enough, check the disk (dmesg)"
_NO_INODES: Final = "remove files from the file system of the catalog: it has no free inodes (df -i)"
_SLOW: Final = f"check the disk of the catalog (dmesg); if it has no errors, {REBUILD}"
_NOT_OURS: Final = "replace it with the catalog's file, or remove it: the next backup creates a new catalog"
_HINTS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_CANTOPEN: _DENIED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
    sqlite3.SQLITE_INTERRUPT: _SLOW,
}
_ERROR_TYPES: Final = {_DAMAGED: CatalogDamaged, _FULL: CatalogDiskError, _NO_INODES: CatalogDiskError}


@contextmanager
def catalog_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system, and unreadable values, into CatalogUnavailable."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError, MemoryError) as error:
        hint = _hint(error, path)
        error_type = _ERROR_TYPES.get(hint, CatalogUnavailable)
        what = "it needs more memory than a catalog may use" if isinstance(error, MemoryError) else error
        raise error_type(f"cannot use the catalog {path}: {what}", hint=hint) from error


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


def connect(path: Path, *pragmas: str, limit_s: float = UNIT_S, lenient: bool = False) -> sqlite3.Connection:
    """Open the existing file in autocommit mode: callers begin transactions themselves, DDL included.

    What still runs in `limit_s` seconds is interrupted. A `lenient` connection ignores what SQLite cannot read of the
    schema. Raises CatalogForeign where the file or a side file is not a regular file, CatalogUnavailable where another
    one is put in its place at this moment, sqlite3.Error, OSError.
    """
    before = require_regular_file(path)
    for suffix in SIDE_FILES:  # SQLite would wait for a pipe
        require_regular_file(path.with_name(path.name + suffix))
    uri = f"file://{quote(os.fsencode(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)
    try:
        _defend(connection, time.monotonic() + limit_s, lenient=lenient)
        _require_opened(connection, path, before)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _defend(connection: sqlite3.Connection, deadline: float, *, lenient: bool) -> None:
    sqlite3.enable_callback_tracebacks(True)  # noqa: FBT003 - else a signal during the callback would be lost
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_PER_CHECK)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
    for pragma in _DEFENSES:
        connection.execute(f"PRAGMA {pragma}")
    if sys.version_info >= (3, 12):
        for option, is_on in (
            (sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True),
            (sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False),
            (sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False),
            (sqlite3.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, False),
            (sqlite3.SQLITE_DBCONFIG_DQS_DDL, False),
            (sqlite3.SQLITE_DBCONFIG_DQS_DML, False),
            (sqlite3.SQLITE_DBCONFIG_WRITABLE_SCHEMA, lenient),
        ):
            connection.setconfig(option, is_on)
    elif lenient:
        connection.execute("PRAGMA writable_schema=ON")


def _require_opened(connection: sqlite3.Connection, path: Path, identity: tuple[int, int] | None) -> None:
    """Raise CatalogUnavailable unless SQLite has opened the file that was seen before, by no link."""
    connection.text_factory = bytes  # a path may not be UTF-8
    opened: bytes = connection.execute("PRAGMA database_list").fetchone()[2]
    connection.text_factory = str
    if opened != os.fsencode(path.parent.resolve() / path.name) or require_regular_file(path) != identity:
        raise CatalogUnavailable(f"the catalog {path} was replaced while it was opened", hint="try again")


def require_regular_file(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at `path`, None where there is none.

    Raises CatalogForeign for a link, a pipe and so on: the directory's owner must not redirect writes of root. SQLite
    itself follows no link that has the name of a side file. Raises IsADirectoryError for a directory, which is clearer
    than SQLite's "unable to open database file".
    """
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        is_link = stat.S_ISLNK(state.st_mode)
        what = "a symbolic link, which may lead out of the store" if is_link else "not a regular file"
        raise CatalogForeign(f"the catalog {path} is {what}", hint=_NOT_OURS)
    return state.st_dev, state.st_ino
