"""Take restores back, the newest first: `--undo` goes back through them, `--redo` takes the last undo back.

An old database that was kept is put back in its place. The generation from before an online restore is restored like
any other one: online while the app runs, else in place. What lies there now is kept, or backed up, in its turn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from backupd.errors import TargetInUse, TargetRefused
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.history import RecordedRestore, choose_undo, require_undoable, restore_history
from backupd.sqlite.target import ELSEWHERE, Target
from backupd.sqlite.target_locks import restore_lock
from backupd.system.fs import collect_limits, fsync_directory
from backupd.system.owners import known_owner, owner_text
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.in_place import (
    InPlaceResult,
    RestoreRequest,
    TakenBack,
    put_in_place,
    require_newest,
    tell_restored,
)
from backupd.tasks.restore.recovery import heal_restore


def plan_undo(request: RestoreRequest, context: TaskContext, *, redo: bool) -> RestoreRequest:
    """Return the order to take the last restore back (with `redo`, the last undo), which says which one that is.

    What a killed restore left is put right first, but in a dry run. Raises GenerationMissing, TargetRefused, LockHeld.
    """
    with _without_elsewhere():
        if not request.dry_run:
            with restore_lock(request.path):
                heal_restore(request.path, context)
        target = Target.inspect(request.path)
        entry = choose_undo(restore_history(target.path), redo=redo)
        require_undoable(entry)
    return replace(request, takes_back=entry)


def app_runs(request: RestoreRequest) -> bool:
    """Tell whether a database is there and in use. Raises TargetInUse where only its side files are, TargetRefused."""
    with _without_elsewhere():
        target = Target.inspect(request.path)
        try:
            with target.lease(stopped=request.stopped):
                return False
        except TargetInUse:
            if target.old is None:
                raise
            return True


def put_kept_back(
    request: RestoreRequest, entry: RecordedRestore, context: TaskContext
) -> tuple[RunReport[RestoreDetails], InPlaceResult | None]:
    """Put the database that a restore kept back in place; what is there now is kept in its turn."""
    if request.dry_run:
        with _without_elsewhere(), collect_limits() as limits:
            planned, target, _ = _putting_back(request, entry)
            fsync_directory(target.path.parent)
        return context.new_run("restore", request.source, RestoreDetails()).report, replace(
            planned, notes=tuple(limits)
        )
    done = None
    with (
        context.run("restore", request.source, RestoreDetails()) as run,
        context.exclusive_lock_if_writable("restore"),
        restore_lock(request.path),
        _without_elsewhere(),
    ):
        context.recover()
        run.start()
        heal_restore(request.path, context)
        require_newest(request)
        done, target, kept = _putting_back(request, entry)
        settled = kept.checkpoint()  # so that all of it comes back in one rename, and not while a process reads it
        if settled and settled.journal_problem:
            way = "put back with its journal, which the app judges when it starts, rightly if it has not run since then"
            run.warn(f"{way}: {settled.journal_problem}")
        done = put_in_place(done, target, kept.path, request, context)
        tell_restored(f"put {kept.path.name} back in place of {target.path}", done, context)
    return run.report, done and replace(done, notes=run.report.notes)


def _putting_back(request: RestoreRequest, entry: RecordedRestore) -> tuple[InPlaceResult, Target, Target]:
    """Return what taking a restore in place back comes to, where, and the database that it kept."""
    target, kept = Target.inspect(request.path), Target.kept(entry.path)
    for each in (target, kept):
        with each.lease(stopped=request.stopped):
            pass
    state = kept.path.stat()
    done = InPlaceResult(
        source=request.source,
        generation=None,
        taken_at=None,
        target=str(target.path),
        snapshot_bytes=state.st_size,
        snapshot_sha256=None,
        owner=owner_text(*known_owner(kept.path, state)),
        mode=f"{state.st_mode & 0o7777:04o}",
        dry_run=request.dry_run,
        takes_back=TakenBack.of(entry),
    )
    return done, target, kept


@contextmanager
def _without_elsewhere() -> Iterator[None]:
    """Leave the restore to another path out of hints: nothing can be taken back there."""
    try:
        yield
    except TargetRefused as error:
        for joint in ("; or ", ", or ", ""):
            error.hint = error.hint.removesuffix(f"{joint}{ELSEWHERE}")
        raise
