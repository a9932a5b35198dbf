"""Copy databases into staging: each alone, or several that were pinned together before the first is copied."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, TypeVar

from backupd.errors import BackupdError
from backupd.model import Manifest
from backupd.sqlite.pinned import Pinnable, PinnedSource, pinned_together
from backupd.sqlite.snapshot import SNAPSHOT_NAME, Snapshot, take_snapshot
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.system.directory import Directory
from backupd.system.resources import free_bytes, require_space, reserve_bytes
from backupd.system.worker_process import OnEvent, OnProgress
from backupd.tasks.context import TaskContext
from backupd.tasks.events import SnapshotProgressed
from backupd.tasks.requests import BackupRequest
from backupd.tasks.run import BackupRun

FILES_OF_A_BACKUP: Final = 12  # and directories, at its peak: staging, copy, archive, manifest, checksums, catalog
_PINNED: Final = "pinned"
_MARGIN: Final = 1.1
_UNKNOWN_RATIO: Final = 0.5

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy in staging, and its source as it was just before."""

    source: Source
    taken_at: datetime
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class SourceToCopy:
    """A source of a run: its request, its last verified generation, and the run that reports it."""

    request: BackupRequest
    last: Manifest | None
    run: BackupRun


@dataclass(frozen=True, slots=True)
class PinnedCopy:
    """A source that was pinned together with others, and its copy as soon as there is one."""

    of: SourceToCopy
    source: Source
    taken_at: datetime
    pin: PinnedSource
    _made: "Future[Snapshot | None]" = field(default_factory=Future)

    def make(self, context: TaskContext) -> Snapshot | None:
        """Copy it, once: called again, this returns or raises the same. See `PinnedSource.copy`."""
        if not self._made.done():
            try:
                self._made.set_result(self._make(context))
            except (BackupdError, OSError) as error:
                self._made.set_exception(error)
        return self._made.result()

    def hand_over(self, to: Directory, context: TaskContext) -> Copied | None:
        """Return the copy, which is in the directory `to` then; None where it has to be copied alone."""
        snapshot = self.make(context)
        if snapshot is None:
            self.of.run.note(f"{self.of.request.path} was copied after the others: its pin was given up")
            return None
        return Copied(self.source, self.taken_at, replace(snapshot, file=snapshot.file.hand_over(to, SNAPSHOT_NAME)))

    def _make(self, context: TaskContext) -> Snapshot | None:
        request, run = self.of.request, self.of.run
        check_space(request, self.source, self.of.last, context)
        give_up = time.monotonic() + request.settings.timeout_s
        return _timed(
            self.source, run, context, lambda on_progress, on_event: self.pin.copy(give_up, on_progress, on_event)
        )


@contextmanager
def pinned_copies(
    sources: Sequence[SourceToCopy],
    staging: Directory,
    context: TaskContext,
    around_pins: Callable[[], None] | None = None,
) -> Iterator[Mapping[str, PinnedCopy]]:
    """Pin the sources together for the block, and copy those first whose writers wait; yields the pinned ones by name.

    What cannot be pinned, for whatever reason, is copied alone; so is a single source, unless something is to be done
    `around_pins`: see `pinned_together`.
    """
    taken_at, wanted = context.clock(), [_pinnable(one, context) for one in sources]
    fewest = 2 if around_pins is None else 1
    if sum(one is not None for one in wanted) < fewest:
        yield {}
        return
    with (
        staging.make(_PINNED, durable=False) as directory,
        pinned_together(wanted, directory, fewest, around_pins) as pins,
    ):
        copies = {
            one.request.source: PinnedCopy(one, pinnable.source, taken_at, pin)
            for one, pinnable, pin in zip(sources, wanted, pins, strict=True)
            if pinnable is not None and pin is not None
        }
        held = [copy for copy in copies.values() if copy.pin.holds_writers]
        for copy in sorted(held, key=lambda copy: copy.source.size_bytes):
            with suppress(BackupdError, OSError):  # raised again when its turn comes
                copy.make(context)
        yield copies


def copy_alone(one: SourceToCopy, to: Directory, give_up: float, context: TaskContext) -> Copied:
    """Copy a source into the empty directory `to`, until `give_up` by the monotonic clock.

    Raises SourceMissing, NoSpace, and what `take_snapshot` raises.
    """
    source = inspect_source(one.request)
    check_space(one.request, source, one.last, context)
    taken_at, settings = context.clock(), _settings(one.request, source, context)
    snapshot = _timed(
        source,
        one.run,
        context,
        lambda on_progress, on_event: take_snapshot(source, settings, to, on_progress, on_event, give_up),
    )
    return Copied(source, taken_at, snapshot)


def bytes_needed(source: Source, last: Manifest | None, copies: int) -> int:
    """Estimate what a backup will occupy at its peak: `copies` uncompressed ones and the archive."""
    snapshot = (source.size_bytes + source.wal_bytes) * _MARGIN
    ratio = last.archive.size_bytes / max(last.snapshot.size_bytes, 1) if last else _UNKNOWN_RATIO
    return int(snapshot * (copies + min(ratio, 1.0)))


def check_space(request: BackupRequest, source: Source, last: Manifest | None, context: TaskContext) -> None:
    """Raise NoSpace where there is too little of it in the store for a backup."""
    directory = context.store.directory
    copies = 2 if request.settings.method == "vacuum" else 1
    needed, what = bytes_needed(source, last, copies), f"a backup of {request.source}"
    require_space(directory, needed, reserve_bytes(directory, request.reserve_bytes), what, FILES_OF_A_BACKUP)


def inspect_source(request: BackupRequest) -> Source:
    """Inspect the database of `request`. Raises what `Source.inspect` does."""
    return Source.inspect(
        request.path, allow_empty=request.allow_empty, allow_links=request.allow_links, search=request.search
    )


def _pinnable(one: SourceToCopy, context: TaskContext) -> Pinnable | None:
    """Inspect a source; None for one that cannot be copied, which is reported when its turn comes."""
    with suppress(BackupdError, OSError):
        source = inspect_source(one.request)
        return Pinnable(source, _settings(one.request, source, context))
    return None


def _settings(request: BackupRequest, source: Source, context: TaskContext) -> SnapshotSettings:
    """Return the settings with what has to stay free on the disk of the app: a pinned WAL can grow there.

    A disk that was low before must not prevent a backup.
    """
    reserve = reserve_bytes(context.store.directory, request.reserve_bytes)
    directory = source.path.parent
    if source.path.stat().st_dev != context.store.directory.stat().st_dev:
        reserve = min(reserve_bytes(directory, request.reserve_bytes), free_bytes(directory) // 2)
    return request.settings._replace(reserve_bytes=reserve)


def _timed(source: Source, run: BackupRun, context: TaskContext, copy: Callable[[OnProgress, OnEvent], S]) -> S:
    """Return what `copy` does, as the stage `copy` of the run, with its progress and events."""
    context.progress.stage("copy", source.size_bytes)

    def on_event(event: str, message: str) -> None:
        run.emit(SnapshotProgressed(event, message, run.report.subject))

    def on_progress(done: int, _total: int) -> None:
        context.progress.advance(done)

    with run.stage("copy"):
        return copy(on_progress, on_event)
