"""Take the restore of a point back, at all of its targets or at none."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from backupd.errors import GenerationMissing, TargetRefused
from backupd.model import POINT
from backupd.report import RestoreDetails
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import PointRestore, RecordedRestore, choose_undo, require_undoable, restore_history
from backupd.sqlite.source import real_path
from backupd.sqlite.target import restore_locks
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.database import InspectedUndo
from backupd.tasks.restore.files import FilesRestoreRequest, InspectedFilesUndo
from backupd.tasks.restore.files_left import KeptFiles, choose_files_undo, kept_files
from backupd.tasks.restore.in_place import without_elsewhere
from backupd.tasks.restore.part import InspectedPart
from backupd.tasks.restore.point import (
    AnyRestoreRequest,
    PointRestored,
    PointResult,
    locked_directories,
    locked_targets,
    recover_targets,
    replace_all,
    require_possible,
)
from backupd.tasks.restore.point_journal import new_run
from backupd.tasks.run import RestoreRun

Recorded = RecordedRestore | KeptFiles  # what a source has of the last restore


def plan_point_undo(
    requests: Sequence[AnyRestoreRequest], context: TaskContext, *, redo: bool
) -> tuple[AnyRestoreRequest, ...]:
    """Return the requests to take back the last restore of a point (with `redo`, the last undo of one), if any.

    A killed restore is recovered first, except in a dry run. Raises TargetRefused where that is not the last restore of
    each of its databases, LockHeld.
    """
    with without_elsewhere():
        if not requests[0].dry_run:
            directories = locked_directories(requests)
            with restore_locks(directories):
                recover_targets(requests, directories, context)
        last = {request.source: _last(request, redo=redo) for request in requests}
        together = choose_together(last)
        chosen = [request for request in requests if together is not None and request.source in together.sources]
        for request in chosen:
            if isinstance(entry := last[request.source], RecordedRestore):
                with DatabasePlace.open(real_path(request.path)) as place:
                    require_undoable(entry, place)
    undone = None if together is None else replace(together, run=new_run())
    return tuple(_undoing(request, last[request.source], undone) for request in chosen)


def plan_files_undo(request: FilesRestoreRequest, context: TaskContext, *, redo: bool) -> FilesRestoreRequest:
    """Return the request to take back the last restore of one set of files alone (with `redo`, its last undo).

    A killed restore is recovered first, except in a dry run. Raises GenerationMissing, TargetRefused, LockHeld.
    """
    if not request.dry_run:
        directories = locked_directories([request])
        with restore_locks(directories):
            recover_targets([request], directories, context)
    entry = choose_files_undo(kept_files(request.path), redo=redo)
    if entry.record.together is None:
        raise TargetRefused(
            f"there were no files in {request.path} before the restore of {entry.record.generation}",
            f"to have none, move them away; what that restore kept is {entry.path}",
        )
    return replace(
        request, takes_back=entry, together=PointRestore(entry.record.together.point, new_run(), (request.source,))
    )


def _undoing(request: AnyRestoreRequest, entry: Recorded | None, together: PointRestore | None) -> AnyRestoreRequest:
    if isinstance(request, FilesRestoreRequest):
        return replace(request, takes_back=entry if isinstance(entry, KeptFiles) else None, together=together)
    return replace(request, takes_back=entry if isinstance(entry, RecordedRestore) else None, together=together)


def choose_together(last: Mapping[str, Recorded | None]) -> PointRestore | None:
    """Return which restore of a point the next undo takes back, by the `last` one of each source; None for none.

    Raises TargetRefused where one of its sources was restored or taken back since, or is not configured.
    """
    entries = [entry for entry in last.values() if entry is not None and entry.record.together is not None]
    restores = [entry for entry in entries if entry.record.kind != "undo"]
    newest = max(restores or entries, key=lambda entry: entry.restored_at, default=None)
    together = None if newest is None else newest.record.together
    if newest is None or together is None:
        return None
    differing = [
        source
        for source in together.sources
        if (entry := last.get(source)) is None or entry.record.together != together
    ]
    if differing:
        still = [source for source in together.sources if source not in differing]
        raise TargetRefused(
            f"the {newest.record.kind} of {together.point} cannot be taken back as a whole: {', '.join(differing)} "
            "was restored or taken back since, or is not configured",
            f"take back the later one first (backupd restore --undo --source {differing[0]}), or one of the others "
            f"alone: {'; '.join(f'backupd restore --undo --source {source}' for source in still)}",
        )
    return together


def _last(request: AnyRestoreRequest, *, redo: bool) -> Recorded | None:
    """Return the restore that the next undo of this source alone would take back, if any."""
    if isinstance(request, FilesRestoreRequest):
        with suppress(GenerationMissing):
            return choose_files_undo(kept_files(request.path), redo=redo)
        return None
    with suppress(GenerationMissing, FileNotFoundError), DatabasePlace.open(real_path(request.path)) as place:
        return choose_undo(restore_history(place), redo=redo)
    return None


def _inspected(request: AnyRestoreRequest, run: RestoreRun, context: TaskContext) -> InspectedPart | None:
    if request.takes_back is None:
        return None
    if isinstance(request, FilesRestoreRequest):
        return InspectedFilesUndo.inspect(request, request.takes_back, run)
    return InspectedUndo.inspect(request, request.takes_back, run, context)


def undo_point(requests: Sequence[AnyRestoreRequest], context: TaskContext) -> PointRestored:
    """Take back what `plan_point_undo` has planned: all of it or nothing; errors are in the report."""
    together = requests[0].together
    assert together is not None  # noqa: S101 - it was planned

    def inspected(run: RestoreRun) -> list[InspectedPart]:
        return [part for request in requests if (part := _inspected(request, run, context)) is not None]

    if requests[0].dry_run:
        run = context.new_run("restore", POINT, RestoreDetails())
        with without_elsewhere():
            parts = inspected(run)
            require_possible(parts, stopped=requests[0].stopped)
            planned = tuple(part.planned() for part in parts)
        return run.report, PointResult(together.point, None, None, dry_run=True, parts=planned)
    result = None
    with (
        context.run("restore", POINT, RestoreDetails()) as run,
        without_elsewhere(),
        locked_targets(requests, run, context),
    ):
        run.details = RestoreDetails(generation=together.point)
        results = replace_all(inspected(run), together.point, run, context, stopped=requests[0].stopped)
        undo = requests[0].undo_command
        result = PointResult(together.point, None, None, dry_run=False, parts=results, undo=undo)
    return run.report, result and replace(result, notes=run.report.notes)
