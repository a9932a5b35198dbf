"""The strategies for copying a live database: one for WAL, one for a rollback journal.

The copy is pinned: `BEGIN` and a read hold one snapshot, else each commit of the app makes the copy start over
(sqlite.org/backup.html). `PRAGMA user_version` is the read that works even when the schema cannot be parsed.
"""

import os
import random
import time
from collections.abc import Callable
from contextlib import closing, suppress

import apsw

from backupd.errors import NoSpace, SnapshotFailed, SourceCorrupt
from backupd.sqlite.file_format import Header, wal_frames
from backupd.sqlite.worker.connection import empty_database, open_database, result_code
from backupd.sqlite.worker.locks import refuse_lock_directory, written_without_lock
from backupd.sqlite.worker.protocol import SnapshotRequest, SnapshotSettings, now_ns
from backupd.sqlite.worker.source_file import RESTORE_HINT, Identity, require_opened
from backupd.system.mounts import filesystem_of, is_remote
from backupd.system.small_file import opened_file
from backupd.system.worker import ParentPipe

PAGES_A_STEP = 1000
UNPINNED_STEP_BYTES = 16 << 20
UNPINNED_ATTEMPTS = 3
WAL_GROWTH_BYTES = 1 << 30
HOT_JOURNAL_RETRY_S = 0.25


class _Restarted(Exception):
    """The app wrote to the database between two steps too often, or without a lock."""


class HotJournal(Exception):
    """The app died in a transaction, which has not been rolled back."""


