"""Hot."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from backupd.errors import NoSpace, SnapshotFailed, SourceBusy, SourceUnusable
from backupd.sqlite.worker.locks import hold_shared_lock, refuse_journal_in_use, written_without_lock
from backupd.system.fs import is_disk_full

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_TAIL_BYTES = 16  # length and checksum of the name, then the magic
_PAGE_NUMBER_BYTES = 4  # of the page of the lock bytes, before the name
_LONGEST_NAME = 4096  # PATH_MAX
_MAX_BYTES = 1 << 20


class Record(NamedTuple):
    """The end of a journal: the path of its super-journal, as its app sees it, and where that record begins."""

    name: str
    begin: int


def read_super_journal(journal: str) -> Record | None:
    """Return the super-journal that the hot journal at path `journal` names; None for one of a single database.

    None also for a journal that is not there, and for one that is over: its first byte is zero. Raises OSError.
    """
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _record(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def cut_super_journal(journal: str, record: Record) -> None:
    """Cut the record off, durably: SQLite plays the journal back as that of a single database. Raises OSError."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, record.begin)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def super_journal_exists(record: Record, database: str) -> bool:
    """Tell whether the super-journal that a journal of `database` names is there: then nothing of it was committed.

    It is looked for at its own path, and by its name beside the database, whose directory may be mounted elsewhere. It
    must list that journal: its name has a random part, but another file may have it by now. The basename of `database`
    is the one that its app uses, also where it was kept under another name.
    """
    name, beside = os.path.basename(record.name), os.path.dirname(database)
    return any(_lists(path, database) for path in (record.name, os.path.join(beside, name)))


def detach_super_journal(path: str, database: str) -> Record | None:
    """Make the journal of the database at `path`, which its app calls `database`, one that SQLite may play back.

    Returns the record of one that nothing can be said of; None where there is none, or it was cut off. Call it with a
    lock that keeps the app from its journal (`locks.hold_shared_lock`). Raises OSError.
    """
    record = read_super_journal(f"{path}-journal")
    if record is None or not super_journal_exists(record, database):
        return record
    cut_super_journal(f"{path}-journal", record)
    return None


def undecided_message(record: Record, path: str) -> str:
    """Say why the journal of the database at `path` cannot be judged."""
    return (
        f"{path}-journal belongs to a transaction over several databases whose super-journal {record.name} is not seen "
        "here: whether the transaction was committed only its app can tell"
    )


def _record(descriptor: int, size_bytes: int) -> Record | None:
    if os.pread(descriptor, 1, 0) in (b"", b"\0"):
        return None
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size_bytes - _TAIL_BYTES))
    length, checksum = int.from_bytes(tail[:4], "big"), int.from_bytes(tail[4:8], "big")
    begin = size_bytes - _TAIL_BYTES - length - _PAGE_NUMBER_BYTES
    if tail[8:] != _MAGIC or not 0 < length <= _LONGEST_NAME or begin < 0:
        return None
    name = os.pread(descriptor, length, begin + _PAGE_NUMBER_BYTES)
    signed = sum(byte - 256 if byte > 127 else byte for byte in name)  # noqa: PLR2004 - C's char, which may have a sign
    if checksum not in (sum(name), signed % (1 << 32)):
        return None
    return Record(os.fsdecode(name), begin)


def _lists(path: str, database: str) -> bool:
    """Tell whether the file at `path` is a super-journal that names the journal of `database`."""
    journal = os.fsencode(f"{os.path.basename(database)}-journal")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return journal in (os.path.basename(name) for name in os.pread(descriptor, _MAX_BYTES, 0).split(b"\0"))
    except OSError:  # a directory
        return False
    finally:
        os.close(descriptor)


_CHUNK_BYTES = 1 << 20


def require_usable_journal(path: str) -> None:
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
        refuse_journal_in_use(source, path)
        yield source, _judged(path)
    except FileNotFoundError as error:
        raise SourceBusy(f"{path} was recovered by its app just now", "run the backup again") from error
    except OSError as error:
        kind = NoSpace if is_disk_full(error) else SnapshotFailed
        raise kind(f"{path} and its journal could not be copied: {error}", "check space and rights") from error
    finally:
        os.close(source)


def _judged(path: str) -> Record | None:
    record = read_super_journal(f"{path}-journal")
    if record is not None and not super_journal_exists(record, path):
        raise SourceUnusable(
            undecided_message(record, path),
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
