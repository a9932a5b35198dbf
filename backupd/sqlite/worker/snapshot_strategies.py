"""The strategies for copying a live database: one for WAL, one for a rollback journal.

The copy is pinned: `BEGIN` and a read hold one snapshot, else each commit of the app makes the copy start over
(sqlite.org/backup.html). `PRAGMA user_version` is the read that works even when the schema cannot be parsed.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import apsw

from backupd.errors import NoSpace, SnapshotFailed, SourceCorrupt
from backupd.sqlite.file_format import Header
from backupd.sqlite.worker.connection import result_code
from backupd.sqlite.worker.locks import refuse_lock_directory, written_without_lock
from backupd.sqlite.worker.protocol import ParentPipe
from backupd.system.mounts import filesystem_of, is_remote

PAGES_A_STEP = 1000
UNPINNED_STEP_BYTES = 16 << 20
UNPINNED_ATTEMPTS = 3
WAL_GROWTH_BYTES = 1 << 30
HOT_JOURNAL_RETRY_S = 0.25


class _Restarted(Exception):
    """The app wrote to the database between two unpinned steps too often, or without a lock."""


class HotJournal(Exception):
    """The app died in a transaction, and nobody has rolled it back yet."""


class Deadline:
    """The end of all patience (a monotonic time), and of patience with one lock of the app (`busy_timeout_s`)."""

    def __init__(self, overall: float, busy_timeout_s: float) -> None:
        self.overall = overall
        self.busy_timeout_s = busy_timeout_s
        self.waiting_since = 0.0

    def wait_for_lock(self, attempt: int) -> bool:
        """Busy handler: sleep 0.5 to 5 ms, for jitter gets through where a fixed rhythm starves."""
        now = time.monotonic()
        if attempt == 0:
            self.waiting_since = now
        if now >= min(self.overall, self.waiting_since + self.busy_timeout_s):
            return False
        time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311 - jitter, not a secret
        return True


class Copier:
    """One copy of one source."""

    def __init__(
        self, request: dict[str, Any], parent: ParentPipe, header: Header, target: apsw.Connection | None
    ) -> None:
        self.request, self.parent, self.header, self.target = request, parent, header, target
        self.path: str = request["path"]
        self.deadline = Deadline(request["give_up"], request["busy_timeout_s"])
        self.inode = os.stat(self.path).st_ino
        self.bytes_a_second = 200e6
        self.writers_held_s = 0.0
        # While we hold a lock on a rollback database, SQLite does not write to it. A remote file system may tell of an
        # earlier write at any time.
        self.is_quiet_when_locked = header.journal_mode != "wal" and not is_remote(filesystem_of(self.path))
        self.watches_lock_directory = header.journal_mode != "wal" and not os.path.exists(f"{self.path}.lock")
        self.wal_limit_bytes = size_of(f"{self.path}-wal") + max(WAL_GROWTH_BYTES, 2 * size_of(self.path))

    def open(self) -> apsw.Connection:
        """Open the source read-only; as a URI with every odd byte quoted, so that it names this file and no other."""
        uri = f"file:{quote(os.fsencode(self.path))}"
        source = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        source.set_busy_handler(self.deadline.wait_for_lock)
        return source

    def pin(self, source: apsw.Connection) -> None:
        """Hold one snapshot of the source from here on."""
        source.execute("BEGIN")
        source.execute("PRAGMA user_version").fetchall()

    def copy(self) -> None:
        """Copy the source by the strategy of its journal mode; without a target, only see whether it can be read."""
        source = self.open()
        try:
            if self.target is None:
                self.pin(source)
                self.require_not_truncated(source)
            elif self.header.journal_mode == "wal":
                self.copy_pinned(source)
            else:
                self.copy_rollback(source)
        except apsw.ReadOnlyError as error:
            if result_code(error) == apsw.SQLITE_READONLY_ROLLBACK:
                raise HotJournal from error
            raise
        finally:
            source.close()

    def copy_pinned(self, source: apsw.Connection) -> None:
        """Copy one pinned snapshot, about 1,000 pages a step and no sleeps: WAL writers never wait for it.

        Raises SourceUnlocked for a rollback database that somebody writes to all the same.
        """
        self.pin(source)
        began = time.monotonic()
        self.require_not_truncated(source)
        try:
            self.steps(source, PAGES_A_STEP, restarts_allowed=0)
        except _Restarted as error:
            raise written_without_lock(self.path) from error
        self.require_not_truncated(source)
        source.execute("COMMIT")
        if self.header.journal_mode != "wal":
            self.writers_held_s = time.monotonic() - began

    def copy_rollback(self, source: apsw.Connection) -> None:
        """Copy a rollback-journal database, whose writers wait for as long as we hold a lock.

        One of a single chunk of 16 MiB pinned. Others first unpinned, a chunk at a time; when the app commits into it
        too often, pinned if that holds the writers for no longer than the budget; else in a quiet moment; and at last
        pinned all the same.
        """
        self.verify_readable(source)
        if os.stat(self.path).st_size > UNPINNED_STEP_BYTES and self.try_unpinned(source, UNPINNED_ATTEMPTS):
            return
        estimate_s = os.stat(self.path).st_size / self.bytes_a_second
        if estimate_s > self.request["writer_budget_s"]:
            self.wait_for_quiet(estimate_s)
            if self.try_unpinned(source, 1):
                return
        self.copy_pinned(source)

    def try_unpinned(self, source: apsw.Connection, attempts: int) -> bool:
        """Copy with a lock held for one chunk at a time; False when the app committed into every attempt."""
        try:
            self.steps(source, UNPINNED_STEP_BYTES // self.header.page_size, restarts_allowed=attempts - 1)
        except _Restarted:
            return False
        self.verify_readable(source)
        return True

    def verify_readable(self, source: apsw.Connection) -> None:
        """Hold the source for a moment, to see that it can be read and is all there."""
        self.pin(source)
        self.require_not_truncated(source)
        source.execute("COMMIT")

    def require_not_truncated(self, source: apsw.Connection) -> None:
        """Refuse a source that lost its end, before and after it was copied. Raises SourceCorrupt."""
        if not self.request["empty"]:
            require_not_truncated(source, self.path, self.inode, self.header.page_size)

    def steps(self, source: apsw.Connection, pages: int, restarts_allowed: int) -> None:
        """Step the backup to its end; `_Restarted` when the app wrote into it more often than allowed.

        SQLite itself starts over when it finds another change counter as a step begins; what was written without a lock
        it does not see.
        """
        assert self.target is not None  # noqa: S101 - for the type checker: only a probe has no target
        began, before, copied = time.monotonic(), 1 << 62, 0
        at_first = at_step = self.change_marks()
        with self.target.backup("main", source, "main") as backup:
            while not backup.step(pages):
                if backup.remaining >= before:
                    at_first = at_step
                    restarts_allowed -= 1
                    if restarts_allowed < 0:
                        self.measure_speed(copied, began)
                        raise _Restarted
                before = backup.remaining
                copied += pages
                done = backup.page_count - backup.remaining
                self.advance(done * self.header.page_size, backup.page_count * self.header.page_size)
                at_step = self.change_marks()
        if self.change_marks() not in (at_first, ()):
            self.measure_speed(copied, began)
            raise _Restarted

    def change_marks(self) -> tuple[int, ...]:
        """Return what each write changes; nothing where that tells nothing, or the file was replaced by another one."""
        state = os.stat(self.path)
        is_known = self.is_quiet_when_locked and state.st_ino == self.inode
        return (state.st_size, state.st_mtime_ns) if is_known else ()

    def measure_speed(self, pages: int, began: float) -> None:
        """Learn the speed of the copy, to tell how long a pinned one would hold the writers."""
        elapsed = max(time.monotonic() - began, 0.001)
        self.bytes_a_second = max(pages * self.header.page_size / elapsed, 1e6)

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """Tell the parent how far we are, and `check`."""
        self.parent.progress(done_bytes, total_bytes)
        self.check()

    def check(self) -> None:
        """Give up when time is up, or the app's disk would suffer. Raises SnapshotFailed, NoSpace, SourceUnlocked."""
        if self.watches_lock_directory:
            refuse_lock_directory(self.path)
        if time.monotonic() > self.deadline.overall:
            raise SnapshotFailed(
                f"{self.path} was not copied within {self.request['timeout_s']:.0f} s", "raise timeout_s"
            )
        disk = os.statvfs(os.path.dirname(self.path))
        if disk.f_bavail * disk.f_frsize < self.request["reserve_bytes"]:
            raise NoSpace("the app's file system ran low while copying", "free space, or move backups_dir")
        wal_bytes = size_of(f"{self.path}-wal")
        if wal_bytes > self.wal_limit_bytes:
            raise SnapshotFailed(
                f"{self.path}-wal grew to {wal_bytes >> 20} MiB while the snapshot was pinned",
                "back up at a quieter hour, or to a faster disk",
            )

    def wait_for_quiet(self, quiet_s: float) -> None:
        """Wait until the database was left alone for `quiet_s`, at most for `quiet_wait_s`, and `check`."""
        self.parent.event("snapshot.waiting", f"{self.path}: writers are busy, waiting for {quiet_s:.1f} s of quiet")
        give_up = min(time.monotonic() + self.request["quiet_wait_s"], self.deadline.overall)
        state, since = os.stat(self.path).st_mtime_ns, time.monotonic()
        while time.monotonic() < give_up and time.monotonic() - since < quiet_s:
            time.sleep(0.02)
            now = os.stat(self.path).st_mtime_ns
            if now != state:
                state, since = now, time.monotonic()
        self.check()

    def wait_for_rollback(self) -> bool:
        """Give a restarting app time to roll its journal back and copy then; False when nobody does."""
        give_up = min(time.monotonic() + self.request["hot_journal_wait_s"], self.deadline.overall)
        self.parent.event("snapshot.waiting", f"{self.path} has a hot journal: waiting for its app to roll it back")
        while time.monotonic() < give_up:
            time.sleep(HOT_JOURNAL_RETRY_S)
            try:
                self.copy()
            except HotJournal:
                continue
            return True
        return False


