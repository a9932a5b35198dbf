"""Restore a generation into a live database, for an app that cannot stop: in one transaction, after a safety backup.

    unpack in staging, verify -> safety backup -> lock, recover -> overwrite

The app may keep stale data in its memory, so an operator has to ask for this.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from backupd.errors import BackupdError, RestoreFailed, TargetRefused
from backupd.model import Manifest
from backupd.report import RestoreDetails
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.file_format import HEADER_BYTES, has_checksums, looks_encrypted, parse_header, set_journal_mode
from backupd.sqlite.history import RestoreRecord, begin_online_restore, finish_online_restore, took_effect
from backupd.sqlite.target import Target, restore_lock
from backupd.sqlite.worker.protocol import OnlineRestoreRequest
from backupd.sqlite.worker_process import WorkerProcess, deadline_for
from backupd.stores.contract import Archives
from backupd.system.held_file import HeldFile
from backupd.system.resources import require_space, reserve_bytes
from backupd.tasks.backup import backup
from backupd.tasks.choice import Choose
from backupd.tasks.context import TaskContext
from backupd.tasks.prune import pin_if_possible
from backupd.tasks.requests import BackupRequest, PinRequest
from backupd.tasks.restore import RESTORED_FROM, Restored, RestoreRequest
from backupd.tasks.restore.database import log_restored, planned_result
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.restore.in_place import require_newest
from backupd.tasks.restore.recovery import recover_restore
from backupd.tasks.verify import marking_damage

_COPY = "restored.sqlite3"
_OFFLINE = "stop the app, and restore without --online"


def restore_online(
    choose: Choose, request: RestoreRequest, store: Archives, safety: BackupRequest, context: TaskContext
) -> Restored:
    """Restore a generation of `store` into the database of its source while its app runs; errors are in the report.

    `choose` is called under the lock of the store. First the database is backed up as `safety` says; that generation is
    pinned, and recorded beside the database for an undo. Without it nothing is overwritten. Raises TargetRefused where
    the store is read-only.
    """
    directory = context.store.directory
    if directory.exists() and not context.store.writable():
        raise TargetRefused(
            f"{directory} is not writable: the safety backup cannot be stored", f"mount it writable; or {_OFFLINE}"
        )
    if request.dry_run:
        manifest = choose()
        target = _inspect(request, safety, manifest)
        run = context.new_run("restore", request.source, RestoreDetails())
        run.warn_all(request.warnings)
        return run.report, planned_result(manifest, request, target)
    result = None
    with context.run("restore", request.source, RestoreDetails()) as run, context.store.staging() as staging:
        run.start()
        run.warn_all(request.warnings)
        with context.exclusive_lock("restore"):
            context.recover()
            manifest = choose()
            pin_if_possible(manifest.id, PinRequest(RESTORED_FROM), run, context)
        run.details = RestoreDetails(generation=manifest.id, snapshot_bytes=manifest.snapshot.size_bytes)
        _inspect(request, safety, manifest)  # first, before hours are spent on fetching
        copy = HeldFile.create(staging, _COPY)
        with run.stage("unpack"), marking_damage(manifest, store, context):
            extract_verified(manifest, store, copy, request.workers, context)
        before = _back_up(safety, manifest, context)
        try:
            with context.exclusive_lock("restore"), restore_lock(request.path):
                context.recover()
                recover_restore(request.path, context)
                require_newest(request)
                target = _inspect(request, safety, manifest)
                record = RestoreRecord(request.kind, request.subject(manifest.id), "generation", before)
                with (
                    run.stage("overwrite"),
                    DatabasePlace.open(target.path) as place,
                    _recording(record, request, place, context),
                ):
                    _overwrite(copy, target, place, safety.settings.busy_timeout_s, context)
        except BackupdError as error:
            latest = f"then name {manifest.id}: the latest is now the safety backup {before}"
            hint = error.hint if request.takes_back else f"{error.hint}; {latest}"
            raise type(error)(error.message, hint) from error
        result = planned_result(manifest, request, target, undo=request.undo_command)
        what = f"restored {manifest.id} into {target.path}; its state before is {before}"
        log_restored(what, result, context)
    return run.report, result


@contextmanager
def _recording(
    record: RestoreRecord, request: RestoreRequest, place: DatabasePlace, context: TaskContext
) -> Iterator[None]:
    """Record the block as an online restore for a later undo, unless it fails without effect."""
    begun = begin_online_restore(place, record, request.takes_back, context.clock())
    try:
        yield
    except BaseException:
        finish_online_restore(place, begun, done=took_effect(place, begun))
        raise
    finish_online_restore(place, begun, done=True)


def _back_up(safety: BackupRequest, manifest: Manifest, context: TaskContext) -> str:
    """Back the database up and return the id of the generation. Raises RestoreFailed."""
    pin = PinRequest(f"it is the state before the online restore of {manifest.id}")
    # Without pruning: it might remove the generation that is restored.
    report = backup(replace(safety, retention=None, pin=pin), context)
    if report.outcome == "failed" or report.generation is None:
        raise RestoreFailed(
            f"the safety backup failed, and nothing was restored: {report.error}",
            f"resolve that first; or {_OFFLINE}",
        )
    return report.generation


def _inspect(request: RestoreRequest, safety: BackupRequest, manifest: Manifest) -> Target:
    """Check the database and its disk, where the WAL may grow to its size. Raises TargetRefused, NoSpace."""
    target = Target.inspect(request.path)
    if target.old is None:
        raise TargetRefused(f"the database {target.path} does not exist", "restore without --online")
    with DatabasePlace.open(target.path) as place:
        database = HeldFile.open(place.directory, place.name).descriptor
        encrypted, checksums = looks_encrypted(database), has_checksums(database)
    if manifest.verdict.level == "opaque" or encrypted:
        raise TargetRefused(
            f"{manifest.id} or {target.path} is encrypted: SQLite cannot write one into the other without the key",
            _OFFLINE,
        )
    if checksums:
        raise TargetRefused(
            f"{target.path} has a checksum in each page (cksumvfs), which an online restore would not write",
            _OFFLINE,
        )
    directory = target.path.parent
    reserve = reserve_bytes(directory, safety.reserve_bytes)
    size_bytes = max(manifest.snapshot.size_bytes, target.old.size_bytes)
    require_space(directory, size_bytes + target.bytes_in_use, reserve, f"restoring {manifest.id} online")
    return target


def _overwrite(
    copy: HeldFile, target: Target, place: DatabasePlace, busy_timeout_s: float, context: TaskContext
) -> None:
    old = target.old
    assert old is not None  # noqa: S101 - `_inspect` requires it
    header = parse_header(os.pread(HeldFile.open(place.directory, place.name).descriptor, HEADER_BYTES, 0))
    if header is not None:
        set_journal_mode(copy.descriptor, header.journal_mode)  # the copy's header decides the mode of the result
    context.progress.stage("overwrite", copy.size_bytes)
    request = OnlineRestoreRequest(
        path=str(target.path),
        snapshot=copy.name,
        held=copy.descriptor,
        uid=old.uid,
        gid=old.gid,
        busy_timeout_s=busy_timeout_s,
    )
    deadline = deadline_for(copy.size_bytes) + 2 * busy_timeout_s
    held, directory = [copy.descriptor], copy.directory.fixed_path
    with WorkerProcess[None]("restore_online", request, directory, deadline, held) as worker:
        worker.result(on_progress=lambda done, _total: context.progress.advance(done))
