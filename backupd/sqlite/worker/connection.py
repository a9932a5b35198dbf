"""Connections."""

import os
from collections.abc import Iterator
from typing import Any

import apsw

from backupd.errors import (
    BackupdError,
    NoSpace,
    SnapshotFailed,
    SourceBusy,
    SourceCorrupt,
    SourceUnreadable,
    SourceUnusable,
)
from backupd.system.os_errors import explain_no_inodes, lacks_inodes


def text_rows(
    connection: apsw.Connection, query: str, values: tuple[str, ...] = (), errors: str = "backslashreplace"
) -> Iterator[list[Any]]:
    """Yield the rows of `query` with blobs decoded as the texts that they are. Raises apsw.Error."""
    encoding = str(connection.execute("PRAGMA encoding").get)
    for row in connection.execute(query, values):
        yield [value.decode(encoding, errors) if isinstance(value, bytes) else value for value in row]


_FULL = "the app's file system is full"
_SHM_SIZE = {apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMMAP, apsw.SQLITE_IOERR_SHMOPEN}
_BUSY = (
    SourceBusy,
    "{path} stayed locked for {waited_s:.0f} s",
    (
        "a long transaction: try again later, or raise busy_timeout_s; if it is always so, the app has set "
        "PRAGMA locking_mode=EXCLUSIVE and cannot be backed up online: let it use NORMAL"
    ),
)
_KNOWN: dict[int, tuple[type[BackupdError], str, str]] = {
    apsw.SQLITE_BUSY: _BUSY,
    apsw.SQLITE_LOCKED: _BUSY,
    apsw.SQLITE_NOTADB: (
        SourceUnreadable,
        "{path} is no database that SQLite can read: {error}",
        "check the path; if it was a database before, restore the last good generation (backupd list)",
    ),
    apsw.SQLITE_CORRUPT: (
        SourceCorrupt,
        "{path} is damaged: {error}",
        "restore the last good generation (backupd list), or try sqlite3 .recover",
    ),
    apsw.SQLITE_CANTOPEN: (
        SourceUnusable,
        "{path} cannot be opened: {error}",
        (
            "if it is a WAL database on a read-only mount, it can only be read while the app has it open: mount the "
            "volume writable, or back up while the app runs; else check the rights of the file and its directory"
        ),
    ),
    apsw.SQLITE_READONLY: (
        SourceUnusable,
        "{path} needs recovery that this process may not do: {error}",
        "start the app, which recovers its database; or let backupd run as the owner of the file",
    ),
    apsw.SQLITE_FULL: (
        NoSpace,
        "the file system of the backups ran full while copying",
        "free space, or move backups_dir",
    ),
}


def result_code(error: apsw.Error) -> int:
    """Return the extended result code of `error`, 0 for one of apsw's own (its stubs do not tell of it)."""
    return int(getattr(error, "extendedresult", 0))


def source_error(error: apsw.Error, path: str, waited_s: float) -> BackupdError:
    """Turn what SQLite said about the source at `path` into an error for people."""
    extended = result_code(error)
    if extended in _SHM_SIZE:
        directory = os.path.dirname(path)
        short, hint = explain_no_inodes(directory) if lacks_inodes(directory, 1) else (_FULL, "free space there")
        return NoSpace(
            f"no room for the shared memory file {path}-shm: {short}", f"{hint}: the app is about to fail as well"
        )
    known = _KNOWN.get(extended & 0xFF)
    if known is None:
        return SnapshotFailed(f"{path} could not be copied: {error} (SQLite code {extended})", "see the system's log")
    kind, message, hint = known
    said = str(error)
    if said == "not an error":  # a step of a backup leaves no words on either connection
        said = str(apsw.mapping_result_codes[extended & 0xFF])
    return kind(message.format(path=path, error=said, waited_s=waited_s), hint)
