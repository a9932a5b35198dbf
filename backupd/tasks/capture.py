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
from backupd.sqlite.snapshot import Snapshot, compact_snapshot
from backupd.sqlite.source import Source, same_content
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.resources import lower_priority, reserve_bytes, watching_space
from backupd.tasks.context import TaskContext
from backupd.tasks.copying import Copied, PinnedCopy, SourceToCopy, copy_alone
from backupd.tasks.events import SnapshotRetried
from backupd.tasks.requests import BackupRequest
from backupd.tasks.run import BackupRun
from backupd.tasks.verify import ArchiveCheck, digest_archive, record_verification

ARCHIVE_PART = "archive.part"
_COPY = "copy"


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
    one: SourceToCopy, pinned: PinnedCopy | None, staging: Directory, context: TaskContext
) -> Iterator[Capture | UnusableSource]:
    """Copy and check the source, a second time when the first copy is corrupt or its file was replaced or changed.

    The first copy is the one that was `pinned` with others. All copying ends within `timeout_s` from now: where there
    is no time for a second copy, the first one is the result. Its files are open during the block. Raises
    SourceBusy, SnapshotFailed, NoSpace and others that are not about the content of the source.
    """
    with ExitStack() as held:

        def empty_directory() -> Directory:
            held.close()
            staging.remove(_COPY)
            return held.enter_context(staging.make(_COPY, durable=False))

        capture: Capture | UnusableSource
        try:
            capture = _capture_twice_at_most(one, pinned, empty_directory, context)
        except (SourceCorrupt, SourceUnreadable, SourceMissing) as error:
            capture = UnusableSource(error)
        yield capture


def _capture_twice_at_most(
    one: SourceToCopy, pinned: PinnedCopy | None, empty_directory: Callable[[], Directory], context: TaskContext
) -> Capture:
    give_up = time.monotonic() + one.request.settings.timeout_s
    try:
        directory = empty_directory()
        copied = pinned.hand_over(directory, context) if pinned else None
        capture = _capture(copied or copy_alone(one, directory, give_up, context), one, context)
        if capture.inspection.verdict.level != "corrupt" or not _has_time_for_another(give_up, one.run):
            return capture
        why = "the copy is corrupt"
    except (SourceReplaced, SourceCorrupt, SourceUnlocked) as error:
        if not _has_time_for_another(give_up, one.run):
            raise
        why = error.message
    one.run.emit(SnapshotRetried(one.request.source, f"{why}: copying {one.request.path} once more"))
    return _capture(copy_alone(one, empty_directory(), give_up, context), one, context)


def _has_time_for_another(give_up: float, run: BackupRun) -> bool:
    """Return whether a copy that takes as long as the first one would end before `give_up`."""
    return time.monotonic() + run.report.stages.get("copy", 0.0) < give_up


def _capture(copied: Copied, one: SourceToCopy, context: TaskContext) -> Capture:
    """Check, pack and digest a copy."""
    request, last, run = one.request, one.last, one.run
    source, taken_at, snapshot = copied.source, copied.taken_at, copied.snapshot
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
    inspection, packed = _check_and_pack(request, snapshot, run, context)
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


def _check(request: BackupRequest, snapshot: Snapshot, run: BackupRun) -> Inspection:
    with checking(snapshot.file, snapshot.sqlite_writer, priority=request.packing.priority) as inspection:
        result = inspection()
    run.add_stage("check", result.verdict.duration_s)
    return result


def _check_and_pack(
    request: BackupRequest, snapshot: Snapshot, run: BackupRun, context: TaskContext
) -> tuple[Inspection, PackedCopy]:
    context.progress.stage("check and pack", snapshot.size_bytes)
    reserve = reserve_bytes(context.store.directory, request.reserve_bytes)
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
