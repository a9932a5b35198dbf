"""Replace one database: what a restore of it alone, of a point, and an undo of either have in common.

    inspect -> unpack beside it, verify, ownership -> checkpoint the old database -> lease -> swap

Until the swap nothing is changed but what the app itself would do when it starts; the old database is kept.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from backupd.errors import RestoreFailed, TargetInUse, TargetRefused
from backupd.model import Manifest
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.file_format import set_journal_mode
from backupd.sqlite.history import (
    PointRestore,
    RecordedRestore,
    RestoreRecord,
    kept_files,
    new_part_name,
    recorded_names,
)
from backupd.sqlite.permissions import Permissions, permission_warning
from backupd.sqlite.swap import SwapJournal, plan_swap, remove_part, swap, sweep_parts
from backupd.sqlite.target import FileLease, Target, apply_ownership, lease_all
from backupd.sqlite.worker.protocol import CheckpointResult
from backupd.stores.contract import Archives
from backupd.system.fs import collect_limits, fsync_directory
from backupd.system.held_file import HeldFile
from backupd.system.owners import known_owner, owner_text
from backupd.system.resources import require_space
from backupd.tasks.context import TaskContext
from backupd.tasks.events import GenerationRestored
from backupd.tasks.prune import pin_if_possible
from backupd.tasks.requests import PinRequest
from backupd.tasks.restore import RESTORED_FROM, RestoreRequest, RestoreResult, Undone
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.restore.part import InspectedPart
from backupd.tasks.restore.point_journal import PartPlace
from backupd.tasks.restore.recovery import database_exists, filled_side_files
from backupd.tasks.run import RestoreRun
from backupd.tasks.verify import marking_damage


@dataclass(frozen=True, slots=True)
class InspectedDatabase:
    """The database of `request` may be replaced by the generation of `manifest` in `store`."""

    manifest: Manifest
    request: RestoreRequest
    store: Archives
    run: RestoreRun
    context: TaskContext
    target: Target

    @classmethod
    def inspect(
        cls, manifest: Manifest, request: RestoreRequest, store: Archives, run: RestoreRun, context: TaskContext
    ) -> "InspectedDatabase":
        """Check the target before hours are spent on fetching; then `require_unused`. Raises TargetRefused, NoSpace."""
        target = Target.inspect(request.path)
        inspected = cls(manifest, request, store, run, context, target)
        require_space(inspected.directory, inspected.needed_bytes, 0, f"restoring {manifest.id}")
        target.try_ownership(manifest.origin)
        return inspected

    @property
    def used(self) -> tuple[Target, ...]:
        """What no process may have open."""
        return (self.target,)

    @property
    def source(self) -> str:
        """The source that is restored."""
        return self.request.source

    @property
    def directory(self) -> Path:
        """Where the space is needed."""
        return self.target.path.parent

    @property
    def needed_bytes(self) -> int:
        """The size of the database, and that of a WAL that a checkpoint may write into the old one."""
        return self.manifest.snapshot.size_bytes + self.target.bytes_in_use

    @property
    def needed_files(self) -> int:
        """One."""
        return 1

    @property
    def replaces(self) -> bool:
        """Whether a database is there."""
        return self.target.old is not None

    def joined(self, together: PointRestore) -> "InspectedDatabase":
        """Return it as a part of the restore of a point."""
        return replace(self, request=replace(self.request, together=together))

    def planned(self) -> RestoreResult:
        """Return the result that the restore would have; owner and mode are tried on an unnamed file."""
        self._warn_of_directory()
        with collect_limits() as limits:
            owner, mode = self.target.try_ownership(self.manifest.origin)
        planned = planned_result(self.manifest, self.request, self.target)
        return replace(planned, owner=owner, mode=mode, notes=tuple(limits))

    @contextmanager
    def prepared(self) -> Iterator["PreparedDatabase"]:
        """Unpack and verify beside the target, for the block. Raises CopyCorrupt, NoSpace, TargetRefused, OSError."""
        manifest, request, run = self.manifest, self.request, self.run
        with _opened(request, self.target) as place:
            sweep_parts(place)  # the restore lock is held: no other restore uses them
            new = HeldFile.create(place.directory, new_part_name(place.name))
            try:
                with marking_damage(manifest, self.store, self.context), run.stage("unpack"):
                    extract_verified(manifest, self.store, new, request.workers, self.context)
                set_journal_mode(new.descriptor, manifest.snapshot.journal_mode)
                owner, mode = apply_ownership(new, place, self.target, manifest.origin)
                planned = planned_result(manifest, request, self.target)
                yield PreparedDatabase(
                    replace(planned, owner=owner, mode=mode),
                    f"restored {manifest.id} in place of {self.target.path}",
                    place,
                    new,
                    request,
                    run,
                    self.context,
                )
            finally:
                remove_part(place, new.name)
        self._warn_of_directory()

    def _warn_of_directory(self) -> None:
        """Warn where the app could not write beside its database, which did not exist before."""
        if self.replaces or os.geteuid() != 0:  # a user other than root owns the new file, and may write there
            return
        rights = self.request.directory or Permissions.of(self.directory)
        if warning := permission_warning(self.directory, rights, self.manifest.origin):
            self.run.warn(warning)


@dataclass(frozen=True, slots=True)
class InspectedUndo:
    """The database that the restore `entry` kept may be put back in place of that of `request`."""

    request: RestoreRequest
    entry: RecordedRestore
    run: RestoreRun
    context: TaskContext
    target: Target
    kept: Target
    size_bytes: int
    owner: str
    mode: str

    @classmethod
    def inspect(
        cls, request: RestoreRequest, entry: RecordedRestore, run: RestoreRun, context: TaskContext
    ) -> "InspectedUndo":
        """Check the target and the database that was kept; then `require_unused`. Raises TargetRefused."""
        target, kept = Target.inspect(request.path), Target.kept(entry.path)
        state = kept.path.stat()
        owner, mode = owner_text(*known_owner(kept.path, state)), f"{state.st_mode & 0o7777:04o}"
        return cls(request, entry, run, context, target, kept, state.st_size, owner, mode)

    @property
    def used(self) -> tuple[Target, ...]:
        """What no process may have open."""
        return (self.target, self.kept)

    @property
    def source(self) -> str:
        """The source that is restored."""
        return self.request.source

    @property
    def directory(self) -> Path:
        """Where the space is needed."""
        return self.target.path.parent

    @property
    def needed_bytes(self) -> int:
        """What checkpoints of the two databases may have to write."""
        return self.target.bytes_in_use + self.kept.bytes_in_use

    @property
    def needed_files(self) -> int:
        """None."""
        return 0

    @property
    def replaces(self) -> bool:
        """Whether a database is there."""
        return self.target.old is not None

    def planned(self) -> RestoreResult:
        """Return the result that the undo would have."""
        with collect_limits() as limits:
            fsync_directory(self.directory)
        return replace(self._result(), notes=tuple(limits))

    @contextmanager
    def prepared(self) -> Iterator["PreparedDatabase"]:
        """Open the database that was kept, for the block. Raises TargetInUse, TargetRefused, NoSpace, OSError."""
        settled = self.kept.checkpoint()  # so that one rename puts all of it back, and no process reads it during that
        if settled and settled.journal_problem:
            self.run.warn(
                "put back with its journal, which the app rolls back or deletes when it starts; that is correct if the "
                f"app has not run since the restore: {settled.journal_problem}"
            )
        with _opened(self.request, self.target) as place:
            held = HeldFile.open(place.directory, self.kept.path.name)
            what = f"put {held.name} back in place of {self.target.path}"
            yield PreparedDatabase(self._result(), what, place, held, self.request, self.run, self.context)

    def _result(self) -> RestoreResult:
        return RestoreResult(
            source=self.request.source,
            generation=None,
            taken_at=None,
            target=str(self.target.path),
            snapshot_bytes=self.size_bytes,
            snapshot_sha256=None,
            owner=self.owner,
            mode=self.mode,
            dry_run=self.request.dry_run,
            takes_back=Undone.of(self.entry),
        )


def require_unused(parts: Iterable[InspectedPart], *, stopped: bool) -> None:
    """Require that no process has any of the databases of `parts` open; no lease covers a set of files.

    Call it last, so that a dry run reports the other obstacles while the app runs. Raises TargetInUse, TargetRefused.
    """
    databases = [part for part in parts if isinstance(part, InspectedDatabase | InspectedUndo)]
    with lease_all([target for part in databases for target in part.used], stopped=stopped):
        pass


class PreparedDatabase:
    """The database `new`, verified and durable beside the one at `place`, which it is to replace.

    `planned` is the result as far as it is known before, `what` the message for the log.
    """

    def __init__(
        self,
        planned: RestoreResult,
        what: str,
        place: DatabasePlace,
        new: HeldFile,
        request: RestoreRequest,
        run: RestoreRun,
        context: TaskContext,
    ) -> None:
        self._result, self._what = planned, what
        self._place, self._new = place, new
        self._request, self._run, self._context = request, run, context
        self._orphans: list[Path] = []
        self._old = CheckpointResult("")

    @property
    def place(self) -> PartPlace:
        """Where its copy of the journal of a point belongs."""
        return PartPlace("database", str(self._place.path), os.fstat(self._place.directory.descriptor).st_ino)

    def settle(self) -> Target:
        """Checkpoint the old database, and return what has to be leased: no process may have opened it since.

        Raises TargetInUse, TargetRefused, NoSpace.
        """
        if self._result.generation is not None:
            pin_if_possible(self._result.generation, PinRequest(RESTORED_FROM), self._run, self._context)
        self._target = Target.inspect(self._place.path)  # again: an app that started since may have created a database
        path = self._target.path
        if self._request.if_missing and database_exists(path, empty_is_data=self._request.empty_is_data):
            raise TargetInUse(f"another process created {path}: it stays", "run it again")
        self._old = self._target.checkpoint() or self._old
        self._orphans = [] if self._target.old else filled_side_files(path)
        return self._target

    def plan(self, now: datetime) -> SwapJournal:
        """Return the swap, once the lease is held. Raises TargetRefused, OSError."""
        self._swap = plan_swap(self._place, self._new, now, self._request.takes_back)
        return self._swap

    def commit(self, lease: FileLease | None) -> None:
        """Swap the two databases, entirely or not at all. Raises TargetInUse, RestoreFailed, OSError."""
        if lease is None:
            raise RestoreFailed(f"{self._place.path} is not leased", "report this with backup.log")
        journal = self._swap
        if self._request.together is not None:  # the record goes when the swaps of all parts are done
            journal = replace(journal, takes_back=None)
        kept = swap(self._place, self._new, lease, journal, self._record())
        self._new.close()  # an undo has to find out whether anybody has it open
        if kept is not None:
            self._result = replace(
                self._result,
                kept=str(kept),
                old_damage=self._old.damage,
                old_undecided=self._old.journal_problem,
                undo=self._request.undo_command,
            )

    def result(self) -> RestoreResult:
        """Return what was done, after logging it."""
        name = self._target.path.name
        for orphan in self._orphans:
            kept = kept_files(self._place)[-1].path.name + orphan.name.removeprefix(name)
            self._run.note(f"{name} was missing, and {orphan.name} existed: kept as {orphan.with_name(kept)}")
        log_restored(self._what, self._result, self._context)
        return self._result

    def _record(self) -> RestoreRecord | None:
        """Return the record of the restore for an undo; None where neither a database nor an earlier restore was there.

        In the restore of a point that replaced another database there is always one.
        """
        request, together = self._request, self._request.together
        generation = request.subject(self._result.generation)
        if self._target.old is not None:
            return RestoreRecord(request.kind, generation, "file", together=together)
        if request.takes_back is None and (together is not None or recorded_names(self._place)):
            return RestoreRecord("restore", generation, "nothing", together=together)
        return None


@contextmanager
def _opened(request: RestoreRequest, target: Target) -> Iterator[DatabasePlace]:
    """Open where the database of `request` is, which was inspected as `target`. Raises TargetRefused."""
    with DatabasePlace.open(request.path) as place:
        if place.path != target.path:
            raise TargetRefused(
                f"{request.path} led to {target.path}, and leads to {place.path} now",
                "find out which process changes the links on that path, and configure the path of their target",
            )
        yield place


def planned_result(
    manifest: Manifest, request: RestoreRequest, target: Target, undo: str | None = None
) -> RestoreResult:
    """Return the result of restoring `manifest` to `target`, as far as it is known before."""
    origin = target.old or manifest.origin
    return RestoreResult(
        source=request.source,
        generation=manifest.id,
        taken_at=manifest.taken_at,
        target=str(target.path),
        snapshot_bytes=manifest.snapshot.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        owner=owner_text(origin.uid, origin.gid),
        mode=f"{origin.mode & 0o777:04o}",
        dry_run=request.dry_run,
        level=manifest.verdict.level,
        undo=undo,
        directory=str(request.directory) if request.directory else None,
        takes_back=Undone.of(request.takes_back) if request.takes_back else None,
    )


def log_restored(what: str, result: RestoreResult, context: TaskContext) -> None:
    """Log a restore, with what is needed to take it back."""
    kept = f"; the old database is {result.kept}" if result.kept else ""
    undecided = f", kept with its journal: {result.old_undecided}" if result.old_undecided else ""
    told = f"{what}{kept}{undecided}"
    event = GenerationRestored(told, result.generation, result.target, result.snapshot_sha256, result.kept, result.undo)
    context.emit(event)
