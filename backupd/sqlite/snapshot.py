"""Take a consistent copy of a live database into a staging directory."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal

from backupd.errors import SnapshotFailed, WorkerHung
from backupd.model import SnapshotFacts
from backupd.sqlite.file_format import EMPTY_HEADER, HEADER_BYTES, has_checksums, parse_header, set_checksums
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import CopyRequest, SnapshotReply, SnapshotRequest, SnapshotSettings, now_ns
from backupd.sqlite.worker_process import WorkerProcess, deadline_for
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.worker_process import OnEvent, OnProgress

SNAPSHOT_NAME = "snapshot.sqlite3"
_JOURNAL = "journal"  # renamed later: SQLite would remove an empty file of the final name
_COMPACTED = "compacted.sqlite3"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GRACE_S = 3.0  # for the child to report the timeout itself: it knows the details


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy in staging, the facts of its header, its instant, and how long the app's writers had to wait."""

    file: HeldFile
    size_bytes: int
    page_size: int
    user_version: int
    application_id: int
    journal_mode: Literal["wal", "rollback"]
    sqlite_writer: str
    sqlite_copier: str
    filesystem: str
    hot_journal: bool
    writers_held_s: float
    since: datetime  # the database was what the copy is at one instant since then, and until
    until: datetime
    method: Literal["backup", "vacuum", "file"] = "backup"

    def facts(self, sha256: str) -> SnapshotFacts:
        """Return the facts that the manifest records, given the digest of the copy."""
        return SnapshotFacts(
            sha256=sha256,
            size_bytes=self.size_bytes,
            page_size=self.page_size,
            page_count=self.size_bytes // self.page_size,
            journal_mode=self.journal_mode,
            user_version=self.user_version,
            application_id=self.application_id,
            sqlite_writer=self.sqlite_writer,
            sqlite_copier=self.sqlite_copier,
            method=self.method,
        )


def take_snapshot(
    source: Source,
    settings: SnapshotSettings,
    staging: Directory,
    on_progress: OnProgress,
    on_event: OnEvent,
    deadline: float | None = None,
) -> Snapshot:
    """Copy `source` into the empty directory `staging`.

    The limit is `deadline` by the monotonic clock, by default `timeout_s` from now. A child that hangs in a system call
    is killed 3 s later. Raises SourceBusy, SourceReplaced (both temporary), SourceUnusable, NoSpace, SnapshotFailed,
    OSError.
    """
    deadline = time.monotonic() + settings.timeout_s if deadline is None else deadline
    copy, journal = HeldFile.create(staging, SNAPSHOT_NAME), HeldFile.create(staging, _JOURNAL)
    files = (copy.descriptor, journal.descriptor)
    request = snapshot_request(source, settings, deadline, copy, journal)
    with timeout_errors(source, settings):
        with WorkerProcess[SnapshotReply]("snapshot", request, staging.fixed_path, deadline + GRACE_S, files) as worker:
            reply = worker.result(on_progress, on_event)
        if reply["hot"]:
            journal.move(staging, f"{SNAPSHOT_NAME}-journal")
            _do({"verb": "recover", "path": SNAPSHOT_NAME, "held": copy.descriptor}, deadline + GRACE_S, copy)
        else:
            staging.unlink(_JOURNAL)
    return snapshot_of(copy, reply)


def probe_source(source: Source, settings: SnapshotSettings, directory: Path) -> SnapshotReply:
    """Open and pin `source` as a backup does, but copy nothing; `directory` is the child's working directory.

    Raises what `take_snapshot` raises.
    """
    deadline = time.monotonic() + settings.timeout_s
    request = snapshot_request(source, settings, deadline)
    with (
        timeout_errors(source, settings),
        WorkerProcess[SnapshotReply]("snapshot", request, directory, deadline + GRACE_S) as worker,
    ):
        return worker.result()


