"""Restore a generation in place of its app's database; and take restores back, the newest first (--undo, --redo).

    lock, recover -> refuse if in use -> replace (database.py)

An undo puts a database that was kept as a file back in the same way. The generation from before an online restore is
restored like any other: online while the app runs, else in place.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from backupd.errors import OR_ONLINE, STOP_THE_APP, GenerationMissing, LockHeld, TargetInUse, TargetRefused
from backupd.report import RestoreDetails
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import RecordedRestore, choose_undo, require_undoable, restore_history
from backupd.sqlite.source import real_path
from backupd.sqlite.target import ELSEWHERE, Target, restore_lock
from backupd.stores.contract import Archives
from backupd.tasks.choice import Choose
from backupd.tasks.context import TaskContext
from backupd.tasks.restore import Restored, RestoreRequest, RestoreResult
from backupd.tasks.restore.database import InspectedDatabase, InspectedUndo, PreparedDatabase, require_unused
from backupd.tasks.restore.recovery import database_exists, recover_restore
from backupd.tasks.run import RestoreRun

Inspected = TypeVar("Inspected", InspectedDatabase, InspectedUndo)


def restore_in_place(choose: Choose, request: RestoreRequest, store: Archives, context: TaskContext) -> Restored:
    """Restore a generation of `store` over the database of its source; errors are in the report.

    `choose` is called under the lock of the store: a run that just ended may have published and removed generations.
    Refused while a process has the database open. The old one is kept beside it as `….pre-restore-TIME`. The result is
    None after an error, and where with `if_missing` a database exists by now.
    """
    if request.dry_run:
        manifest, run = choose(), context.new_run("restore", request.source, RestoreDetails())
        run.warn_all(request.warnings)
        with offering_online(request, context):
            rehearsed = _unused(InspectedDatabase.inspect(manifest, request, store, run, context), request).planned()
        return run.report, rehearsed
    result = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        offering_online(request, context),
        _locked(request, run, context),
    ):
        if request.if_missing and database_exists(request.path, empty_is_data=request.empty_is_data):
            run.note(f"another process created {request.path}: it stays")
            return run.report, None
        manifest = choose()
        run.details = RestoreDetails(generation=manifest.id, snapshot_bytes=manifest.snapshot.size_bytes)
        inspected = _unused(InspectedDatabase.inspect(manifest, request, store, run, context), request)
        with inspected.prepared() as part:
            result = _put_in_place(part, request, run, context.clock())
    return run.report, result and replace(result, notes=run.report.notes)


@contextmanager
def _locked(request: RestoreRequest, run: RestoreRun, context: TaskContext) -> Iterator[None]:
    """Hold the locks of the store and the target, where a killed run or restore is recovered first."""
    wait_s = context.lock_timeout_s if request.if_missing else 0.0
    with context.exclusive_lock_if_writable("restore"), restore_lock(request.path, wait_s):
        context.recover()
        run.start()
        run.warn_all(request.warnings)
        recover_restore(request.path, context, stopped=request.stopped)
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
def offering_online(request: RestoreRequest, context: TaskContext) -> Iterator[None]:
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


def _unused(inspected: Inspected, request: RestoreRequest) -> Inspected:
    require_unused([inspected], stopped=request.stopped)
    return inspected


def _put_in_place(part: PreparedDatabase, request: RestoreRequest, run: RestoreRun, now: datetime) -> RestoreResult:
    """Make sure that no process has opened the old database since, and put the prepared one in its place."""
    with run.stage("swap"):
        target = part.settle()
        with target.lease(stopped=request.stopped) as lease:
            part.plan(now)
            part.commit(lease)
    return part.result()


def plan_undo(request: RestoreRequest, context: TaskContext, *, redo: bool) -> RestoreRequest:
    """Return the request to take the last restore back (with `redo`, the last undo).

    A killed restore is recovered first, except in a dry run. Raises GenerationMissing, TargetRefused, LockHeld.
    """
    with without_elsewhere():
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
    with without_elsewhere():
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
        run = context.new_run("restore", request.source, RestoreDetails())
        with without_elsewhere():
            planned = _unused(InspectedUndo.inspect(request, entry, run, context), request).planned()
        return run.report, planned
    result = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        without_elsewhere(),
        _locked(request, run, context),
        _unused(InspectedUndo.inspect(request, entry, run, context), request).prepared() as part,
    ):
        result = _put_in_place(part, request, run, context.clock())
    return run.report, result and replace(result, notes=run.report.notes)


@contextmanager
def without_elsewhere() -> Iterator[None]:
    """Remove the restore to another path from hints: an undo has no other target."""
    try:
        yield
    except TargetRefused as error:
        for joint in ("; or ", ", or ", ""):
            error.hint = error.hint.removesuffix(f"{joint}{ELSEWHERE}")
        raise