class Copier:
    """One copy of one source."""

    def __init__(
        self,
        request: SnapshotRequest,
        parent: ParentPipe,
        header: Header,
        target: apsw.Connection | None,
        on_advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.request, self.parent, self.header, self.target = request, parent, header, target
        self.on_advance = on_advance
        self.settings = SnapshotSettings(**request["settings"])
        self.path: str = request["path"]
        self.waiting_since = 0.0
        self.deadline = request["deadline"]
        self.identity = (request["device"], request["inode"])
        self.bytes_a_second = 200e6
        self.writers_held_s = 0.0
        self.instant = (0, 0)  # between which the database was what the copy is
        self.pinned_at, self.pinned_marks = 0.0, tuple[int, ...]()
        # While a lock is held on a rollback database, SQLite does not write to it. A remote file system may report an
        # earlier write at any time.
        self.is_quiet_when_locked = header.journal_mode != "wal" and not is_remote(filesystem_of(self.path))
        self.watches_lock_directory = header.journal_mode != "wal" and not os.path.exists(f"{self.path}.lock")
        self.wal_limit_bytes = size_of(f"{self.path}-wal") + max(WAL_GROWTH_BYTES, 2 * size_of(self.path))

    def wait_for_lock(self, attempt: int) -> bool:
        """Busy handler: sleep 0.5 to 5 ms; with a fixed interval, a busy writer could always be first."""
        now = time.monotonic()
        if attempt == 0:
            self.waiting_since = now
        if now >= min(self.deadline, self.waiting_since + self.settings.busy_timeout_s):
            return False
        time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311 - jitter, not a secret
        return True

    def pin(self, source: apsw.Connection) -> None:
        """Hold one snapshot of the source from now on. Raises apsw.BusyError, after which it can be tried again."""
        if not source.in_transaction:
            source.execute("BEGIN")
        began = now_ns()
        source.execute("PRAGMA user_version").fetchall()
        self.instant = (began, now_ns())
        self.pinned_at, self.pinned_marks = time.monotonic(), self.change_marks()

    def copy(self) -> None:
        """Copy the source by the strategy of its journal mode; without a target, only check that it can be read."""
        source = open_database(self.path, apsw.SQLITE_OPEN_READONLY)
        source.set_busy_handler(self.wait_for_lock)
        try:
            require_opened(self.path, self.identity)
            if self.target is None:
                self.pin(source)
                self.require_not_truncated(source)
            elif self.header.journal_mode == "wal":
                self.pin(source)
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
        """Copy the pinned snapshot, about 1,000 pages a step and no sleeps: WAL writers never wait for it.

        Raises SourceUnlocked for a rollback database that is written to nevertheless.
        """
        self.require_not_truncated(source)
        if self.change_marks() not in (self.pinned_marks, ()):
            raise written_without_lock(self.path)
        try:
            self.step_to_end(source, PAGES_A_STEP, restarts_allowed=0)
        except _Restarted as error:
            raise written_without_lock(self.path) from error
        self.require_not_truncated(source)
        source.execute("COMMIT")
        if self.header.journal_mode != "wal":
            self.writers_held_s = time.monotonic() - self.pinned_at

    def copy_rollback(self, source: apsw.Connection) -> None:
        """Copy a rollback-journal database, whose writers wait while a lock is held.

        One of a single chunk of 16 MiB is copied pinned. Others are first copied unpinned, a chunk at a time; when the
        app commits too often during that, pinned if this holds the writers no longer than the budget; else when the app
        writes nothing for a while; and finally pinned in any case.
        """
        self.verify_readable(source)
        if os.stat(self.path).st_size > UNPINNED_STEP_BYTES and self.try_unpinned(source, UNPINNED_ATTEMPTS):
            return
        estimate_s = os.stat(self.path).st_size / self.bytes_a_second
        if estimate_s > self.settings.writer_budget_s:
            self.wait_for_quiet(estimate_s)
            if self.try_unpinned(source, 1):
                return
        self.pin(source)
        self.copy_pinned(source)

    def try_unpinned(self, source: apsw.Connection, attempts: int) -> bool:
        """Copy with a lock held for one chunk at a time; False when the app committed into every attempt."""
        try:
            ended = self.step_to_end(
                source, UNPINNED_STEP_BYTES // self.header.page_size, restarts_allowed=attempts - 1
            )
        except _Restarted:
            return False
        self.verify_readable(source)
        self.instant = ended
        return True

    def verify_readable(self, source: apsw.Connection) -> None:
        """Lock the source for a moment, to check that it can be read and is not truncated."""
        self.pin(source)
        self.require_not_truncated(source)
        source.execute("COMMIT")

    def require_not_truncated(self, source: apsw.Connection) -> None:
        """Refuse a truncated source, before and after the copy. Raises SourceCorrupt."""
        if not self.request["empty"]:
            require_not_truncated(source, self.path, self.identity, self.header.page_size)

    def step_to_end(self, source: apsw.Connection, pages: int, restarts_allowed: int) -> tuple[int, int]:
        """Step the backup to its end, and return when its last step began and ended, which read the source as it was.

        Raises `_Restarted` when the app wrote to the source more often than allowed.

        SQLite itself starts over when a step finds another change counter; it does not notice writes without a lock.
        """
        assert self.target is not None  # noqa: S101 - for the type checker: only a probe has no target
        began, remaining, copied = time.monotonic(), 1 << 62, 0
        at_first = at_step = self.change_marks()
        with self.target.backup("main", source, "main") as backup:
            stepped_at = now_ns()
            while not backup.step(pages):
                if backup.remaining >= remaining:
                    at_first = at_step
                    restarts_allowed -= 1
                    if restarts_allowed < 0:
                        self.measure_speed(copied, began)
                        raise _Restarted
                remaining = backup.remaining
                copied += pages
                done = backup.page_count - backup.remaining
                self.advance(done * self.header.page_size, backup.page_count * self.header.page_size)
                at_step = self.change_marks()
                stepped_at = now_ns()
            ended = (stepped_at, now_ns())
        if self.change_marks() not in (at_first, ()):
            self.measure_speed(copied, began)
            raise _Restarted
        return ended

    def change_marks(self) -> tuple[int, ...]:
        """Return size and mtime, which each write changes; nothing if they are unreliable, or the file was replaced."""
        state = os.stat(self.path)
        is_known = self.is_quiet_when_locked and (state.st_dev, state.st_ino) == self.identity
        return (state.st_size, state.st_mtime_ns) if is_known else ()

    def measure_speed(self, pages: int, began: float) -> None:
        """Measure the speed of the copy, to estimate how long a pinned one would hold the writers."""
        elapsed = max(time.monotonic() - began, 0.001)
        self.bytes_a_second = max(pages * self.header.page_size / elapsed, 1e6)

    def advance(self, done_bytes: int, total_bytes: int) -> None:
        """Report progress to the parent, and check the limits."""
        self.parent.progress(done_bytes, total_bytes)
        self.on_advance()
        self.check_limits()

    def check_limits(self) -> None:
        """Check time, lock directory, disk and WAL. Raises SnapshotFailed, NoSpace, SourceUnlocked."""
        if self.watches_lock_directory:
            refuse_lock_directory(self.path)
        if time.monotonic() > self.deadline:
            raise SnapshotFailed(
                f"{self.path} was not copied within {self.settings.timeout_s:.0f} s", "raise timeout_s"
            )
        self.check_growth()

    def check_growth(self) -> None:
        """Check disk and WAL, which grow for as long as a snapshot is pinned. Raises SnapshotFailed, NoSpace."""
        disk = os.statvfs(os.path.dirname(self.path))
        if disk.f_bavail * disk.f_frsize < self.settings.reserve_bytes:
            raise NoSpace("the app's file system nearly filled up during the copy", "free space, or move backups_dir")
        wal_bytes = size_of(f"{self.path}-wal")
        if wal_bytes > self.wal_limit_bytes:
            raise SnapshotFailed(
                f"{self.path}-wal grew to {wal_bytes >> 20} MiB while the snapshot was pinned",
                "back up when the app writes less, or to a faster disk",
            )

    def wait_for_quiet(self, quiet_s: float) -> None:
        """Wait until the database is unchanged for `quiet_s`, at most for `quiet_wait_s`."""
        self.parent.event(
            "snapshot.waiting", f"{self.path}: writers are busy, waiting for {quiet_s:.1f} s without a write"
        )
        deadline = min(time.monotonic() + self.settings.quiet_wait_s, self.deadline)
        state, since = os.stat(self.path).st_mtime_ns, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < quiet_s:
            time.sleep(0.02)
            now = os.stat(self.path).st_mtime_ns
            if now != state:
                state, since = now, time.monotonic()
        self.check_limits()

    def wait_for_rollback(self) -> bool:
        """Give a restarting app time to roll its journal back, then copy; False when that does not happen."""
        deadline = min(time.monotonic() + self.settings.hot_journal_wait_s, self.deadline)
        self.parent.event("snapshot.waiting", f"{self.path} has a hot journal: waiting for its app to roll it back")
        while time.monotonic() < deadline:
            time.sleep(HOT_JOURNAL_RETRY_S)
            try:
                self.copy()
            except HotJournal:
                continue
            return True
        return False


def size_of(path: str) -> int:
    """Return the size of `path` in bytes, 0 if it does not exist."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# The page of the lock bytes is never written (https://sqlite.org/fileformat2.html#the_lock_byte_page).
_PENDING_BYTE = 0x40000000
_MOST_PAGES = 0xFFFFFFFF


def require_not_truncated(source: apsw.Connection, path: str, identity: Identity, page_size: int) -> None:
    """Refuse the database at `path`, pinned by `source`, if pages are missing both in the file and in its WAL.

    SQLite reads zeros beyond the end of a truncated file, which may pass every check. Raises SourceCorrupt. A file that
    is not the source was replaced, which the caller detects.
    """
    pages, state = _page_count(source), os.stat(path)
    size_bytes = state.st_size
    if pages * page_size <= size_bytes or (state.st_dev, state.st_ino) != identity:
        return
    if missing := _missing_pages(path, size_bytes // page_size + 1, pages, page_size):
        raise SourceCorrupt(
            f"{path} is truncated: it has {size_bytes} bytes, and {missing} of its {pages} pages are not complete",
            f"{RESTORE_HINT}; sqlite3 .recover can read what is left",
        )


def _missing_pages(path: str, first: int, last: int, page_size: int) -> int:
    """Return how many of the pages from `first` to `last` are not in the WAL, which may claim any number of them."""
    never_written = _PENDING_BYTE // page_size + 1
    missing = last - first + 1 - (first <= never_written <= last)
    with suppress(FileNotFoundError), opened_file(f"{path}-wal") as wal:
        if missing * page_size > os.fstat(wal).st_size:
            return missing
        is_there = bytearray(last - first + 1)
        for frame in wal_frames(wal, page_size):
            if first <= frame.page <= last and frame.page != never_written and not is_there[frame.page - first]:
                is_there[frame.page - first] = 1
                missing -= 1
    return missing


def _page_count(source: apsw.Connection) -> int:
    """Return the number of pages of the snapshot, without parsing its schema."""
    with (
        closing(empty_database()) as nowhere,
        closing(nowhere.backup("main", source, "main")) as backup,
    ):
        backup.step(0)
        return int(backup.page_count) & _MOST_PAGES  # SQLite returns a signed number
