"""The super-journal of a transaction over several attached databases, which alone tells whether it was committed.

Each journal of such a transaction ends with the path of the super-journal (https://sqlite.org/atomiccommit.html §5,
pager.c, readSuperJournal). The transaction is committed once that file is gone: SQLite plays a journal back whose
super-journal is there, and removes one whose super-journal is not. The path is the app's. Where the volume is mounted
at another path, SQLite finds nothing there, takes half a transaction for committed, and removes the journal; and it
removes a super-journal of which it finds no other journal. So SQLite never gets to see such a record here: it is read,
the super-journal is looked for, and the record is cut off before the journal is played back.
"""

import os
from typing import NamedTuple

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_TAIL_BYTES = 16  # length and checksum of the name, then the magic
_PAGE_NUMBER_BYTES = 4  # of the page of the lock bytes, before the name
_LONGEST_NAME = 4096  # PATH_MAX
_MAX_BYTES = 1 << 20


class Record(NamedTuple):
    """The end of a journal: the path of its super-journal, as its app sees it, and where that record begins."""

    name: str
    begin: int


def read_record(journal: str) -> Record | None:
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


def cut_record(journal: str, record: Record) -> None:
    """Cut the record off, durably: SQLite plays the journal back as that of a single database. Raises OSError."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, record.begin)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_there(record: Record, database: str) -> bool:
    """Tell whether the super-journal that a journal of `database` names is there: then nothing of it was committed.

    It is looked for at its own path, and by its name beside the database, whose directory may be mounted elsewhere. It
    must list that journal: its name has a random part, but another file may have it by now. The basename of `database`
    is the one that its app uses, also where it was kept under another name.
    """
    name, beside = os.path.basename(record.name), os.path.dirname(database)
    return any(_lists(path, database) for path in (record.name, os.path.join(beside, name)))


def settle_record(path: str, database: str) -> Record | None:
    """Make the journal of the database at `path`, which its app calls `database`, one that SQLite may play back.

    Returns the record of one that nothing can be said of; None where there is none, or it was cut off. Call it with a
    lock that keeps the app from its journal (`locks.hold_shared_lock`). Raises OSError.
    """
    record = read_record(f"{path}-journal")
    if record is None or not is_there(record, database):
        return record
    cut_record(f"{path}-journal", record)
    return None


def explain_absence(record: Record, path: str) -> str:
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
