"""How workers use SQLite: open a database, read its texts, and turn SQLite's error codes into errors for people.

The writer of a database may be hostile: every connection is opened here, and SQLite is told so
(https://sqlite.org/security.html). Error codes: https://sqlite.org/rescode.html.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import apsw

from backupd.errors import (
    BackupdError,
    NoSpace,
    RestoreFailed,
    SnapshotFailed,
    SourceBusy,
    SourceCorrupt,
    SourceUnreadable,
    SourceUnusable,
    TargetInUse,
    TargetRefused,
)
from backupd.sqlite.worker.source_file import RESTORE_HINT
from backupd.system.os_errors import explain_no_inodes, lacks_inodes

# https://sqlite.org/c3ref/c_dbconfig_defensive.html. The schema is not trusted: nothing in it runs by itself, and its
# expressions call only functions without effects.
_DEFENSES = (
    (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
    (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),  # a misspelt column is an error, not a text
    (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
)
_FULL = "the app's file system is full"
_SHM_SIZE = {apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMMAP, apsw.SQLITE_IOERR_SHMOPEN}
_BUSY = (
    SourceBusy,
    "{path} stayed locked for {waited_s:.0f} s",
    (
        "a long transaction: try again later, or raise busy_timeout_s; if this happens every time, the app has set "
        "PRAGMA locking_mode=EXCLUSIVE, which prevents online backups: set it to NORMAL"
    ),
)
_SOURCE_ERRORS: dict[int, tuple[type[BackupdError], str, str]] = {
    apsw.SQLITE_BUSY: _BUSY,
    apsw.SQLITE_LOCKED: _BUSY,
    apsw.SQLITE_NOTADB: (
        SourceUnreadable,
        "{path} is not a database that SQLite can read: {error}",
        f"check the path; if it was a database before, {RESTORE_HINT}",
    ),
    apsw.SQLITE_CORRUPT: (
        SourceCorrupt,
        "{path} is damaged: {error}",
        f"{RESTORE_HINT}, or try sqlite3 .recover",
    ),
    apsw.SQLITE_CANTOPEN: (
        SourceUnusable,
        "{path} cannot be opened: {error}",
        (
            "a WAL database on a read-only mount can only be read while the app has it open: mount the volume "
            "writable, or back up while the app runs; else check the permissions of the file and its directory"
        ),
    ),
    apsw.SQLITE_READONLY: (
        SourceUnusable,
        "{path} needs recovery, which this process may not do: {error}",
        "start the app, which recovers its database; or run backupd as the owner of the file",
    ),
    apsw.SQLITE_FULL: (
        NoSpace,
        "the file system of the backups became full during the copy",
        "free space, or move backups_dir",
    ),
}


def open_database(path: str, flags: int, parameters: str = "") -> apsw.Connection:
    """Open the database at `path` as a URI with every special byte quoted, so that it names this file and no other."""
    uri = f"file:{quote(os.fsencode(path))}{parameters}"
    return _defended(apsw.Connection(uri, flags=flags | apsw.SQLITE_OPEN_URI))


def empty_database() -> apsw.Connection:
    """Open an empty database in memory."""
    return _defended(apsw.Connection(":memory:"))


def _defended(connection: apsw.Connection) -> apsw.Connection:
    for option, value in _DEFENSES:
        connection.config(option, value)
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def ignore_unparsable_schema(connection: apsw.Connection) -> apsw.Connection:
    """Let SQLite ignore what it cannot parse of the schema, which remains read-only; returns `connection`."""
    connection.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
    return connection


def open_immutable(path: str, held: int) -> apsw.Connection:
    """Open the copy `held` at `path` read-only and mapped: mapped pages cost neither memory nor system calls.

    See `open_held`.
    """
    connection = open_held(path, held, apsw.SQLITE_OPEN_READONLY, "?immutable=1")
    connection.execute(f"PRAGMA mmap_size={os.fstat(held).st_size}")
    # The checks look at every cell of every page themselves; to do so at each access would nearly double their time.
    connection.execute("PRAGMA cell_size_check=OFF")
    return connection


def text_rows(
    connection: apsw.Connection, query: str, values: tuple[str, ...] = (), errors: str = "backslashreplace"
) -> Iterator[list[Any]]:
    """Yield the rows of `query` with blobs decoded as text. Raises apsw.Error.

    SQLite accepts any bytes as text, apsw only Unicode: so queries cast texts to blobs.
    """
    encoding = str(connection.execute("PRAGMA encoding").get)
    for row in connection.execute(query, values):
        yield [value.decode(encoding, errors) if isinstance(value, bytes) else value for value in row]


def result_code(error: apsw.Error) -> int:
    """Return the extended result code of `error`, 0 for one of apsw's own (its stubs do not declare it)."""
    return int(getattr(error, "extendedresult", 0))


