"""Verified backups of one source, or of several together: the same steps by schedule and by hand.

    lock, recover → hook → hold files → pin all → hold new files → copy → check ∥ pack ∥ digest → decide → publish
    → store contents → publish lists → index → hook → prune → report

Every step may be killed: a generation exists once its manifest is in place, a restore point once its index is, and
nothing old is removed before that.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from backupd.tasks.files.order import FilesOrder
from backupd.tasks.files.publication import files_state
from backupd.tasks.hooks import hooks
from backupd.tasks.inventory import Inventory, shared_source_warning
from backupd.tasks.point import publish_point_if_whole
from backupd.tasks.prune import apply_retention, pin_if_possible
from backupd.tasks.publication import SourceState, apply_publication, decide_publication, source_state
from backupd.tasks.requests import BackupRequest, FilesRequest
from backupd.tasks.restore.recovery import recover_before_backup, recover_files_before_backup
from backupd.tasks.run import BackupRun

Request: TypeAlias = BackupRequest | FilesRequest

_LARGE_WAL_BYTES: Final = 256 << 20
_MAX_CHECK_NOTES: Final = 3


@dataclass(frozen=True, slots=True)
class Backups:
    """What a run has done: a report for each request, in their order, and the restore point that holds the copies."""

    reports: tuple[RunReport[BackupDetails], ...]
    point: RestorePoint | None = None


def backup(request: BackupRequest, context: TaskContext) -> RunReport[BackupDetails]:
    """Back up one source now. What fails is in the report, with what to do about it."""
    return back_up_together((request,), context).reports[0]


def back_up_together(requests: Sequence[Request], context: TaskContext, configured: Collection[str] = ()) -> Backups:
    """Back up databases and sets of files now, as of one instant as nearly as can be; one that fails ends no other.

    A run for all sources that are `configured` makes a restore point, if there are two or more. What fails is in the
    reports.
    """
    point = None
    with ExitStack() as stack:
        runs = [
            stack.enter_context(context.run("backup", request.source, BackupDetails()))
            for request in reversed(requests)  # so that they end in their order
        ][::-1]
        with context.working(runs), context.exclusive_lock("backup"):
            context.recover()
            for run in runs:
                run.start()
            point = _back_up(list(zip(requests, runs, strict=True)), configured, context)
    return Backups(tuple(run.report for run in runs), point)


def _back_up(
    orders: Sequence[tuple[Request, BackupRun]], configured: Collection[str], context: TaskContext
) -> RestorePoint | None:
    """Take each source through all steps; return the restore point that holds the copies."""
    runs = [run for _, run in orders]
    if len(runs) > 1:
        for run in runs:
            run.rest()
    for request, run in orders:
        with _turn(run, context):
            _begin(request, run, context)
    inventory = local_inventory(context)
    databases = [(request, run) for request, run in _not_failed(orders) if isinstance(request, BackupRequest)]
    states = {request.source: source_state(request.source, inventory, context) for request, _ in databases}
    sources = [SourceToCopy(request, states[request.source].previous, run) for request, run in databases]
    sets = [
        FilesOrder(request, run, files_state(request.source, inventory, context))
        for request, run in _not_failed(orders)
        if isinstance(request, FilesRequest)
    ]
    point = None
    with hooks(orders[0][0].hooks, runs), context.store.staging() as staging:
        parts = _publish_all(sources, states, sets, staging, context)
        if set(configured) == {request.source for request, _ in orders}:
            point, problem = publish_point_if_whole(parts, configured, inventory.points, context)
            for run in runs if problem else ():
                run.note(problem)
    for request, run in _not_failed(orders):
        with _turn(run, context):
            _finish(request, run, inventory, context)
    return point


def _publish_all(
    sources: Sequence[SourceToCopy],
    states: Mapping[str, SourceState],
    sets: Sequence[FilesOrder],
    staging: Directory,
    context: TaskContext,
) -> list[PointPart]:
    """Hold and pin all, then publish each; return the parts of a restore point."""
    parts = list[PointPart]()
    with ExitStack() as held:
        for files in sets:
            with _turn(files.run, context):
                files.hold(staging, held, context)
        with pinned_copies(sources, staging, context, fewest=1 if sets else 2) as pinned:
            for files in filter(_is_going, sets):
                with _turn(files.run, context):
                    files.rescan()
            # Those that are copied alone come last: they may take long, and each pin costs its app something.
            for one in sorted(sources, key=lambda one: one.request.source not in pinned):
                with _turn(one.run, context):
                    name = one.request.source
                    parts += _publish(one, states[name], pinned.get(name), sets, staging, context)
        databases = tuple(parts)
        for files in filter(_is_going, sets):
            with _turn(files.run, context):
                files.rescan_after(databases)
                parts += files.publish(context)
    return parts


@contextmanager
def _turn(run: BackupRun, context: TaskContext) -> Iterator[None]:
    """Let what fails in the block fail this run alone, and count its time for it, where others share its process."""
    if not run.rests:
        yield
        return
    with run.turn(), context.working([run]):
        yield


def _not_failed(orders: Sequence[tuple[Request, BackupRun]]) -> list[tuple[Request, BackupRun]]:
    return [(request, run) for request, run in orders if run.report.outcome != "failed"]


def _is_going(files: FilesOrder) -> bool:
    return files.is_going


def _begin(request: Request, run: BackupRun, context: TaskContext) -> None:
    if request.timezone_warning:
        run.note(request.timezone_warning)
    if isinstance(request, FilesRequest):
        problem = recover_files_before_backup(request.path, context)
    else:
        if request.search_warning:
            run.warn(request.search_warning)
        problem = recover_before_backup(request.path, context)
    if problem:  # a backup goes on where that fails
        run.warn(problem)


def _publish(
    one: SourceToCopy,
    state: SourceState,
    pinned: PinnedCopy | None,
    sets: Sequence[FilesOrder],
    staging: Directory,
    context: TaskContext,
) -> list[PointPart]:
    """Copy, check and publish a source; return its part of a restore point.

    That is the previous generation where nothing has changed.
    """
    request, run = one.request, one.run
    with capturing(one, pinned, staging, context) as capture:
        decision = decide_publication(request, capture, state, context.clock())
        if isinstance(capture, Capture) and decision.action != "quarantine":
            for files in sets:
                files.read_references(request.source, capture.snapshot.file)
        apply_publication(decision, request, capture, state, run, context)
        if isinstance(capture, UnusableSource):
            return []
        _report_oddities(request, capture, run)
        generation, sha256 = run.details.generation, run.details.archive_sha256
        if generation is None or sha256 is None:
            return []
        since, until = capture.snapshot.since, capture.snapshot.until
        return [PointPart(request.source, "database", generation, sha256, since, until)]


def _finish(request: Request, run: BackupRun, inventory: Inventory, context: TaskContext) -> None:
    """Pin the generation of a run where that is wanted, and prune older ones."""
    is_database = isinstance(request, BackupRequest)
    if is_database and (shared := shared_source_warning(inventory, request.source, request.path)):
        run.warn(shared)
    if request.pin is not None and run.report.generation is not None:
        pin_if_possible(run.report.generation, request.pin, run, context)
    _prune(request, run, context)
    _warn_of_failed_replications(request, run, context)


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


def _prune(request: Request, run: BackupRun, context: TaskContext) -> None:
    """Prune older generations; the new one stays published where that fails."""
    if request.retention is None:
        return
    try:
        plan = apply_retention(request.source, request.retention, run, context)
    except OSError as error:
        run.warn(f"old generations could not be pruned: {os_error_text(error)}")
    else:
        run.details = replace(run.details, kept=len(plan.keep), removed=plan.removed_ids)


def _warn_of_failed_replications(request: Request, run: BackupRun, context: TaskContext) -> None:
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
