"""Capture a source: copy it, then check, compress and digest the copy at the same time."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from backupd.archive.archive import Packed, digest_of, pack
from backupd.errors import (
    GenerationMissing,
    SnapshotFailed,
    SourceCorrupt,
    SourceMissing,
    SourceReplaced,
    SourceUnlocked,
    SourceUnreadable,
)
from backupd.model import Manifest
from backupd.sqlite.inspection import Inspection, checking
from backupd.sqlite.snapshot import Snapshot, compact_snapshot, take_snapshot
from backupd.sqlite.source import Source, same_content
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.resources import free_bytes, lower_priority, require_space, reserve_bytes, watching_space
from backupd.tasks.context import TaskContext
from backupd.tasks.events import SnapshotProgressed, SnapshotRetried
from backupd.tasks.requests import BackupRequest
from backupd.tasks.run import BackupRun
from backupd.tasks.verify import ArchiveCheck, digest_archive, record_verification

ARCHIVE_PART = "archive.part"
_COPY = "copy"
FILES_OF_A_BACKUP = 12  # and directories, at its peak: staging, copy, side files, archive, manifest, checksums, catalog
_MARGIN = 1.1
_UNKNOWN_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class PackedCopy:
    """The facts of an archive in staging, and the file itself."""

    facts: Packed
    file: HeldFile


@dataclass(frozen=True, slots=True)
class Capture:
    """A copy in staging and the result of its check."""

    source: Source
    taken_at: datetime  # when the copy began
    snapshot: Snapshot
    inspection: Inspection
    packed: PackedCopy | None = None  # None where the copy is corrupt or unchanged
    unchanged: bool = False  # the copy equals the last generation, digest for digest


@dataclass(frozen=True, slots=True)
class UnusableSource:
    """A source that is missing, too damaged to be copied, or that cannot be read."""

    error: SourceCorrupt | SourceUnreadable | SourceMissing


@contextmanager
def capturing(
    request: BackupRequest, last: Manifest | None, staging: Directory, run: BackupRun, context: TaskContext
) -> Iterator[Capture | UnusableSource]:
    """Copy and check the source, a second time when the first copy is corrupt or its file was replaced or changed.

    All copying ends within `timeout_s` from now: where there is no time for a second copy, the first one is the result.
    Its files are open during the block. Raises SourceBusy, SnapshotFailed, NoSpace and others that are
    not about the content of the source.
    """
    with ExitStack() as held:

        def empty_directory() -> Directory:
            held.close()
            staging.remove(_COPY)
            return held.enter_context(staging.make(_COPY, durable=False))

        capture: Capture | UnusableSource
        try:
            capture = _capture_twice_at_most(request, last, empty_directory, run, context)
        except (SourceCorrupt, SourceUnreadable, SourceMissing) as error:
            capture = UnusableSource(error)
        yield capture


def _capture_twice_at_most(
    request: BackupRequest,
    last: Manifest | None,
    empty_directory: Callable[[], Directory],
    run: BackupRun,
    context: TaskContext,
) -> Capture:
    give_up = time.monotonic() + request.settings.timeout_s
    try:
        capture = _attempt(request, last, empty_directory(), give_up, run, context)
        if capture.inspection.verdict.level != "corrupt" or not _has_time_for_another(give_up, run):
            return capture
        why = "the copy is corrupt"
    except (SourceReplaced, SourceCorrupt, SourceUnlocked) as error:
        if not _has_time_for_another(give_up, run):
            raise
        why = error.message
    run.emit(SnapshotRetried(request.source, f"{why}: copying {request.path} once more"))
    return _attempt(request, last, empty_directory(), give_up, run, context)


def _has_time_for_another(give_up: float, run: BackupRun) -> bool:
    """Return whether a copy that takes as long as the first one would end before `give_up`."""
    return time.monotonic() + run.report.stages.get("copy", 0.0) < give_up


def _attempt(
    request: BackupRequest,
    last: Manifest | None,
    directory: Directory,
    give_up: float,
    run: BackupRun,
    context: TaskContext,
) -> Capture:
    source = inspect_source(request)
    reserve = _check_space(request, source, last, context)
    taken_at = context.clock()
    snapshot = _copy(request, source, reserve, directory, give_up, run, context)
    if (
        last is not None
        and request.settings.method == "backup"
        and same_content(last.origin.signature, source.signature)
    ):
        with run.stage("digest"), snapshot.file.stream() as stream:
            equal = digest_of(stream) == last.snapshot.sha256
        if equal and _archive_is_sound(last, run, context):
            return Capture(source, taken_at, snapshot, Inspection(last.verdict, last.contents), unchanged=True)
    if request.settings.method == "vacuum":
        inspection = _check(request, snapshot, run)
        if inspection.verdict.level == "corrupt":
            return Capture(source, taken_at, snapshot, inspection)
        if inspection.verdict.level == "opaque":
            raise SnapshotFailed(f"{request.path} is encrypted: VACUUM cannot rewrite it", 'use method = "backup"')
        with run.stage("compact"):
            snapshot = compact_snapshot(snapshot)
    inspection, packed = _check_and_pack(request, snapshot, reserve, run, context)
    unchanged = (
        last is not None
        and packed.facts.snapshot_sha256 == last.snapshot.sha256
        and _archive_is_sound(last, run, context)
    )
    return Capture(source, taken_at, snapshot, inspection, packed, unchanged)


def _archive_is_sound(manifest: Manifest, run: BackupRun, context: TaskContext) -> bool:
    """Digest the archive of a local generation; one that cannot be read or is damaged degrades the run."""
    try:
        found = digest_archive(manifest, context.store)
    except GenerationMissing:
        found = ArchiveCheck(sound=False, damaged=True, detail="its archive is gone")
    if found.sound:
        return True
    if found.damaged:
        record_verification(manifest.id, context, sound=False, detail=found.detail)
    run.warn(f"{manifest.id}: {found.detail}; a new generation was made")
    return False


def inspect_source(request: BackupRequest) -> Source:
    """Inspect the database of `request`. Raises what `Source.inspect` does."""
    return Source.inspect(
        request.path, allow_empty=request.allow_empty, allow_links=request.allow_links, search=request.search
    )


def bytes_needed(source: Source, last: Manifest | None, copies: int) -> int:
    """Estimate what a backup will occupy at its peak: `copies` uncompressed ones and the archive."""
    snapshot = (source.size_bytes + source.wal_bytes) * _MARGIN
    ratio = last.archive.size_bytes / max(last.snapshot.size_bytes, 1) if last else _UNKNOWN_RATIO
    return int(snapshot * (copies + min(ratio, 1.0)))


def _check_space(request: BackupRequest, source: Source, last: Manifest | None, context: TaskContext) -> int:
    """Return what must stay free in the store. Raises NoSpace."""
    directory = context.store.directory
    reserve = reserve_bytes(directory, request.reserve_bytes)
    copies = 2 if request.settings.method == "vacuum" else 1
    needed, what = bytes_needed(source, last, copies), f"a backup of {request.source}"
    require_space(directory, needed, reserve, what, FILES_OF_A_BACKUP)
    return reserve


def _copy(
    request: BackupRequest,
    source: Source,
    reserve: int,
    into: Directory,
    give_up: float,
    run: BackupRun,
    context: TaskContext,
) -> Snapshot:
    if source.path.stat().st_dev != context.store.directory.stat().st_dev:
        # Only the pinned WAL can grow there. A disk that was low before must not prevent a backup.
        directory = source.path.parent
        reserve = min(reserve_bytes(directory, request.reserve_bytes), free_bytes(directory) // 2)
    settings = request.settings._replace(reserve_bytes=reserve)
    context.progress.stage("copy", source.size_bytes)

    def on_event(event: str, message: str) -> None:
        run.emit(SnapshotProgressed(event, message, request.source))

    def on_progress(done: int, _total: int) -> None:
        context.progress.advance(done)

    with run.stage("copy"):
        return take_snapshot(source, settings, into, on_progress, on_event, give_up)


def _check(request: BackupRequest, snapshot: Snapshot, run: BackupRun) -> Inspection:
    with checking(snapshot.file, snapshot.sqlite_writer, priority=request.packing.priority) as inspection:
        result = inspection()
    run.add_stage("check", result.verdict.duration_s)
    return result


def _check_and_pack(
    request: BackupRequest, snapshot: Snapshot, reserve: int, run: BackupRun, context: TaskContext
) -> tuple[Inspection, PackedCopy]:
    context.progress.stage("check and pack", snapshot.size_bytes)
    copy, archive = snapshot.file, HeldFile.create(snapshot.file.directory, ARCHIVE_PART)
    with copy.unwritable(), checking(copy, snapshot.sqlite_writer, priority=request.packing.priority) as inspection:
        with run.stage("pack"):
            packed = pack(
                copy.stream(),
                archive.stream(),
                level=request.packing.level,
                workers=request.packing.workers,
                advance=watching_space(context.store.directory, reserve, context.progress.advance),
                initializer=lambda: lower_priority(request.packing.priority),
            )
        with run.stage("wait for check"):
            result = inspection()
    run.add_stage("check", result.verdict.duration_s)
    return result, PackedCopy(packed, archive)
