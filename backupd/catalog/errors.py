"""The one error of this package, and the many that become it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from backupd.errors import BackupdError
from backupd.system.os_errors import lacks_inodes

REBUILD: Final = "run `backupd catalog rebuild`"
_DAMAGED: Final = f"{REBUILD}: it reads the manifests anew and keeps what it can of the old runs"
_LOCKED: Final = f"another process holds it: try again; if no other backupd works, {REBUILD}"
_CLOSED: Final = f"check owner, mode and mount of the file and its directory; if those are right, {REBUILD}"
_FULL: Final = "free some space on the file system of the catalog; if there is enough, look at the disk (dmesg)"
_NO_INODES: Final = "remove files from the file system of the catalog: it has no free inodes (df -i)"
_HINTS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PERM: _CLOSED,
    sqlite3.SQLITE_READONLY: _CLOSED,
    sqlite3.SQLITE_CANTOPEN: _CLOSED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
}


class CatalogUnavailable(BackupdError):
    """The catalog cannot be read or written; backups are none the worse for it, and it can be rebuilt."""


class CatalogOnBadDisk(CatalogUnavailable):
    """The disk under it is full, or fails: neither a rebuild nor a restart helps."""


class CatalogNotOurs(CatalogUnavailable):
    """Something else has its place, or a newer backupd wrote it: somebody has to decide, and no restart helps."""


class CatalogDamaged(CatalogUnavailable):
    """The file itself is no good any more: waiting does not help, a rebuild does."""


_KINDS: Final = {_DAMAGED: CatalogDamaged, _FULL: CatalogOnBadDisk, _NO_INODES: CatalogOnBadDisk}


def is_locked(error: sqlite3.Error) -> bool:
    """Tell whether SQLite gave up because somebody else holds the file."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code (https://sqlite.org/rescode.html), SQLITE_ERROR by default."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


@contextmanager
def unavailable(path: Path) -> Iterator[None]:
    """Turn what SQLite, the file system or an unreadable value raises into CatalogUnavailable."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
        hint = _hint(error, path)
        kind = _KINDS.get(hint, CatalogUnavailable)
        raise kind(f"cannot use the catalog {path}: {error}", hint=hint) from error


def _hint(cause: BaseException, path: Path) -> str:
    if isinstance(cause, TimeoutError):
        return _LOCKED
    if primary_code(cause) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL) and lacks_inodes(path.parent, 1):
        return _NO_INODES
    if isinstance(cause, OSError):
        return _CLOSED
    return _HINTS.get(primary_code(cause), _DAMAGED)