def source_error(error: apsw.Error, path: str, waited_s: float) -> BackupdError:
    """Return the error for people that explains SQLite's `error` about the source at `path`."""
    code = result_code(error)
    if code in _SHM_SIZE:
        directory = os.path.dirname(path)
        reason, hint = explain_no_inodes(directory) if lacks_inodes(directory, 1) else (_FULL, "free space there")
        return NoSpace(
            f"no space for the shared memory file {path}-shm: {reason}", f"{hint}: the app will fail soon as well"
        )
    known = _SOURCE_ERRORS.get(code & 0xFF)
    if known is None:
        return SnapshotFailed(f"{path} could not be copied: {error} (SQLite code {code})", "see the system's log")
    kind, message, hint = known
    text = str(error)
    if text == "not an error":  # a step of a backup leaves no message on either connection
        text = str(apsw.mapping_result_codes[code & 0xFF])
    return kind(message.format(path=path, error=text, waited_s=waited_s), hint)


def target_error(error: apsw.Error, path: str, in_use: TargetInUse, no_space: str, failure: str) -> BackupdError:
    """Return the error for people that explains SQLite's `error` about the target of a restore at `path`."""
    code = result_code(error)
    match code & 0xFF:
        case apsw.SQLITE_BUSY | apsw.SQLITE_LOCKED:
            return in_use
        case apsw.SQLITE_FULL:
            return NoSpace(no_space, "free space there")
        case apsw.SQLITE_READONLY | apsw.SQLITE_CANTOPEN | apsw.SQLITE_PERM:
            return TargetRefused(
                f"{path} cannot be written as uid {os.geteuid()}: {error}",
                "run backupd as the owner of the file (PUID), with its volume mounted writable",
            )
    return RestoreFailed(f"{path} {failure}: {error} (SQLite code {code})", "see the system's log")


def open_held(path: str, held: int, flags: int, parameters: str = "") -> apsw.Connection:
    """Open the database at `path`, which this process has open as `held`: SQLite opens files by their names only.

    Raises SnapshotFailed where somebody has put another file in its place, before anything of that is read.
    """
    before = _times_open(held)
    if not os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(held)):  # SQLite would wait at a pipe
        raise replaced(path)
    try:
        connection = open_database(path, flags | apsw.SQLITE_OPEN_NOFOLLOW, parameters)
    except apsw.CantOpenError:  # a link, or nothing
        raise replaced(path) from None
    if _times_open(held) == before:
        connection.close()
        raise replaced(path)
    return connection


def replaced(path: str) -> SnapshotFailed:
    """Return the error for a copy at `path` in whose place another file was put."""
    return SnapshotFailed(
        f"another process has replaced the copy {path} while it was in use",
        "find out which process writes to that directory (.backupd/staging, or that of the database)",
    )


def _times_open(held: int) -> int:
    """Return how many descriptors of this process are of the file `held`."""
    states = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # that of the listing
            states.append(os.fstat(descriptor))
    return sum(os.path.samestat(state, os.fstat(held)) for state in states)
