"""Restore the parts of a point: all of them or none.

    lock, recover -> inspect all -> space for all -> prepare all -> settle all -> lease all -> swap one after the other,
    sets of files before databases

A part that cannot be swapped undoes the ones before it. `point_undo` takes a restore back in the same way.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from backupd.errors import BackupdError, RestoreFailed, TargetInUse, TargetRefused, UsageError
from backupd.formatting import counted
from backupd.model import POINT, AnyManifest, FilesManifest, Manifest
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.history import PointRestore
from backupd.sqlite.source import real_path
from backupd.sqlite.target import Target, lease_all, restore_locks
from backupd.stores.contract import Archives
from backupd.system.directory import Directory
from backupd.system.resources import require_space
from backupd.system.signals import defer_signals
from backupd.tasks.context import TaskContext
from backupd.tasks.restore import RestoreRequest
from backupd.tasks.restore.database import InspectedDatabase, require_unused
from backupd.tasks.restore.files import FilesRestoreRequest, InspectedFiles
from backupd.tasks.restore.in_place import require_newest
from backupd.tasks.restore.part import InspectedPart, PartResult, PreparedPart
from backupd.tasks.restore.point_choice import ChoosePoint, ChosenPoint
from backupd.tasks.restore.point_journal import PointJournal, new_run, write_copy
from backupd.tasks.restore.point_recovery import conclude
from backupd.tasks.restore.recovery import database_exists, recover_files, recover_restore, restore_left
from backupd.tasks.run import RestoreRun


@dataclass(frozen=True, slots=True)
class PointResult:
    """What the restore of a point did, or in a dry run would do."""

    point: str
    taken_at: datetime | None  # None for an undo
    spread_ms: int | None
    dry_run: bool
    parts: tuple[PartResult, ...]
    undo: str | None = None  # the command that takes all of it back
    notes: tuple[str, ...] = ()  # what the file system cannot do

    @property
    def is_undo(self) -> bool:
        """Whether it took a restore back."""
        return self.taken_at is None


PointRestored = tuple[RunReport[RestoreDetails], PointResult | None]  # no result after an error


_MOST_NAMED: Final = 3
AnyRestoreRequest = RestoreRequest | FilesRestoreRequest


def restore_point(
    choose: ChoosePoint, requests: Sequence[AnyRestoreRequest], store: Archives, context: TaskContext
) -> PointRestored:
    """Restore the parts that `choose` returns over the databases and files of their sources; errors are in the report.

    All `requests` have the same options, and there is one for each source that may be chosen. `choose` is called under
    the lock of the store. The result is None after an error, and where with `if_missing` all databases exist by now.
    """
    of_source = {request.source: request for request in requests}

    def inspected(run: RestoreRun, chosen: ChosenPoint) -> list[InspectedPart]:
        for manifest in chosen.manifests:
            if manifest.source not in of_source:
                raise _unknown(manifest.source, chosen)
        found = [_inspected(manifest, of_source[manifest.source], store, run, context) for manifest in chosen.manifests]
        is_one_database = len(found) == 1 and isinstance(found[0], InspectedDatabase)
        if is_one_database or not any(part.replaces for part in found):  # nothing to take back together
            return [*found]
        changing = tuple(part.source for part in found if not _is_equal(part))
        together = PointRestore(chosen.point.id, new_run(), changing)
        return [part.joined(together) for part in found]

    if requests[0].dry_run:
        run, chosen = context.new_run("restore", POINT, RestoreDetails()), choose()
        run.warn_all(requests[0].warnings)
        parts = inspected(run, chosen)
        require_possible(parts, stopped=requests[0].stopped)
        return run.report, _result(chosen, tuple(part.planned() for part in parts), dry_run=True)
    result = None
    with context.run("restore", POINT, RestoreDetails()) as run, locked_targets(requests, run, context):
        if requests[0].if_missing and not missing_of(requests):
            run.note("another process created the databases: they stay")
            return run.report, None
        chosen = choose()
        run.details = RestoreDetails(
            generation=chosen.point.id, snapshot_bytes=sum(manifest.content_bytes for manifest in chosen.manifests)
        )
        parts = inspected(run, chosen)
        unchanged = {part.source for part in parts if _is_equal(part)}  # of these nothing has to be kept
        changing = [part for part in parts if part.source not in unchanged]
        replaced = replace_all(changing, chosen.point.id, run, context, stopped=requests[0].stopped) if changing else ()
        results = {part.source: part for part in replaced}
        all_parts = tuple(results.get(part.source) or part.planned() for part in parts)
        result = _result(chosen, all_parts, unchanged)
    return run.report, result and replace(result, notes=run.report.notes)


def _inspected(
    manifest: AnyManifest, request: AnyRestoreRequest, store: Archives, run: RestoreRun, context: TaskContext
) -> InspectedDatabase | InspectedFiles:
    if isinstance(manifest, FilesManifest) and isinstance(request, FilesRestoreRequest):
        return InspectedFiles.inspect(manifest, request, store, run, context)
    if isinstance(manifest, Manifest) and isinstance(request, RestoreRequest):
        return InspectedDatabase.inspect(manifest, request, store, run, context)
    raise UsageError(
        f"{manifest.id} is of {manifest.source}, which is another kind of source in the configuration",
        "give the database and the set of files names of their own, or restore the other parts: --only NAME",
    )


def _unknown(source: str, chosen: ChosenPoint) -> UsageError:
    known = [part.source for part in chosen.point.parts if part.source != source]
    return UsageError(
        f"{chosen.point.id} has a part {source!r}, and no source of that name is configured",
        f"add it to the configuration, or restore the others alone: {' '.join(f'--only {name}' for name in known)}",
    )


def _result(
    chosen: ChosenPoint, parts: tuple[PartResult, ...], unchanged: Collection[str] = (), *, dry_run: bool = False
) -> PointResult:
    point, undos = chosen.point, [part.undo for part in parts if part.source not in unchanged]
    undo = None if None in undos or not undos else undos[0]
    return PointResult(point.id, point.taken_at, point.spread_ms, dry_run, parts, undo)


def missing_of(requests: Sequence[AnyRestoreRequest]) -> list[RestoreRequest]:
    """Return the databases that do not exist, none where all do. Raises TargetRefused where only some do; OSError.

    Where a restore was killed, that is known once it is recovered: until then such a database is missing.
    Files come with their databases: an app that starts makes the directory, and what is in it is kept.
    """
    databases = [request for request in requests if isinstance(request, RestoreRequest)]
    missing = [one for one in databases if not database_exists(one.path, empty_is_data=one.empty_is_data)]
    there = ", ".join(str(one.path) for one in databases if one not in missing)
    certain = [one for one in missing if not restore_left(one.path)]
    gone = ", ".join(str(one.path) for one in certain)
    if there and gone:
        alone = " ".join(f"--only {one.source}" for one in certain)
        raise TargetRefused(
            f"only some databases exist: {there} {'do' if ', ' in there else 'does'}, and {gone} "
            f"{'do' if ', ' in gone else 'does'} not: a restore of the missing ones alone would mix two instants",
            "find out why; take one that is gone on purpose out of the configuration (or exclude it), "
            "else restore the whole point without --if-missing, which keeps the existing ones beside the "
            f"restored ones, or the missing ones alone: {alone}",
        )
    return missing


@contextmanager
def locked_targets(requests: Sequence[AnyRestoreRequest], run: RestoreRun, context: TaskContext) -> Iterator[None]:
    """Hold the locks of the store and of all targets, where a killed run or restore is recovered first."""
    wait_s = context.lock_timeout_s if requests[0].if_missing else 0.0
    directories = locked_directories(requests)
    with context.exclusive_lock_if_writable("restore"), restore_locks(directories, wait_s):
        context.recover()
        run.start()
        run.warn_all(requests[0].warnings)
        recover_targets(requests, directories, context)
        for request in requests:
            if isinstance(request, RestoreRequest):
                require_newest(request)
        yield


def locked_directories(requests: Sequence[AnyRestoreRequest]) -> list[Path]:
    """Return the directories that are locked for a restore: those of the databases, and the sets of files themselves.

    Raises SourceUnusable for a link of another owner.
    """
    return [
        real_path(request.path) if isinstance(request, FilesRestoreRequest) else real_path(request.path).parent
        for request in requests
    ]


def recover_targets(requests: Sequence[AnyRestoreRequest], held: Sequence[Path], context: TaskContext) -> None:
    """Finish or undo killed restores at all targets, whose directories are `held`. Raises TargetRefused, OSError."""
    for request in requests:
        recover = recover_files if isinstance(request, FilesRestoreRequest) else recover_restore
        recover(request.path, context, held=held, stopped=request.stopped)


def _is_equal(part: InspectedPart) -> bool:
    """Return whether `part` is a set of files that is as in the copy already."""
    return isinstance(part, InspectedFiles) and part.is_equal


def require_possible(parts: Sequence[InspectedPart], *, stopped: bool) -> None:
    """Require the space that all parts need together on each file system, and that no process uses their databases.

    Raises NoSpace, TargetInUse, TargetRefused.
    """
    on_disk: dict[int, list[InspectedPart]] = {}
    for part in parts:
        on_disk.setdefault(part.directory.stat().st_dev, []).append(part)
    for group in on_disk.values():
        needed_bytes = sum(part.needed_bytes for part in group)
        needed_files = sum(part.needed_files for part in group)
        sources = [part.source for part in group]
        what = counted(len(sources), "part") if len(sources) > _MOST_NAMED else " and ".join(sources)
        require_space(group[0].directory, needed_bytes, 0, f"restoring {what}", files=needed_files)
    require_unused(parts, stopped=stopped)


def replace_all(
    parts: Sequence[InspectedPart], point: str, run: RestoreRun, context: TaskContext, *, stopped: bool
) -> tuple[PartResult, ...]:
    """Prepare all parts, then put all of them in place. Raises BackupdError, OSError, with everything unchanged."""
    require_possible(parts, stopped=stopped)
    with ExitStack() as stack:
        prepared = [stack.enter_context(part.prepared()) for part in parts]
        with run.stage("swap"):
            targets = [part.settle() for part in prepared]
            with lease_all(filter(None, targets), stopped=stopped) as leases:
                now = context.clock()
                swaps = [part.plan(now) for part in prepared]
                places = tuple(part.place for part in prepared)
                journal = PointJournal(point, new_run(), places)
                with defer_signals(), _concluded(journal, context, run, stopped=stopped) as committed:
                    for part, swap in zip(prepared, swaps, strict=True):
                        _write_copy(part, replace(journal, swap=swap))
                    # An app that starts now opens its database first, and waits for the lease until all is decided.
                    for part, target in sorted(zip(prepared, targets, strict=True), key=_is_database):
                        part.commit(leases[target.path] if target else None)
                        committed.append(part)
        return tuple(part.result() for part in prepared)


def _is_database(one: tuple[PreparedPart, Target | None]) -> bool:
    return one[0].place.kind == "database"


def _write_copy(part: PreparedPart, journal: PointJournal) -> None:
    with Directory.open(part.place.directory, links=False) as directory:
        write_copy(directory, part.place, journal)


@contextmanager
def _concluded(
    journal: PointJournal, context: TaskContext, run: RestoreRun, *, stopped: bool
) -> Iterator[list[PreparedPart]]:
    """Finish the restore when all parts are in place, and undo it where one failed. Raises what that one raised.

    Yields a list for the parts that are committed.
    """
    committed: list[PreparedPart] = []
    try:
        yield committed
    except BaseException as error:
        try:
            decision, notes = conclude(journal, context, stopped=stopped)
            if decision == "forgotten" and committed:
                raise _robbed(journal)
        except (BackupdError, OSError) as still:
            raise _mixed(error, still) from error
        for note in notes:
            run.note(note)
        if isinstance(error, TargetInUse):
            raise TargetInUse(f"{error.message}; all other parts are as they were", error.hint) from error
        raise
    decision, notes = conclude(journal, context, stopped=stopped)
    if decision == "forgotten":
        raise _robbed(journal)
    if decision == "undone":
        raise RestoreFailed(
            f"another process replaced a target at the moment of its restore, and the others are as they were: "
            f"{'; '.join(notes)}",
            "find out which process writes there, stop it, and run the same command again",
        )


def _robbed(journal: PointJournal) -> RestoreFailed:
    """Return the error for a restore whose journal another process removed."""
    places = ", ".join(str(place.directory / place.name) for place in journal.places)
    return RestoreFailed(
        f"another process removed one of {places} during the restore, which cannot be undone as a whole any more",
        "find out which process writes there; then restore the point again, or take back each part alone "
        "(backupd restore --undo --source NAME)",
    )


def _mixed(error: BaseException, still: BackupdError | OSError) -> BackupdError:
    """Return the error for a restore that failed between two parts and could not be undone."""
    first = error.message if isinstance(error, BackupdError) else str(error)
    second, hint = (still.message, still.hint) if isinstance(still, BackupdError) else (str(still), "")
    return RestoreFailed(
        f"{first}; and some parts are restored, others are not: {second}",
        f"keep the app stopped, and run backupd restore again: it first makes all as it was. {hint}".strip(),
    )
