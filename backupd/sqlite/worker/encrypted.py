"""Copy an encrypted database byte for byte, with what is committed in its WAL.

SQLite's backup API would write its own counters into what it takes for a plain header, and so destroy the first page.
So this process holds the locks itself that keep an app from writing to the file: SHARED on the database, which a commit
of a rollback journal waits for, and in WAL mode those of the checkpoint and of one reader, for which only a checkpoint
waits.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from backupd.errors import SourceBusy, SourceCorrupt, SourceEncrypted
from backupd.sqlite.file_format import PAGE_SIZES, WAL_HEADER_BYTES, checksum, wal_frames
from backupd.sqlite.worker.hot_journal import JOURNAL_MAGIC, copy_bytes
from backupd.sqlite.worker.locks import hold_shared_lock, written_without_lock
from backupd.sqlite.worker.protocol import now_ns
from backupd.sqlite.worker.source_file import RESTORE_HINT, Identity, opened_source
from backupd.system.small_file import opened_file

_WAL_MAGIC = 0x377F0682  # its lowest bit is the byte order of the checksums
# https://sqlite.org/walformat.html#wal_locks: 120 is WRITE, 121 is CHECKPOINT, from 123 on there are READ 0 to 4.
_CHECKPOINT_BYTE, _READER_BYTE = 121, 124

Advance = Callable[[int, int], None]
# Waits a moment for a lock, given the number of attempts; False when the time is up.
WaitForLock = Callable[[int], bool]


class EncryptedCopy(NamedTuple):
    """For how long the copy held the writers, whether the WAL had committed pages, and of which instant it is."""

    held_s: float
    wal: bool
    instant: tuple[int, int]


def copy_encrypted(
    path: str, identity: Identity, target: int, advance: Advance, wait_for_lock: WaitForLock
) -> EncryptedCopy:
    """Copy the encrypted database at `path` with what is committed in its WAL to the descriptor `target`.

    Raises SourceBusy, SourceEncrypted if only its app can recover it, SourceUnlocked, NoSpace. The caller has no
    connection to `path` open: closing a descriptor here would drop its locks.
    """
    attempt = 0
    while True:
        try:
            return _copy(path, identity, target, advance)
        except SourceBusy:
            if not wait_for_lock(attempt):
                raise
            attempt += 1


def _copy(path: str, identity: Identity, target: int, advance: Advance) -> EncryptedCopy:
    with ExitStack() as stack:
        source = stack.enter_context(opened_source(path, identity))
        hold_shared_lock(source, path)
        shared_memory = _open_existing(f"{path}-shm", stack)
        if shared_memory is not None:
            _lock_checkpoints(shared_memory, path)
        began = time.monotonic()
        _refuse_hot_journal(path)
        before = os.fstat(source)
        wal = _open_existing(f"{path}-wal", stack)
        shared_memory_exists = os.path.exists(f"{path}-shm")
        read_at = now_ns()
        pages = None if wal is None else committed_pages(wal, path)
        instant = (read_at, now_ns())
        copy_bytes(source, target, 0, before.st_size, advance)
        if wal is not None and pages is not None:
            if pages.total * pages.page_size > before.st_size + os.fstat(wal).st_size:
                raise SourceCorrupt(f"{path}-wal claims more pages than the two files have", RESTORE_HINT)
            _add_committed(wal, pages, target)
        after = os.fstat(source)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise written_without_lock(path)
        if not shared_memory_exists and os.path.exists(f"{path}-shm"):
            raise SourceBusy(f"{path} was opened by its app while it was copied", "run the backup again")
        return EncryptedCopy(time.monotonic() - began, pages is not None, instant)


def _open_existing(path: str, stack: ExitStack) -> int | None:
    with suppress(FileNotFoundError):
        return stack.enter_context(opened_file(path))
    return None


def _lock_checkpoints(shared_memory: int, path: str) -> None:
    try:
        for byte in (_CHECKPOINT_BYTE, _READER_BYTE):
            fcntl.lockf(shared_memory, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        raise SourceBusy(f"{path} is being checkpointed by its app", "run the backup again") from error


def _refuse_hot_journal(path: str) -> None:
    """Refuse a database with a journal that no writer has locked: its app died, and only the key can roll back."""
    with suppress(FileNotFoundError), opened_file(f"{path}-journal") as journal:
        if os.pread(journal, len(JOURNAL_MAGIC), 0) == JOURNAL_MAGIC:
            raise SourceEncrypted(
                f"{path} is encrypted and has a hot journal: its app died in a transaction, which only its key can "
                "roll back",
                "start the app, which rolls it back",
            )


class WalPages(NamedTuple):
    """The offset in the WAL of the newest committed version of each page, and the number of pages of the database."""

    page_size: int
    total: int
    at: dict[int, int]


def committed_pages(wal: int, path: str) -> WalPages | None:
    """Return the committed pages in the WAL of `path` that is open as `wal`; None without any.

    Raises SourceEncrypted if there are frames whose checksums can only be verified with the key.
    """
    header = os.pread(wal, WAL_HEADER_BYTES, 0)
    if len(header) < WAL_HEADER_BYTES:
        return None
    magic, _version, page_size = struct.unpack_from(">III", header)
    order = ">" if magic & 1 else "<"
    sums = checksum(order, header[:24])
    if magic & ~1 != _WAL_MAGIC or page_size not in PAGE_SIZES or sums != struct.unpack_from(">II", header, 24):
        return None
    committed: dict[int, int] = {}
    pending: dict[int, int] = {}
    total, frame = 0, None
    for frame in wal_frames(wal, page_size):
        content = os.pread(wal, page_size, frame.at)
        if len(content) < page_size:
            break
        sums = checksum(order, content, checksum(order, frame.header[:8], sums))
        if sums != struct.unpack_from(">II", frame.header, 16):
            break
        pending[frame.page] = frame.at
        if frame.total:  # the last frame of a transaction
            committed |= pending
            pending, total = {}, frame.total
    if total:
        return WalPages(page_size, total, {page: at for page, at in committed.items() if page <= total})
    if not pending and frame is not None:
        raise SourceEncrypted(
            f"{path}-wal is encrypted in a way that hides which of its transactions are complete",
            "back up while the app is stopped, or configure a rollback journal (PRAGMA journal_mode=DELETE)",
        )
    return None


def _add_committed(wal: int, pages: WalPages, target: int) -> None:
    with open(target, "wb", closefd=False) as stream:  # buffered: a raw write may be short on a full disk
        for number, at in sorted(pages.at.items()):
            stream.seek((number - 1) * pages.page_size)
            stream.write(os.pread(wal, pages.page_size, at))
        stream.truncate(pages.total * pages.page_size)
