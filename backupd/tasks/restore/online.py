"""Restore a generation into a live database, for an app that cannot stop: in one transaction, after a safety backup.

    unpack in staging and prove → safety backup → lock, heal → overwrite → check

What the app keeps in memory goes stale, which is why this has to be asked for.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from backupd.errors import BackupdError, CopyCorrupt, RestoreFailed, TargetRefused
from backupd.model import Manifest
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.file_format import file_has_checksums, is_encrypted, read_header
from backupd.sqlite.history import RestoreRecord, begin_online_restore, finish_online_restore, took_effect
from backupd.sqlite.target import Target, set_journal_mode
from backupd.sqlite.target_locks import restore_lock
from backupd.sqlite.worker.protocol import OnlineRestoreRequest
from backupd.sqlite.worker_process import WorkerProcess
from backupd.stores.contract import Archives
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.disk_space import require_space, reserve_bytes
from backupd.tasks.inventory import Choose
from backupd.tasks.prune import pin_if_possible
from backupd.tasks.requests import BackupRequest, PinRequest
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.restore.in_place import (
    RESTORED_FROM,
    InPlaceResult,
    RestoreRequest,
    generation_of,
    kind_of,
    planned,
    require_newest,
    tell_restored,
    way_back,
)
from backupd.tasks.restore.recovery import heal_restore
from backupd.tasks.run import RestoreRun
from backupd.tasks.verify import record_verification

_COPY = "restored.sqlite3"


def overwrite_database(
    choose: Choose, request: RestoreRequest, store: Archives, safety: BackupRequest, context: TaskContext
) -> tuple[RunReport[RestoreDetails], InPlaceResult | None]:
    """Restore a generation of `store` into the database of its source while its app runs; the report tells of trouble.

    Which one, `choose` tells once nobody else is at work on the store.
    Before that, the database is backed up as `safety` orders, and that is pinned and recorded beside the database for
    an undo: without that nothing is overwritten. Raises TargetRefused where there is no place for the backup.
    """
    _require_store(context)
    if request.dry_run:
        manifest = choose()
        target = _target(request, safety, manifest)
        return context.new_run("restore", request.source, RestoreDetails()).report, planned(manifest, request, target)
    done = None
    with context.run("restore", request.source, RestoreDetails()) as run, context.store.staging() as staging:
        run.start()
        with context.exclusive_lock("restore"):
            context.recover()
            manifest = choose()
            pin_if_possible(manifest.id, PinRequest(RESTORED_FROM), run, context)
        run.details = RestoreDetails(generation=manifest.id, snapshot_bytes=manifest.snapshot.size_bytes)
        _target(request, safety, manifest)  # at once, before hours are spent on fetching
        copy = _unpacked(manifest, request, store, staging, run, context)
        before = _backed_up(safety, manifest, context)
        try:
            with context.exclusive_lock("restore"), restore_lock(request.path):
                context.recover()
                heal_restore(request.path, context)
                require_newest(request)
                target = _target(request, safety, manifest)
                record = RestoreRecord(kind_of(request), generation_of(request, manifest.id), "generation", before)
                with run.stage("overwrite"), _recording(record, request, target.path, context):
                    _overwrite(copy, target, safety.settings.busy_timeout_s, context)
        except BackupdError as error:
            latest = f"name {manifest.id} then: {before}, which was backed up just now, is the latest"
            hint = error.hint if request.takes_back else f"{error.hint}; {latest}"
            raise type(error)(error.message, hint) from error
        done = planned(manifest, request, target, undo=way_back(request))
        tell_restored(
            f"restored {manifest.id} into {target.path}, which was backed up before as {before}", done, context
        )
    return run.report, done


@contextmanager
def _recording(record: RestoreRecord, request: RestoreRequest, target: Path, context: TaskContext) -> Iterator[None]:
    """Record the block as an online restore for a later undo, and as none where it is broken off without effect."""
    begun = begin_online_restore(target, record, request.takes_back, context.clock())
    try:
        yield
    except BaseException:
        finish_online_restore(target, begun, done=took_effect(target, begun))
        raise
    finish_online_restore(target, begun, done=True)


def _require_store(context: TaskContext) -> None:
    directory = context.store.directory
    if directory.exists() and not context.store.writable():
        raise TargetRefused(
            f"{directory} cannot be written: there is no place for the safety backup",
            "mount it writable; or stop the app, and restore without --online",
        )


def _backed_up(safety: BackupRequest, manifest: Manifest, context: TaskContext) -> str:
    """Back the database up and return the generation that holds it. Raises RestoreFailed when there is none."""
    pin = PinRequest(f"it is the state before the online restore of {manifest.id}")
    # Without pruning: it might push out the very generation that is restored.
    report = backup(replace(safety, retention=None, pin=pin), context)
    if report.outcome == "failed" or report.generation is None:
        raise RestoreFailed(
            f"the safety backup failed, and nothing was restored: {report.error}",
            "put that right first; or stop the app, and restore without --online",
        )
    return report.generation


def _target(request: RestoreRequest, safety: BackupRequest, manifest: Manifest) -> Target:
    """Look at the database and its disk, where all of it may pass through the WAL. Raises TargetRefused, NoSpace."""
    target = Target.inspect(request.path)
    if target.old is None:
        raise TargetRefused(f"there is no database {target.path} to restore into", "restore without --online")
    if manifest.verdict.level == "opaque" or is_encrypted(os.fspath(target.path)):
        raise TargetRefused(
            f"{manifest.id} or {target.path} is encrypted: SQLite cannot write one into the other without the key",
            "stop the app, and restore without --online",
        )
    if file_has_checksums(target.path):
        raise TargetRefused(
            f"the app of {target.path} keeps a checksum in each page (cksumvfs), which SQLite would write without it",
            "stop the app, and restore without --online",
        )
    directory = target.path.parent
    reserve = reserve_bytes(directory, safety.reserve_bytes)
    size_bytes = max(manifest.snapshot.size_bytes, target.old.size_bytes)
    require_space(directory, size_bytes + target.bytes_in_use, reserve, f"restoring {manifest.id} online")
    return target


def _unpacked(
    manifest: Manifest,
    request: RestoreRequest,
    store: Archives,
    staging: Path,
    run: RestoreRun,
    context: TaskContext,
) -> Path:
    copy = staging / _COPY
    try:
        with run.stage("unpack"):
            extract_verified(manifest, store, copy, request.workers, context)
    except CopyCorrupt as error:
        record_verification(manifest.id, context, sound=False, detail=error.message, store=store.name)
        raise
    return copy


def _overwrite(copy: Path, target: Target, busy_timeout_s: float, context: TaskContext) -> None:
    old = target.old
    assert old is not None  # noqa: S101 - `_target` has seen it
    header = read_header(os.fspath(target.path))
    if header is not None:
        set_journal_mode(copy, header.journal_mode)  # else a rollback-journal database would turn into a WAL one
    context.progress.stage("overwrite", copy.stat().st_size)
    request = OnlineRestoreRequest(
        path=str(target.path), snapshot=copy.name, uid=old.uid, gid=old.gid, busy_timeout_s=busy_timeout_s
    )
    with WorkerProcess[None]("restore_online", request, copy.parent) as worker:
        worker.result(on_progress=lambda done, _total: context.progress.advance(done))
