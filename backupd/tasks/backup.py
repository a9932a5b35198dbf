"""Verified backups of one source, or of several together: the same steps by schedule and by hand.

    lock, recover → hook → hold files → pin databases → look at the files again
    → of each database: copy → check ∥ pack ∥ digest → decide → publish; of each set of files: store → list → publish
    → index of the restore point → hook → prune → report

Every step may be killed: a generation exists once its manifest is in place, a restore point once its index is, and
nothing old is removed before that.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from backupd.catalog import RunRecord
from backupd.formatting import human_bytes
from backupd.model import PointPart, RestorePoint
from backupd.report import BackupDetails, RunReport
from backupd.system.directory import Directory
from backupd.system.mounts import is_remote
from backupd.system.os_errors import os_error_text
from backupd.tasks.capture import Capture, UnusableSource, capturing
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.copying import PinnedCopy, SourceToCopy, pinned_copies
from backupd.tasks.files.backup import SetsOfRun
from backupd.tasks.hooks import hooks
from backupd.tasks.inventory import Inventory, shared_source_warning
from backupd.tasks.point import publish_point_if_whole
from backupd.tasks.prune import apply_retention, listed_inventory, pin_if_possible
from backupd.tasks.publication import SourceState, apply_publication, decide_publication, source_state
from backupd.tasks.requests import AnyBackupRequest, BackupRequest, FilesRequest
from backupd.tasks.restore.recovery import recover_before_backup, recover_files_before_backup
from backupd.tasks.run import BackupRun

_LARGE_WAL_BYTES: Final = 256 << 20
_MAX_CHECK_NOTES: Final = 3
_Order: TypeAlias = tuple[AnyBackupRequest, BackupRun]


@dataclass(frozen=True, slots=True)
class Backups:
    """What a run has done: a report for each request, in their order, and the restore point that holds the copies."""

    reports: tuple[RunReport[BackupDetails], ...]
    point: RestorePoint | None = None


def backup(request: AnyBackupRequest, context: TaskContext) -> RunReport[BackupDetails]:
    """Back up one source now: a database or a set of files. What fails is in the report, with what to do about it."""
    return back_up_together((request,), context).reports[0]


def back_up_together(
    requests: Sequence[AnyBackupRequest], context: TaskContext, configured: Collection[str] = ()
) -> Backups:
    """Back up sources now, as of one instant as nearly as can be; one that fails ends no other.

    A run for all sources that are `configured` makes a restore point, if there are two or more. What fails is in the
    reports.
    """
    point = None
    with ExitStack() as stack:
        runs = [
            stack.enter_context(context.run("backup", request.source, BackupDetails()))
            for request in reversed(requests)  # so that they end in their order
        ][::-1]
        for run in runs if len(runs) > 1 else ():
            run.rest()  # each has its turns
        with context.working(runs), context.exclusive_lock("backup"):
            context.recover()
            for run in runs:
                run.start()
            point = _back_up(list(zip(requests, runs, strict=True)), configured, context)
    return Backups(tuple(run.report for run in runs), point)


def _back_up(orders: Sequence[_Order], configured: Collection[str], context: TaskContext) -> RestorePoint | None:
    """Take each source through all steps; return the restore point that holds the copies."""
    runs = [run for _, run in orders]
    for request, run in orders:
        with run.turn(context.working):
            _begin(request, run, context)
    inventory = local_inventory(context)
    point = None
    with hooks(orders[0][0].hooks, runs), context.store.staging() as staging:
        parts = _publish_all(_not_failed(orders), inventory, staging, context)
        if set(configured) == {request.source for request, _ in orders}:
            point, problem = publish_point_if_whole(parts, configured, inventory.points, context)
            for run in runs if problem else ():
                run.note(problem)
    left: Inventory | None = None
    for request, run in _not_failed(orders):
        with run.turn(context.working):
            _finish(request, run, inventory, context)
            known, left = left, None  # it stays unknown where this fails
            left = _prune(request, known, run, context)
            _warn_of_failed_replications(request, run, context)
    return point


def _publish_all(
    orders: Sequence[_Order], inventory: Inventory, staging: Directory, context: TaskContext
) -> list[PointPart]:
    """Copy and publish all databases and sets of files; return the parts of a restore point."""
    parts, states = list[PointPart](), dict[str, SourceState]()
    sources = list[SourceToCopy]()
    for request, run in orders:
        if isinstance(request, BackupRequest):
            states[request.source] = state = source_state(request.source, inventory, context)
            sources.append(SourceToCopy(request, state.previous, run))
    with ExitStack() as stack:
        sets = SetsOfRun(inventory, staging, stack, context)
        sets.hold([(request, run) for request, run in orders if isinstance(request, FilesRequest)])
        with pinned_copies(sources, staging, context, sets.rescan if len(sets) else None) as pinned:
            # Those that are copied alone come last: they may take long, and each pin costs its app something.
            for one in sorted(sources, key=lambda one: one.request.source not in pinned):
                with one.run.turn(context.working):
                    name = one.request.source
                    parts += _publish(one, states[name], pinned.get(name), sets, staging, context)
        unsure_ms = {name: copy.pin.unsure_ms for name, copy in pinned.items() if copy.pin.unsure_ms}
        return parts + sets.publish(parts, unsure_ms)


def _not_failed(orders: Sequence[_Order]) -> list[_Order]:
    return [(request, run) for request, run in orders if run.report.outcome != "failed"]


def _begin(request: AnyBackupRequest, run: BackupRun, context: TaskContext) -> None:
    if request.timezone_warning:
        run.note(request.timezone_warning)
    if isinstance(request, BackupRequest):
        if request.search_warning:
            run.warn(request.search_warning)
        problem = recover_before_backup(request.path, context)
    else:
        problem = recover_files_before_backup(request.path, context)
    if problem:  # a backup goes on where that fails
        run.warn(problem)


def _publish(
    one: SourceToCopy,
    state: SourceState,
    pinned: PinnedCopy | None,
    sets: SetsOfRun,
    staging: Directory,
    context: TaskContext,
) -> list[PointPart]:
    """Copy, check and publish a source; return its part of a restore point.

    That is the previous generation where nothing has changed.
    """
    request, run = one.request, one.run
    with capturing(one, pinned, staging, context) as capture:
        decision = decide_publication(request, capture, state, context.clock())
        apply_publication(decision, request, capture, state, run, context)
        if isinstance(capture, UnusableSource):
            return []
        _report_oddities(request, capture, run)
        generation, sha256 = run.details.generation, run.details.archive_sha256
        if generation is None or sha256 is None:
            return []
        sets.ask(request.source, capture.snapshot.file)
        since, until = capture.snapshot.since, capture.snapshot.until
        return [PointPart(request.source, "database", generation, sha256, since, until)]


def _finish(request: AnyBackupRequest, run: BackupRun, inventory: Inventory, context: TaskContext) -> None:
    """Pin the generation of a run where that is wanted."""
    is_database = isinstance(request, BackupRequest)
    if is_database and (shared := shared_source_warning(inventory, request.source, request.path)):
        run.warn(shared)
    if request.pin is not None and run.report.generation is not None:
        pin_if_possible(run.report.generation, request.pin, run, context)


def _report_oddities(request: BackupRequest, capture: Capture, run: BackupRun) -> None:
    snapshot, verdict, contents = capture.snapshot, capture.inspection.verdict, capture.inspection.contents
    if snapshot.hot_journal:
        run.warn(f"the app of {request.path} died in a transaction and was not started again: copied as of before it")
    if is_remote(snapshot.filesystem) and request.settings.network_fs == "refuse":
        run.warn(
            f'{request.path} is on {snapshot.filesystem}, whose locks may fail: set network_fs = "allow" if you know'
        )
    if snapshot.writers_held_s > request.settings.writer_budget_s:
        why = "it is encrypted" if snapshot.method == "file" else "the app never left a quiet moment"
        run.note(f"writers were held for {snapshot.writers_held_s:.1f} s: {why}")
    if capture.source.wal_bytes > _LARGE_WAL_BYTES:
        run.note(f"the WAL is {human_bytes(capture.source.wal_bytes)}: the app does not get to checkpoint it")
    if verdict.foreign_key_violations:
        run.note(f"{verdict.foreign_key_violations} rows violate foreign keys: their parent rows are missing")
    if contents is not None and not contents.tables:
        run.note(f"{request.path} has no tables: is it the database of the app?")
    for note in verdict.notes[:_MAX_CHECK_NOTES]:
        run.note(note)


def _prune(request: AnyBackupRequest, left: Inventory | None, run: BackupRun, context: TaskContext) -> Inventory | None:
    """Prune older generations; the new one stays published where that fails.

    `left` is what the pruning of another source of the run has left, and what is left now is returned; None: unknown.
    """
    if request.retention is None:
        return left
    try:
        inventory = left or listed_inventory(context)
        plan = apply_retention(request.source, request.retention, inventory, run, context)
    except OSError as error:
        run.warn(f"old generations could not be pruned: {os_error_text(error)}")
        return None
    run.details = replace(run.details, kept=len(plan.keep), removed=plan.removed_ids)
    return inventory.without(plan.removed_ids)


def _warn_of_failed_replications(request: AnyBackupRequest, run: BackupRun, context: TaskContext) -> None:
    """Degrade a backup that has no copy elsewhere, so that an operator who runs it by hand sees that."""
    if not request.replicas:
        return
    now, unknown = context.clock(), dict[str, RunRecord | None]()
    failures = context.ask_catalog(
        lambda catalog: {name: catalog.last_failure("replicate", name, now) for name in request.replicas}, unknown
    )
    for name, failed in failures.items():
        if failed is not None:
            run.warn(f"the last replication to {name} failed: {failed.error or 'it was cut short'}")
