"""Connections to the catalog's file, and their errors.

A user who may write to its directory may have put another file there, or a schema that runs something: a connection
trusts nothing in the file (https://sqlite.org/security.html). Python 3.11 can set only a part of that; the rest is done
by `database.require_schema`, which accepts no schema but ours.
"""

import errno
import fcntl
import os
import sqlite3
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backupd.errors import CatalogDamaged, CatalogDiskError, CatalogForeign, CatalogUnavailable
from backupd.system.fs import OPEN_FILES
from backupd.system.os_errors import lacks_inodes
from backupd.system.small_file import UnexpectedFile, open_regular

LOCK_TIMEOUT_S: Final = 5.0
# Until all statements of a unit of work, or of a rebuild, must have ended.
UNIT_S: Final = 60.0
REBUILD_S: Final = 3600.0
_RESERVED_BYTE: Final = 0x40000001  # https://sqlite.org/fileformat2.html#the_lock_byte_page
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


class _Connection(sqlite3.Connection):
    """A connection to a catalog whose journals SQLite disregards until it is closed, see `_disregard_journals`."""

    held: tuple[int, int] | None = None

    def close(self) -> None:
        """Close it, and what was held for it."""
        super().close()
        held, self.held = self.held, None
        if held is not None:
            _let_go(held)


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
    held = _disregard_journals(path, before) if before is not None else None
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None, factory=_Connection)
    except BaseException:
        if held is not None:
            _let_go(held)
        raise
    connection.held = held
    try:
        _defend(connection, time.monotonic() + limit_s, lenient=lenient)
        _require_opened(connection, path, before)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class _Held:
    """The `descriptor` of a catalog, whether it `is_locked`, and how many `connections` of this process it is for."""

    descriptor: int
    is_locked: bool
    connections: int = 0


_held: Final[dict[tuple[int, int], _Held]] = {}  # by device and inode
_changing_held: Final = threading.Lock()


def _disregard_journals(path: Path, identity: tuple[int, int]) -> tuple[int, int]:
    """Make SQLite believe that another process writes to the file, until `_let_go` of the returned key.

    Then it plays no journal back: a user who can create one beside the catalog names any file in it as super-journal,
    which SQLite would remove (https://sqlite.org/atomiccommit.html §5). A catalog is in WAL mode and never has one.
    The descriptor stays open as long as any connection of this process: closing it releases the locks of all of them.
    Raises TimeoutError where another process holds that lock, CatalogForeign for a journal on a file system without
    such locks, OSError.
    """
    with _changing_held:
        if identity not in _held:
            _held[identity] = _hold(path, identity)
        _held[identity].connections += 1
    journal = path.with_name(f"{path.name}-journal")
    if not _held[identity].is_locked and os.path.lexists(journal):
        _let_go(identity)
        raise CatalogForeign(f"{journal} is beside the catalog, which never has one", hint="remove it")
    return identity


def _hold(path: Path, identity: tuple[int, int]) -> "_Held":
    """Open and lock the catalog of this `identity`. Raises as `_disregard_journals` does."""
    try:
        descriptor = open_regular(path)
    except UnexpectedFile:
        raise _replaced(path) from None
    state = os.fstat(descriptor)
    opened = (state.st_dev, state.st_ino)
    with ExitStack() as unless_held:
        if opened not in _held:  # else closing it would release the locks of its connections
            unless_held.callback(os.close, descriptor)
        if opened != identity:
            raise _replaced(path)
        held = _Held(descriptor, _lock_reserved(descriptor))
        unless_held.pop_all()
    return held


def _let_go(identity: tuple[int, int]) -> None:
    with _changing_held:
        held = _held[identity]
        held.connections -= 1
        if not held.connections:
            os.close(_held.pop(identity).descriptor)


def _lock_reserved(descriptor: int) -> bool:
    """Share the lock of a writer in rollback mode; False on a file system without locks. Raises TimeoutError."""
    lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, _RESERVED_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    except (BlockingIOError, PermissionError):
        raise TimeoutError(errno.ETIMEDOUT, "another program writes to it in rollback mode") from None
    except OSError:
        return False
    return True


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
    if opened != os.fsencode(Path(os.path.realpath(path.parent), path.name)) or require_regular_file(path) != identity:
        raise _replaced(path)
    if not _is_open_twice(identity):
        raise _replaced(path)


def _is_open_twice(identity: tuple[int, int] | None) -> bool:
    """Tell whether SQLite has the file of this `identity` open, beside `_hold`; nothing of the file is read before."""
    found = 0
    for opened in Path(OPEN_FILES).iterdir():
        with suppress(OSError):  # that of the listing, or of another thread
            state = os.fstat(int(opened.name))
            found += (state.st_dev, state.st_ino) == identity
    return found > 1


def _replaced(path: Path) -> CatalogUnavailable:
    return CatalogUnavailable(f"the catalog {path} was replaced while it was opened", hint="try again")


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