def compact_snapshot(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot rewritten by VACUUM into a new file; the old one is removed.

    The copy is vacuumed, never the source, and only after it was verified: VACUUM hides corruption. Raises NoSpace,
    and SnapshotFailed when the schema needs functions of the app.
    """
    old = snapshot.file
    new = HeldFile.create(old.directory, _COMPACTED)
    request = CopyRequest(
        verb="compact", path=old.name, held=old.descriptor, target=new.name, target_held=new.descriptor
    )
    _do(request, deadline_for(snapshot.size_bytes), old, new)
    if has_checksums(old.descriptor):
        set_checksums(new.descriptor, first_only=False)
    old.directory.unlink(old.name)
    return replace(snapshot, file=new, size_bytes=new.size_bytes, method="vacuum")


def snapshot_request(
    source: Source,
    settings: SnapshotSettings,
    deadline: float,
    copy: HeldFile | None = None,
    journal: HeldFile | None = None,
) -> SnapshotRequest:
    """Return the request to copy `source` into the empty file `copy`, and its hot journal into `journal`."""
    return SnapshotRequest(
        path=str(source.path),
        device=source.signature.database.device,
        inode=source.signature.database.inode,
        uid=source.uid,
        gid=source.gid,
        unmapped=source.unmapped,
        empty=source.empty,
        target=copy.name if copy else "",
        held=copy.descriptor if copy else None,
        journal=journal.descriptor if journal else None,
        deadline=deadline,
        settings=settings._asdict(),
    )


def _do(request: CopyRequest, deadline: float, *files: HeldFile) -> None:
    directory, descriptors = files[0].directory.fixed_path, [file.descriptor for file in files]
    with WorkerProcess[None]("copy_tasks", request, directory, deadline, descriptors) as worker:
        worker.result()


@contextmanager
def timeout_errors(source: Source, settings: SnapshotSettings) -> Iterator[None]:
    """Say which source a worker did not copy in time. Raises SnapshotFailed."""
    try:
        yield
    except WorkerHung as hung:
        message = f"{source.path} was not copied within {settings.timeout_s:.0f} s: {hung.message}"
        raise SnapshotFailed(message, f"{hung.hint}; if they are slow, raise timeout_s") from hung


@cache
def _boot_ns() -> int:
    """Return when `now_ns` was 0: the same in all of a run, so that its instants are right relative to each other."""
    return time.time_ns() - now_ns()


def between(instant: tuple[int, int]) -> tuple[datetime, datetime]:
    """Return two times of the workers' clock (see `now_ns`) as times of the day, rounded away from each other."""
    begin, end = (_boot_ns() + one for one in instant)
    return _EPOCH + timedelta(microseconds=begin // 1000), _EPOCH + timedelta(microseconds=-(-end // 1000))


def snapshot_of(copy: HeldFile, reply: SnapshotReply) -> Snapshot:
    """Return the copy that a worker has made. Raises SnapshotFailed where it is not whole."""
    size_bytes = copy.size_bytes
    encrypted = EMPTY_HEADER._replace(page_size=reply["page_size"])
    header = (
        encrypted if reply["encrypted"] else parse_header(os.pread(copy.descriptor, HEADER_BYTES, 0)) or EMPTY_HEADER
    )
    if size_bytes % header.page_size:
        raise SnapshotFailed(f"the copy has {size_bytes} bytes, not whole pages of {header.page_size}", "try again")
    since, until = between(reply["instant"])
    return Snapshot(
        file=copy,
        size_bytes=size_bytes,
        page_size=header.page_size,
        user_version=header.user_version,
        application_id=header.application_id,
        journal_mode=reply["journal_mode"],
        sqlite_writer=reply["writer"],
        sqlite_copier=reply["copier"],
        filesystem=reply["filesystem"],
        hot_journal=reply["hot"],
        writers_held_s=reply["writers_held_s"],
        since=since,
        until=until,
        method="file" if reply["encrypted"] else "backup",
    )
