"""Copy a database whose app died in the middle of a transaction, without changing it; and super-journals.

A read-only connection may not roll a hot journal back, and ignoring it would copy half a transaction. So this process
holds SQLite's SHARED lock itself, which keeps an app that starts now from rolling back during the copy, and copies both
files; the copy is rolled back in staging.

A super-journal belongs to a transaction over several attached databases. The journal of each database ends with its
path (https://sqlite.org/atomiccommit.html §5; pager.c, readSuperJournal). The transaction is committed once that file
is removed: SQLite plays a journal back whose super-journal exists, and removes one whose super-journal does not. The
path is that of the app. Where the volume is mounted at another path, SQLite finds no file there, considers half a
transaction committed, and removes the journal; it also removes a super-journal of which it finds no other journal. So
SQLite never gets to see such a record here: the record is read, the super-journal is searched, and the record is cut
off before the journal is played back.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENXIO
from typing import NamedTuple

from backupd.errors import BackupdError, NoSpace, SnapshotFailed, SourceBusy, SourceCorrupt, SourceUnusable
from backupd.sqlite.worker.locks import hold_shared_lock, refuse_journal_in_use, written_without_lock
from backupd.sqlite.worker.source_file import Identity, opened_source
from backupd.system.fs import is_disk_full
from backupd.system.small_file import UnexpectedFile, opened_file

JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_JOURNAL_HEADER_BYTES = 28  # https://sqlite.org/fileformat2.html#the_rollback_journal
_TAIL_BYTES = 16  # length and checksum of the name, then the magic
_PAGE_NUMBER_BYTES = 4  # of the page of the lock bytes, before the name
_LONGEST_NAME = 4096  # PATH_MAX
_MAX_BYTES = 1 << 20


class SuperJournal(NamedTuple):
    """The record at the end of a journal: the path of the super-journal as its app knows it, and where it begins."""

    name: str
    begin: int


def read_super_journal(journal: str) -> SuperJournal | None:
    """Return the super-journal that the hot journal at path `journal` names; None for one of a single database.

    None also without a journal, and for one that is finished: its first byte is zero. Raises OSError.
    """
    with suppress(FileNotFoundError), opened_file(journal) as descriptor:
        return _record(descriptor, os.fstat(descriptor).st_size)
    return None


def super_journal_exists(record: SuperJournal, database: str) -> bool:
    """Return whether the super-journal that a journal of `database` names exists: then nothing was committed.

    It is searched at its own path, and by its name beside the database, whose directory may be mounted elsewhere. It
    must list that journal: another file may have the same name. The basename of `database` is the one that its app
    uses, even if a restore keeps it under another name.
    """
    name, beside = os.path.basename(record.name), os.path.dirname(database)
    return any(_lists(path, database) for path in (record.name, os.path.join(beside, name)))


def detach_super_journal(path: str, database: str) -> SuperJournal | None:
    """Make the journal of the database at `path`, which its app knows as `database`, safe for SQLite to play back.

    The record is cut off, durably: SQLite then plays the journal back for this database alone. Returns the record if
    the outcome of its transaction is unknown; None if there is none, or it was cut off. The caller holds a lock that
    keeps the app from its journal (`locks.hold_shared_lock`). Raises OSError.
    """
    record = read_super_journal(f"{path}-journal")
    if record is None or not super_journal_exists(record, database):
        return record
    with opened_file(f"{path}-journal", os.O_WRONLY) as journal:
        os.ftruncate(journal, record.begin)
        os.fsync(journal)
    return None


def undecided_message(record: SuperJournal, path: str) -> str:
    """Return why it is unknown whether the journal of the database at `path` has to be played back."""
    return (
        f"{path}-journal belongs to a transaction over several databases whose super-journal {record.name} does not "
        "exist here: only its app can tell whether the transaction was committed"
    )


def _record(descriptor: int, size_bytes: int) -> SuperJournal | None:
    if os.pread(descriptor, 1, 0) in (b"", b"\0"):
        return None
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size_bytes - _TAIL_BYTES))
    length, checksum = int.from_bytes(tail[:4], "big"), int.from_bytes(tail[4:8], "big")
    begin = size_bytes - _TAIL_BYTES - length - _PAGE_NUMBER_BYTES
    if tail[8:] != JOURNAL_MAGIC or not 0 < length <= _LONGEST_NAME or begin < 0:
        return None
    name = os.pread(descriptor, length, begin + _PAGE_NUMBER_BYTES)
    signed = sum(byte - 256 if byte > 127 else byte for byte in name)  # noqa: PLR2004 - C's char, which may have a sign
    if checksum not in (sum(name), signed % (1 << 32)):
        return None
    return SuperJournal(os.fsdecode(name), begin)


def _lists(path: str, database: str) -> bool:
    """Return whether the file at `path` is a super-journal that names the journal of `database`."""
    journal = os.fsencode(f"{os.path.basename(database)}-journal")
    with suppress(OSError), opened_file(path) as descriptor:
        return journal in (os.path.basename(name) for name in os.pread(descriptor, _MAX_BYTES, 0).split(b"\0"))
    return False


_CHUNK_BYTES = 1 << 20


def require_usable_journal(path: str, identity: Identity) -> None:
    """Refuse a hot journal whose app is running without locks, whose outcome is unknown, or that no app wrote.

    The caller has no connection to `path` open. Raises SourceUnlocked, SourceUnusable, and as `copy_with_journal` does.
    """
    with _opened(path, identity):
        pass


def copy_with_journal(
    path: str, identity: Identity, to_database: int, to_journal: int, advance: Callable[[int, int], None]
) -> None:
    """Copy `path` and its journal to two descriptors, without the record of a super-journal.

    Raises SourceBusy when the app runs after all, SourceUnlocked, SourceUnusable, NoSpace, SnapshotFailed. The caller
    has no connection to `path` open: closing a descriptor here would drop its locks.
    """
    with _opened(path, identity) as (source, record):
        total = os.fstat(source).st_size + os.stat(f"{path}-journal").st_size
        before = _state(path)
        with opened_file(f"{path}-journal") as journal:
            copy_bytes(journal, to_journal, 0, total, advance)
        copy_bytes(source, to_database, total - os.fstat(source).st_size, total, advance)
        if record is not None:
            os.ftruncate(to_journal, record.begin)
        if _state(path) != before:
            raise written_without_lock(path)


@contextmanager
def _opened(path: str, identity: Identity) -> Iterator[tuple[int, SuperJournal | None]]:
    """Open the database of a dead app under the shared lock; yields its descriptor and its super-journal."""
    with opened_source(path, identity) as source:
        try:
            hold_shared_lock(source, path)
            refuse_journal_in_use(source, path)
            _refuse_claim(path, os.fstat(source).st_size)
            yield source, _usable_super_journal(path)
        except FileNotFoundError as error:
            raise SourceBusy(f"{path} was recovered by its app just now", "run the backup again") from error
        except UnexpectedFile:
            raise
        except OSError as error:
            raise copy_failed(f"{path} and its journal", error) from error


def copy_failed(what: str, error: OSError) -> BackupdError:
    """Return the error for a copy of `what` that failed in a system call."""
    kind = NoSpace if is_disk_full(error) else SnapshotFailed
    return kind(f"{what} could not be copied: {error}", "check free space and permissions")


def _refuse_claim(path: str, size_bytes: int) -> None:
    """Refuse a journal that would make the database larger than both files are together. Raises SourceCorrupt."""
    with opened_file(f"{path}-journal") as journal:
        header = os.pread(journal, _JOURNAL_HEADER_BYTES, 0).ljust(_JOURNAL_HEADER_BYTES, b"\0")
        pages, _sector, page_size = struct.unpack_from(">III", header, 16)
        if pages * page_size > size_bytes + os.fstat(journal).st_size:
            raise SourceCorrupt(
                f"{path}-journal claims that the database had {pages * page_size} bytes, more than the two files hold: "
                "no app writes such a journal",
                "move it away while the app is stopped, and check the database (PRAGMA integrity_check)",
            )


def _usable_super_journal(path: str) -> SuperJournal | None:
    record = read_super_journal(f"{path}-journal")
    if record is not None and not super_journal_exists(record, path):
        raise SourceUnusable(
            undecided_message(record, path),
            "start the app, which commits or rolls back that transaction; or mount the directory of the "
            f"super-journal here at the same path ({os.path.dirname(record.name)})",
        )
    return record


def _state(path: str) -> tuple[int, ...]:
    """Return inode, size and mtime of the database and its journal, which a write changes."""
    both = (os.stat(path), os.stat(f"{path}-journal"))
    return tuple(number for each in both for number in (each.st_ino, each.st_size, each.st_mtime_ns))


def copy_bytes(source: int, target: int, before: int, total: int, advance: Callable[[int, int], None]) -> None:
    """Copy an open file to another, holes as holes: a file of any size may be planted.

    `advance` gets `before` plus the bytes copied, and `total`. Raises OSError.
    """
    with open(target, "wb", closefd=False) as stream:  # buffered: a raw write may be short on a full disk
        stream.truncate(0)
        offset = 0
        while chunk := os.pread(source, _CHUNK_BYTES, offset := _next_data(source, offset)):
            stream.seek(offset)
            stream.write(chunk)
            offset += len(chunk)
            advance(before + offset, total)
        stream.flush()
        stream.truncate(max(offset, os.fstat(source).st_size))


def _next_data(descriptor: int, offset: int) -> int:
    """Return where data begins at or after `offset`: the end of the file where there is none (lseek(2))."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        return os.fstat(descriptor).st_size if error.errno == ENXIO else offset
