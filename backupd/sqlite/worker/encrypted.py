"""Copy an encrypted database byte for byte, with what is committed in its WAL.

SQLite's backup API would write its own counters into what it takes for a plain header, and so destroy the first page.
So this process holds the locks itself that keep an app from writing to the file: SHARED on the database, which a commit
of a rollback journal waits for, and in WAL mode those of the checkpoint and of one reader, for which only a checkpoint
waits. The frames of a WAL are in the same place, encrypted or not (https://sqlite.org/fileformat2.html#walformat).
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from backupd.errors import SourceBusy, SourceEncrypted
from backupd.sqlite.worker.hot_journal import copy_bytes
from backupd.sqlite.worker.locks import hold_shared_lock, written_without_lock

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = 0x377F0682  # its lowest bit is the byte order of the checksums
_Sums = tuple[int, int]


class WalPages(NamedTuple):
    """The offset in the WAL of the newest committed version of each page, and the number of pages of the database."""

    page_size: int
    total: int
    at: dict[int, int]


class _Frame(NamedTuple):
    page: int
    total: int
    at: int


def committed_pages(wal: int, path: str) -> WalPages | None:
    """Return the committed pages in the WAL of `path` that is open as `wal`; None without any.

    Raises SourceEncrypted if there are frames whose checksums can only be verified with the key.
    """
    header = os.pread(wal, _HEADER_BYTES, 0)
    if len(header) < _HEADER_BYTES:
        return None
    magic, _version, page_size = struct.unpack_from(">III", header)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, header[:24], (0, 0))
    if magic & ~1 != _MAGIC or sums != struct.unpack_from(">II", header, 24):
        return None
    committed: dict[int, int] = {}
    pending: dict[int, int] = {}
    total = 0
    for frame in _frames(wal, order, page_size, header[16:24], sums):
        pending[frame.page] = frame.at
        if frame.total:  # the last frame of a transaction
            committed |= pending
            pending, total = {}, frame.total
    if total:
        return WalPages(page_size, total, {page: at for page, at in committed.items() if page <= total})
    if not pending and os.pread(wal, 8, _HEADER_BYTES + 8) == header[16:24]:
        raise SourceEncrypted(
            f"{path}-wal is encrypted in a way that hides which of its transactions are complete",
            "back up while the app is stopped, or configure a rollback journal (PRAGMA journal_mode=DELETE)",
        )
    return None


def _frames(wal: int, order: str, page_size: int, salt: bytes, sums: _Sums) -> Iterator[_Frame]:
    """Yield the frames with valid salt and checksums, up to the first invalid one."""
    at = _HEADER_BYTES
    while True:
        raw = os.pread(wal, _FRAME_HEADER_BYTES + page_size, at)
        if len(raw) < _FRAME_HEADER_BYTES + page_size or raw[8:16] != salt:
            return
        sums = _checksum(order, raw[_FRAME_HEADER_BYTES:], _checksum(order, raw[:8], sums))
        if sums != struct.unpack_from(">II", raw, 16):
            return
        page, total = struct.unpack_from(">II", raw)
        yield _Frame(page, total, at + _FRAME_HEADER_BYTES)
        at += _FRAME_HEADER_BYTES + page_size


def _checksum(order: str, data: bytes, sums: _Sums) -> _Sums:
    """https://sqlite.org/fileformat2.html#checksum_algorithm."""
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


# https://sqlite.org/walformat.html#wal_locks: 120 is WRITE, 121 is CHECKPOINT, from 123 on there are READ 0 to 4.
_CHECKPOINT_BYTE, _READER_BYTE = 121, 124
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"

Advance = Callable[[int, int], None]
# Waits a moment for a lock, given the number of attempts; False when the time is up.
WaitForLock = Callable[[int], bool]


class EncryptedCopy(NamedTuple):
    """For how long the copy held the writers, and whether the WAL had committed pages."""

    held_s: float
    wal: bool


def copy_encrypted(path: str, target: int, advance: Advance, wait_for_lock: WaitForLock) -> EncryptedCopy:
    """Copy the encrypted database at `path` with what is committed in its WAL to the descriptor `target`.

    Raises SourceBusy, SourceEncrypted if only its app can recover it, SourceUnlocked, NoSpace. The caller has no
    connection to `path` open: closing a descriptor here would drop its locks.
    """
    attempt = 0
    while True:
        try:
            return _copy(path, target, advance)
        except SourceBusy:
            if not wait_for_lock(attempt):
                raise
            attempt += 1


def _copy(path: str, target: int, advance: Advance) -> EncryptedCopy:
    with _locked(path) as source:
        began = time.monotonic()
        _refuse_hot_journal(path)
        before = os.fstat(source)
        wal, index = _open(f"{path}-wal"), os.path.exists(f"{path}-shm")
        try:
            pages = committed_pages(wal, path) if wal is not None else None
            copy_bytes(source, target, 0, before.st_size, advance)
            if wal is not None and pages is not None:
                _add_committed(wal, pages, target)
        finally:
            if wal is not None:
                os.close(wal)
        after = os.fstat(source)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise written_without_lock(path)
        if not index and os.path.exists(f"{path}-shm"):
            raise SourceBusy(f"{path} was opened by its app while it was copied", "run the backup again")
        return EncryptedCopy(time.monotonic() - began, pages is not None)


def _add_committed(wal: int, pages: WalPages, target: int) -> None:
    with open(target, "wb", closefd=False) as stream:  # buffered: a raw write may be short on a full disk
        for number, at in sorted(pages.at.items()):
            stream.seek((number - 1) * pages.page_size)
            stream.write(os.pread(wal, pages.page_size, at))
        stream.truncate(pages.total * pages.page_size)


@contextmanager
def _locked(path: str) -> Iterator[int]:
    """Hold the locks during the block; yields the descriptor of the database."""
    source = os.open(path, os.O_RDONLY)
    try:
        hold_shared_lock(source, path)
        index = _open(f"{path}-shm")
        try:
            if index is not None:
                _lock_checkpoints(index, path)
            yield source
        finally:
            if index is not None:
                os.close(index)
    finally:
        os.close(source)


def _lock_checkpoints(index: int, path: str) -> None:
    try:
        for byte in (_CHECKPOINT_BYTE, _READER_BYTE):
            fcntl.lockf(index, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        raise SourceBusy(f"{path} is being checkpointed by its app", "run the backup again") from error


def _refuse_hot_journal(path: str) -> None:
    """Refuse a database with a journal that no writer has locked: its app died, and only the key can roll back."""
    journal = _open(f"{path}-journal")
    if journal is None:
        return
    try:
        hot = os.pread(journal, len(_JOURNAL_MAGIC), 0) == _JOURNAL_MAGIC
    finally:
        os.close(journal)
    if hot:
        raise SourceEncrypted(
            f"{path} is encrypted and has a hot journal: its app died in a transaction, which only its key can "
            "roll back",
            "start the app, which rolls it back",
        )


def _open(path: str) -> int | None:
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY)
    return None