def size_of(path: str) -> int:
    """Return the size of `path` in bytes, 0 when there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# The page of the lock bytes is never written (https://sqlite.org/fileformat2.html#the_lock_byte_page).
_PENDING_BYTE = 0x40000000
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


def require_not_truncated(source: apsw.Connection, path: str, inode: int, page_size: int) -> None:
    """Refuse the database at `path`, pinned by `source`, when pages of it are in neither the file nor its WAL.

    Raises SourceCorrupt. The database file itself is only looked at by `stat`; one that is no longer `inode` was
    replaced, which is for others to say.
    """
    pages, state = _page_count(source), os.stat(path)
    size_bytes = state.st_size
    if pages * page_size <= size_bytes or state.st_ino != inode:
        return
    lacking = set(range(size_bytes // page_size + 1, pages + 1)) - {_PENDING_BYTE // page_size + 1}
    lacking -= set(_pages_in_wal(f"{path}-wal", page_size))
    if lacking:
        raise SourceCorrupt(
            f"{path} is cut off: it has {size_bytes} bytes, and {len(lacking)} of its {pages} pages are not all there",
            "restore the last good generation (backupd list); what is left can be read with sqlite3 .recover",
        )


def _page_count(source: apsw.Connection) -> int:
    """Ask for the size of the snapshot in a way that needs no schema that can be parsed."""
    with (
        closing(apsw.Connection(":memory:")) as nowhere,
        closing(nowhere.backup("main", source, "main")) as backup,
    ):
        backup.step(0)
        return int(backup.page_count)


def _pages_in_wal(path: str, page_size: int) -> Iterator[int]:
    """Yield the numbers of the pages that valid frames hold (https://sqlite.org/fileformat2.html#walformat)."""
    try:
        wal = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        salt = os.pread(wal, _WAL_HEADER_BYTES, 0)[16:24]
        at = _WAL_HEADER_BYTES
        while len(frame := os.pread(wal, _FRAME_HEADER_BYTES, at)) == _FRAME_HEADER_BYTES and frame[8:16] == salt:
            yield int.from_bytes(frame[:4], "big")
            at += _FRAME_HEADER_BYTES + page_size
    finally:
        os.close(wal)
