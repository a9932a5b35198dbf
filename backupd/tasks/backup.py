"""One verified backup of one source: the same steps by schedule and by hand.

    lock, recover → hook → copy → check ∥ pack ∥ digest → decide → publish → hook → prune → report

Every step may be killed: a generation exists once its manifest is in place, and nothing old is removed before that.
"""

from dataclasses import replace
from typing import Final

from backupd.catalog import RunRecord
from backupd.formatting import human_bytes
from backupd.report import BackupDetails, RunReport
from backupd.system.mounts import is_remote
from backupd.system.os_errors import os_error_text
from backupd.tasks.capture import Capture, capturing
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.hooks import hooks
from backupd.tasks.inventory import shared_source_warning
from backupd.tasks.prune import apply_retention, pin_if_possible
from backupd.tasks.publication import apply_publication, decide_publication, source_state
from backupd.tasks.requests import BackupRequest, FilesRequest
from backupd.tasks.restore.recovery import recover_before_backup
from backupd.tasks.run import BackupRun

_LARGE_WAL_BYTES: Final = 256 << 20
_MAX_CHECK_NOTES: Final = 3


def backup(request: BackupRequest, context: TaskContext) -> RunReport[BackupDetails]:
    """Back up one source now. What fails is in the report, with what to do about it."""
    with context.run("backup", request.source, BackupDetails()) as run, context.exclusive_lock("backup"):
        context.recover()
        run.start()
        if request.timezone_warning:
            run.note(request.timezone_warning)
        if request.search_warning:
            run.warn(request.search_warning)
        if problem := recover_before_backup(request.path, context):  # a backup goes on where that fails
            run.warn(problem)
        inventory = local_inventory(context)
        state = source_state(request.source, inventory, context)
        with (
            hooks(request.hooks, [run]),
            context.store.staging() as staging,
            capturing(request, state.previous, staging, run, context) as capture,
        ):
            decision = decide_publication(request, capture, state, context.clock())
            apply_publication(decision, request, capture, state, run, context)
            if isinstance(capture, Capture):
                _report_oddities(request, capture, run)
        if shared := shared_source_warning(inventory, request.source, request.path):
            run.warn(shared)
        if request.pin is not None and run.report.generation is not None:
            pin_if_possible(run.report.generation, request.pin, run, context)
        prune_old(request, run, context)
        warn_of_failed_replications(request, run, context)
    return run.report


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


def prune_old(request: BackupRequest | FilesRequest, run: BackupRun, context: TaskContext) -> None:
    """Prune older generations; the new one stays published where that fails."""
    if request.retention is None:
        return
    try:
        plan = apply_retention(request.source, request.retention, run, context)
    except OSError as error:
        run.warn(f"old generations could not be pruned: {os_error_text(error)}")
    else:
        run.details = replace(run.details, kept=len(plan.keep), removed=plan.removed_ids)


def warn_of_failed_replications(request: BackupRequest | FilesRequest, run: BackupRun, context: TaskContext) -> None:
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
