"""Copy a database whose app died in the middle of a transaction, without touching it.

A read-only connection may not roll a hot journal back, and skipping it would copy half a transaction. So we hold
SQLite's SHARED lock ourselves, which keeps an app that starts now from rolling back under our hands, and copy both
files; the copy is rolled back in private. Lock bytes: https://sqlite.org/src/file/src/os.h, PENDING_BYTE and following.
"""

import fcntl
import os
import struct
from collections.abc import Callable

from backupd.errors import NoSpace, SnapshotFailed, SourceBusy
from backupd.files import is_full

_PENDING = 0x40000000
_SHARED_FIRST, _SHARED_SIZE = _PENDING + 2, 510
_FLOCK = "hhqqi4x"
_CHUNK_BYTES = 1 << 20


def copy_with_journal(path: str, to_database: int, to_journal: int, advance: Callable[[int, int], None]) -> None:
    """Copy `path` and its journal to two descriptors of files of ours.

    Raises SourceBusy when the app is at work after all, NoSpace, SnapshotFailed. The caller has no
    connection to `path` open: closing ours would drop its locks.
    """
    source = os.open(path, os.O_RDONLY)
    try:
        hold_shared_lock(source, path)
        total = os.fstat(source).st_size + os.stat(f"{path}-journal").st_size
        journal = os.open(f"{path}-journal", os.O_RDONLY)
        try:
            copy_bytes(journal, to_journal, 0, total, advance)
        finally:
            os.close(journal)
        copy_bytes(source, to_database, total - os.fstat(source).st_size, total, advance)
    except FileNotFoundError as error:
        raise SourceBusy(f"{path} was recovered by its app just now", "run the backup again") from error
    except OSError as error:
        kind = NoSpace if is_full(error) else SnapshotFailed
        raise kind(f"{path} and its journal could not be copied: {error}", "check space and rights") from error
    finally:
        os.close(source)


def hold_shared_lock(source: int, path: str) -> None:
    """Hold SQLite's SHARED lock on the open file `source`. Raises SourceBusy while its app writes or recovers."""
    try:
        fcntl.lockf(source, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
    except OSError as error:
        raise SourceBusy(f"{path} is being recovered by its app", "run the backup again") from error
    probe = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _PENDING, 2, 0)
    answer = struct.unpack(_FLOCK, fcntl.fcntl(source, fcntl.F_GETLK, probe))
    if answer[0] != fcntl.F_UNLCK:
        raise SourceBusy(f"{path} is being written by its app", "run the backup again")


def copy_bytes(source: int, target: int, before: int, total: int, advance: Callable[[int, int], None]) -> None:
    """Copy an open file to another; `advance` is given `before` and what was copied, and `total`. Raises OSError."""
    with open(target, "wb", closefd=False) as stream:  # buffered: a raw write may be short on a disk that runs full
        stream.truncate(0)
        offset = 0
        while chunk := os.pread(source, _CHUNK_BYTES, offset):
            stream.write(chunk)
            offset += len(chunk)
            advance(before + offset, total)
