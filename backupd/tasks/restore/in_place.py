"""Restore a generation in place of its app's database; and take restores back, the newest first (--undo, --redo).

    lock, recover -> refuse if in use -> unpack beside it, verify -> checkpoint the old database -> lease -> swap

Until the swap nothing is changed but what the app itself would do when it starts; the old database is kept. An undo
puts a database that was kept as a file back in the same way. The generation from before an online restore is restored
like any other: online while the app runs, else in place.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from backupd.errors import OR_ONLINE, STOP_THE_APP, GenerationMissing, LockHeld, TargetInUse, TargetRefused
from backupd.model import Manifest
from backupd.report import RestoreDetails
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.file_format import set_journal_mode
from backupd.sqlite.history import (
    RecordedRestore,
    RestoreRecord,
    choose_undo,
    kept_files,
    new_part_name,
    recorded_names,
    require_undoable,
    restore_history,
)
from backupd.sqlite.permissions import Permissions, permission_warning
from backupd.sqlite.source import real_path
from backupd.sqlite.swap import remove_part, swap, sweep_parts
from backupd.sqlite.target import ELSEWHERE, Target, apply_ownership, restore_lock
from backupd.sqlite.worker.protocol import CheckpointResult
from backupd.stores.contract import Archives
from backupd.system.fs import collect_limits, fsync_directory
from backupd.system.held_file import HeldFile
from backupd.system.owners import known_owner, owner_text
from backupd.system.resources import require_space
from backupd.tasks.choice import Choose
from backupd.tasks.context import TaskContext
from backupd.tasks.events import GenerationRestored
from backupd.tasks.prune import pin_if_possible
from backupd.tasks.requests import PinRequest
from backupd.tasks.restore import RESTORED_FROM, Restored, RestoreRequest, RestoreResult, Undone
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.restore.recovery import database_exists, filled_side_files, recover_restore
from backupd.tasks.run import RestoreRun
from backupd.tasks.verify import marking_damage


def restore_in_place(choose: Choose, request: RestoreRequest, store: Archives, context: TaskContext) -> Restored:
    """Restore a generation of `store` over the database of its source; errors are in the report.

    `choose` is called under the lock of the store: a run that just ended may have published and removed generations.
    Refused while a process has the database open. The old one is kept beside it as `….pre-restore-TIME`. The result is
    None after an error, and where with `if_missing` a database exists by now.
    """
    if request.dry_run:
        manifest, run = choose(), context.new_run("restore", request.source, RestoreDetails())
        run.warn_all(request.warnings)
        with _offering_online(request, context):
            rehearsed = _rehearse(manifest, request, run)
        return run.report, rehearsed
    result = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        _offering_online(request, context),
        _locked(request, run, context),
    ):
        if request.if_missing and database_exists(request.path, empty_is_data=request.empty_is_data):
            run.note(f"another process created {request.path}: it stays")
            return run.report, None
        manifest = choose()
        run.details = RestoreDetails(generation=manifest.id, snapshot_bytes=manifest.snapshot.size_bytes)
        result = _replace(manifest, request, store, run, context)
    return run.report, result and replace(result, notes=run.report.notes)


@contextmanager
def _locked(request: RestoreRequest, run: RestoreRun, context: TaskContext) -> Iterator[None]:
    """Hold the locks of the store and the target, where a killed run or restore is recovered first."""
    wait_s = context.lock_timeout_s if request.if_missing else 0.0
    with context.exclusive_lock_if_writable("restore"), restore_lock(request.path, wait_s):
        context.recover()
        run.start()
        run.warn_all(request.warnings)
        recover_restore(request.path, context)
        require_newest(request)
        yield


def require_newest(request: RestoreRequest) -> None:
    """Raise LockHeld where `request` undoes a restore that is no longer the last one; call it under the lock."""
    entry = request.takes_back
    if entry is None:
        return
    with DatabasePlace.open(real_path(request.path)) as place:
        entries = restore_history(place)
    with suppress(GenerationMissing):
        if entry in (choose_undo(entries, redo=redo) for redo in (False, True)):
            return
    raise LockHeld(
        f"another restore to {request.path} has run since this undo was planned",
        "check what it did, then run this again",
    )


@contextmanager
def _offering_online(request: RestoreRequest, context: TaskContext) -> Iterator[None]:
    """Add --online to the hint for an app that is not stopped, where an online restore is possible."""
    try:
        yield
    except TargetInUse as error:
        possible = (
            Path(request.path).exists() and context.store.writable() and not (request.if_missing or request.takes_back)
        )
        if possible and error.hint == STOP_THE_APP:
            raise TargetInUse(error.message, f"{error.hint}{OR_ONLINE}") from error
        raise


def _rehearse(manifest: Manifest, request: RestoreRequest, run: RestoreRun) -> RestoreResult:
    """Return the result that the restore would have; owner and mode are tried on an unnamed file."""
    target = _inspect(manifest, request)
    _warn_of_directory(target, manifest, request, run)
    with collect_limits() as limits:
        owner, mode = target.try_ownership(manifest.origin)
    return replace(planned_result(manifest, request, target), owner=owner, mode=mode, notes=tuple(limits))


def _inspect(manifest: Manifest, request: RestoreRequest) -> Target:
    """Check the target before hours are spent on fetching. Raises TargetInUse, TargetRefused, NoSpace."""
    target = Target.inspect(request.path)
    needed = manifest.snapshot.size_bytes + target.bytes_in_use
    require_space(target.path.parent, needed, 0, f"restoring {manifest.id}")
    target.try_ownership(manifest.origin)
    with target.lease(stopped=request.stopped):  # last: a dry run reports the other obstacles while the app runs
        pass
    return target


def _replace(
    manifest: Manifest, request: RestoreRequest, store: Archives, run: RestoreRun, context: TaskContext
) -> RestoreResult:
    target = _inspect(manifest, request)
    with _opened(request, target) as place:
        sweep_parts(place)  # the restore lock is held: no other restore uses them
        new = HeldFile.create(place.directory, new_part_name(place.name))
        try:
            with marking_damage(manifest, store, context), run.stage("unpack"):
                extract_verified(manifest, store, new, request.workers, context)
            set_journal_mode(new.descriptor, manifest.snapshot.journal_mode)
            owner, mode = apply_ownership(new, place, target, manifest.origin)
            result = replace(planned_result(manifest, request, target), owner=owner, mode=mode)
            with run.stage("swap"):
                pin_if_possible(manifest.id, PinRequest(RESTORED_FROM), run, context)
                result = _put_in_place(result, place, new, request, run, context)
        finally:
            remove_part(place, new.name)
    _warn_of_directory(target, manifest, request, run)
    log_restored(f"restored {manifest.id} in place of {target.path}", result, context)
    return result


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


def _warn_of_directory(target: Target, manifest: Manifest, request: RestoreRequest, run: RestoreRun) -> None:
    """Warn where the app could not write beside its database, which did not exist before."""
    if target.old is not None or os.geteuid() != 0:  # a user other than root owns the new file, and may write there
        return
    rights = request.directory or Permissions.of(target.path.parent)
    if warning := permission_warning(target.path.parent, rights, manifest.origin):
        run.warn(warning)


def _put_in_place(
    result: RestoreResult,
    place: DatabasePlace,
    new: HeldFile,
    request: RestoreRequest,
    run: RestoreRun,
    context: TaskContext,
) -> RestoreResult:
    """Checkpoint the old database, make sure that no process has opened it since, and put `new` in its place."""
    target = Target.inspect(place.path)  # again: an app that has started since may have created a database
    if request.if_missing and database_exists(target.path, empty_is_data=request.empty_is_data):
        raise TargetInUse(f"another process created {target.path}: it stays", "run it again")
    old = target.checkpoint() or CheckpointResult("")
    orphans = [] if target.old else filled_side_files(target.path)
    with target.lease(stopped=request.stopped) as lease:
        record = _record(result, target, place, request)
        kept = swap(place, new, lease, context.clock(), record, request.takes_back)
    for orphan in orphans:
        name = kept_files(place)[-1].path.name + orphan.name.removeprefix(target.path.name)
        run.note(f"{target.path.name} was missing, and {orphan.name} existed: kept as {orphan.with_name(name)}")
    if kept is None:
        return result
    undecided, undo = old.journal_problem, request.undo_command
    return replace(result, kept=str(kept), old_damage=old.damage, old_undecided=undecided, undo=undo)


def _record(
    result: RestoreResult, target: Target, place: DatabasePlace, request: RestoreRequest
) -> RestoreRecord | None:
    """Return the record of the restore for an undo; None where neither a database nor an earlier restore was there."""
    if target.old is not None:
        return RestoreRecord(request.kind, request.subject(result.generation), "file")
    if request.takes_back is None and recorded_names(place):
        return RestoreRecord("restore", result.generation, "nothing")
    return None


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


def plan_undo(request: RestoreRequest, context: TaskContext, *, redo: bool) -> RestoreRequest:
    """Return the request to take the last restore back (with `redo`, the last undo).

    A killed restore is recovered first, except in a dry run. Raises GenerationMissing, TargetRefused, LockHeld.
    """
    with _without_elsewhere():
        if not request.dry_run:
            with restore_lock(request.path):
                recover_restore(request.path, context)
        target = Target.inspect(request.path)
        with DatabasePlace.open(target.path) as place:
            entry = choose_undo(restore_history(place), redo=redo)
            require_undoable(entry, place)
    return replace(request, takes_back=entry)


def is_in_use(request: RestoreRequest) -> bool:
    """Whether the database exists and is open. Raises TargetRefused; TargetInUse where only side files are open."""
    with _without_elsewhere():
        target = Target.inspect(request.path)
        try:
            with target.lease(stopped=request.stopped):
                return False
        except TargetInUse:
            if target.old is None:
                raise
            return True


def undo_in_place(request: RestoreRequest, entry: RecordedRestore, context: TaskContext) -> Restored:
    """Put the database that a restore kept back in place; the current one is kept."""
    if request.dry_run:
        with _without_elsewhere(), collect_limits() as limits:
            planned, target, _ = _inspect_kept(request, entry)
            fsync_directory(target.path.parent)
        report = context.new_run("restore", request.source, RestoreDetails()).report
        return report, replace(planned, notes=tuple(limits))
    result = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        _without_elsewhere(),
        _locked(request, run, context),
    ):
        result = _put_back(request, entry, run, context)
    return run.report, result and replace(result, notes=run.report.notes)


def _put_back(request: RestoreRequest, entry: RecordedRestore, run: RestoreRun, context: TaskContext) -> RestoreResult:
    result, target, kept = _inspect_kept(request, entry)
    settled = kept.checkpoint()  # so that one rename puts all of it back, and no process reads it during that
    if settled and settled.journal_problem:
        run.warn(
            "put back with its journal, which the app rolls back or deletes when it starts; that is correct if the app "
            f"has not run since the restore: {settled.journal_problem}"
        )
    with _opened(request, target) as place:
        held = HeldFile.open(place.directory, kept.path.name)
        result = _put_in_place(result, place, held, request, run, context)
    log_restored(f"put {kept.path.name} back in place of {target.path}", result, context)
    return result


def _inspect_kept(request: RestoreRequest, entry: RecordedRestore) -> tuple[RestoreResult, Target, Target]:
    """Return the planned result, the target, and the database that was kept; neither may be in use."""
    target, kept = Target.inspect(request.path), Target.kept(entry.path)
    for database in (target, kept):
        with database.lease(stopped=request.stopped):
            pass
    state = kept.path.stat()
    result = RestoreResult(
        source=request.source,
        generation=None,
        taken_at=None,
        target=str(target.path),
        snapshot_bytes=state.st_size,
        snapshot_sha256=None,
        owner=owner_text(*known_owner(kept.path, state)),
        mode=f"{state.st_mode & 0o7777:04o}",
        dry_run=request.dry_run,
        takes_back=Undone.of(entry),
    )
    return result, target, kept


@contextmanager
def _without_elsewhere() -> Iterator[None]:
    """Remove the restore to another path from hints: an undo has no other target."""
    try:
        yield
    except TargetRefused as error:
        for joint in ("; or ", ", or ", ""):
            error.hint = error.hint.removesuffix(f"{joint}{ELSEWHERE}")
        raise
