"""Copy a database whose app died in the middle of a transaction, without touching it.

A read-only connection may not roll a hot journal back, and skipping it would copy half a transaction. So we hold
SQLite's SHARED lock ourselves, which keeps an app that starts now from rolling back under our hands, and copy both
files; the copy is rolled back in private.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backupd.errors import NoSpace, SnapshotFailed, SourceBusy, SourceUnusable
from backupd.sqlite.worker.locks import hold_shared_lock, refuse_living_journal, written_without_lock
from backupd.sqlite.worker.super_journal import Record, explain_absence, is_there, read_record
from backupd.system.fs import is_disk_full

_CHUNK_BYTES = 1 << 20


def examine_journal(path: str) -> None:
    """Refuse a hot journal whose app is at work without locks, or of which nothing can be said.

    The caller has no connection to `path` open. Raises SourceUnlocked, SourceUnusable, and as `copy_with_journal` does.
    """
    with _opened(path):
        pass


def copy_with_journal(path: str, to_database: int, to_journal: int, advance: Callable[[int, int], None]) -> None:
    """Copy `path` and its journal to two descriptors of files of ours.

    The copy of the journal names no super-journal. Raises SourceBusy when the app is at work after all, SourceUnlocked,
    SourceUnusable, NoSpace, SnapshotFailed. The caller has no connection to `path` open: closing ours would drop its
    locks.
    """
    with _opened(path) as (source, record):
        total = os.fstat(source).st_size + os.stat(f"{path}-journal").st_size
        before = _state(path)
        journal = os.open(f"{path}-journal", os.O_RDONLY)
        try:
            copy_bytes(journal, to_journal, 0, total, advance)
        finally:
            os.close(journal)
        copy_bytes(source, to_database, total - os.fstat(source).st_size, total, advance)
        if record is not None:
            os.ftruncate(to_journal, record.begin)
        if _state(path) != before:
            raise written_without_lock(path)


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, Record | None]]:
    """Open the database of a dead app during the block, under the shared lock; also give its super-journal."""
    source = os.open(path, os.O_RDONLY)
    try:
        hold_shared_lock(source, path)
        refuse_living_journal(source, path)
        yield source, _judged(path)
    except FileNotFoundError as error:
        raise SourceBusy(f"{path} was recovered by its app just now", "run the backup again") from error
    except OSError as error:
        kind = NoSpace if is_disk_full(error) else SnapshotFailed
        raise kind(f"{path} and its journal could not be copied: {error}", "check space and rights") from error
    finally:
        os.close(source)


def _judged(path: str) -> Record | None:
    record = read_record(f"{path}-journal")
    if record is not None and not is_there(record, path):
        raise SourceUnusable(
            explain_absence(record, path),
            "start the app, which finishes that transaction or takes it back; or mount the directory of the "
            f"super-journal here at the same path ({os.path.dirname(record.name)})",
        )
    return record


def _state(path: str) -> tuple[int, ...]:
    """Return what a write to the database or to its journal changes."""
    both = (os.stat(path), os.stat(f"{path}-journal"))
    return tuple(number for each in both for number in (each.st_ino, each.st_size, each.st_mtime_ns))


def copy_bytes(source: int, target: int, before: int, total: int, advance: Callable[[int, int], None]) -> None:
    """Copy an open file to another; `advance` is given `before` and what was copied, and `total`. Raises OSError."""
    with open(target, "wb", closefd=False) as stream:  # buffered: a raw write may be short on a disk that runs full
        stream.truncate(0)
        offset = 0
        while chunk := os.pread(source, _CHUNK_BYTES, offset):
            stream.write(chunk)
            offset += len(chunk)
            advance(before + offset, total)
