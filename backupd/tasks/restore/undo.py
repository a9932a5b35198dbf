"""Take restores back, the newest first (`--undo`), and take the last undo back (`--redo`).

A database that was kept as a file is put back in its place. The generation from before an online restore is restored
like any other: online while the app runs, else in place. The current database is kept or backed up in either case.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from backupd.errors import TargetInUse, TargetRefused
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.history import RecordedRestore, choose_undo, require_undoable, restore_history
from backupd.sqlite.target import ELSEWHERE, Target, restore_lock
from backupd.system.fs import collect_limits, fsync_directory
from backupd.system.owners import known_owner, owner_text
from backupd.tasks.context import TaskContext
from backupd.tasks.restore import RestoreRequest, RestoreResult, Undone
from backupd.tasks.restore.in_place import log_restored, put_in_place, require_newest
from backupd.tasks.restore.recovery import recover_restore
from backupd.tasks.run import RestoreRun


def plan_undo(request: RestoreRequest, context: TaskContext, *, redo: bool) -> RestoreRequest:
    """Return the request to take the last restore back (with `redo`, the last undo).

    A killed restore is recovered first, except in a dry run. Raises GenerationMissing, TargetRefused, LockHeld.
    """
    with _without_elsewhere():
        if not request.dry_run:
            with restore_lock(request.path):
                recover_restore(request.path, context)
        target = Target.inspect(request.path)
        entry = choose_undo(restore_history(target.path), redo=redo)
        require_undoable(entry)
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


def undo_in_place(
    request: RestoreRequest, entry: RecordedRestore, context: TaskContext
) -> tuple[RunReport[RestoreDetails], RestoreResult | None]:
    """Put the database that a restore kept back in place; the current one is kept."""
    if request.dry_run:
        with _without_elsewhere(), collect_limits() as limits:
            planned, target, _ = _inspect(request, entry)
            fsync_directory(target.path.parent)
        report = context.new_run("restore", request.source, RestoreDetails()).report
        return report, replace(planned, notes=tuple(limits))
    result = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        context.exclusive_lock_if_writable("restore"),
        restore_lock(request.path),
        _without_elsewhere(),
    ):
        context.recover()
        run.start()
        recover_restore(request.path, context)
        require_newest(request)
        result = _put_back(request, entry, run, context)
    return run.report, result and replace(result, notes=run.report.notes)


def _put_back(request: RestoreRequest, entry: RecordedRestore, run: RestoreRun, context: TaskContext) -> RestoreResult:
    result, target, kept = _inspect(request, entry)
    settled = kept.checkpoint()  # so that one rename puts all of it back, and no process reads it during that
    if settled and settled.journal_problem:
        run.warn(
            "put back with its journal, which the app rolls back or deletes when it starts; that is correct if the app "
            f"has not run since the restore: {settled.journal_problem}"
        )
    result = put_in_place(result, target, kept.path, request, run, context)
    log_restored(f"put {kept.path.name} back in place of {target.path}", result, context)
    return result


def _inspect(request: RestoreRequest, entry: RecordedRestore) -> tuple[RestoreResult, Target, Target]:
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
