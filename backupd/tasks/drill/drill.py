"""Rehearse a restore from a store: fetch, unpack, prove, compare, and let the app prove itself on the result.

Nothing in any store changes but the marks of damage that every check makes.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from backupd.errors import CopyCorrupt, DrillFailed, GenerationMissing, LockHeld
from backupd.formatting import human_duration
from backupd.model import LOCAL_STORE, Manifest
from backupd.report import DrillDetails, DrillReport, RunReport
from backupd.stores.contract import Archives
from backupd.stores.local import DirectoryStore
from backupd.tasks.context import TaskContext, read_inventory, work_directory
from backupd.tasks.disk_space import require_space, reserve_bytes, same_file_system
from backupd.tasks.drill.app_check import differences, note_proven, place_of, prove_app
from backupd.tasks.freshness import last_verified_at
from backupd.tasks.inventory import Inventory, require_same_database
from backupd.tasks.provenance import ForeignGenerations, provenance_of, refusal
from backupd.tasks.replica import Retry, replica_errors
from backupd.tasks.requests import DrillRequest
from backupd.tasks.restore.extract import extract_verified, fetch
from backupd.tasks.run import DrillRun, Stopwatch
from backupd.tasks.verify import record_verification

OpenStore = Callable[[], AbstractContextManager[tuple[Archives, Inventory]]]

_HINT = "use another generation, and let the replica have this one anew (backupd replicate)"


def drill(request: DrillRequest, open_store: OpenStore, retry: Retry, context: TaskContext) -> RunReport[DrillDetails]:
    """Rehearse now. Foreseen trouble does not raise: it is in the report, with how long each step took until then.

    A connection that is lost is made anew, as `retry` says. One drill at a time: it may have the app's place.
    """
    details = DrillDetails(drill=DrillReport(request.store, request.max_age_s))
    with context.run("drill", request.source, details) as run, context.task_lock("drill"):
        run.start()
        if request.note:
            run.note(request.note)
        _sweep(context)
        place = place_of(request.app, run) if request.app else None
        if place:
            place.prepare()
        with work_directory(context) as directory:
            _rehearse(request, open_store, retry, directory, run, context)
    return run.report


def _sweep(context: TaskContext) -> None:
    """Remove what a killed drill left in staging, unless somebody works on the store, who has done so."""
    with suppress(LockHeld), replace(context, lock_timeout_s=0).exclusive_lock("drill"):
        context.recover()


def _rehearse(
    request: DrillRequest,
    open_store: OpenStore,
    retry: Retry,
    directory: Path,
    run: DrillRun,
    context: TaskContext,
) -> None:
    began = time.monotonic()
    restored = directory / "restored.sqlite3"
    manifest = _restore(request, open_store, retry, restored, run, context)
    took_s = round(time.monotonic() - began, 3)
    trouble = record_verification(
        manifest.id, context, sound=True, detail="sound", duration_s=took_s, store=request.store
    )
    if trouble:
        run.warn(trouble)
    if request.app:
        prove_app(request.app, restored, manifest.origin, run)
    recovery_s = round(time.monotonic() - began, 3)
    run.details = replace(run.details, drill=replace(run.details.drill, recovery_s=recovery_s))


def _restore(
    request: DrillRequest,
    open_store: OpenStore,
    retry: Retry,
    target: Path,
    run: DrillRun,
    context: TaskContext,
) -> Manifest:
    """Restore the newest copy as `target`, timed by stage; damage is marked. Raises what keeps it from being proven."""
    timed = Stopwatch(context.progress, run.add_stage)
    watched = replace(context, progress=timed)
    try:
        manifest, store = retry(lambda: _fetch(request, open_store, target.parent, run, watched))
        _prove(manifest, store, target, request, run, watched)
    except CopyCorrupt as error:
        if run.report.generation:
            record_verification(run.report.generation, context, sound=False, detail=error.message, store=request.store)
        raise
    finally:
        timed.end()
    return manifest


def _fetch(
    request: DrillRequest, open_store: OpenStore, directory: Path, run: DrillRun, context: TaskContext
) -> tuple[Manifest, DirectoryStore]:
    """Choose the newest copy by the store's own listing, and fetch it."""
    context.progress.stage("connect", 0)
    with ExitStack() as stack:
        with replica_errors(request.store):
            store, inventory = stack.enter_context(open_store())
        manifest = _newest(request, inventory, run, context)
        _require_room(manifest, request, directory)
        reserve = reserve_bytes(directory, request.reserve_bytes)
        return manifest, fetch(manifest, store, directory, reserve, context)


def _newest(request: DrillRequest, inventory: Inventory, run: DrillRun, context: TaskContext) -> Manifest:
    """Return the manifest of the newest copy that counts.

    Raises GenerationMissing, ForeignCopies, OtherDatabase; DrillFailed when it is too old.
    """
    foreign: tuple[ForeignGenerations, ...] = ()
    if request.store != LOCAL_STORE:
        foreign = provenance_of(read_inventory(context), context).foreign(inventory, request.source)
        inventory = inventory.without(key for group in foreign for key in group.ids)
    manifest, as_of = inventory.last_verified(request.source), last_verified_at(request.source, inventory, context)
    if foreign and manifest is None:
        raise refusal(foreign, request.store, "a drill of them would prove nothing for this app", context.clock())
    if manifest is None or as_of is None:
        raise GenerationMissing(
            f"there is no sound copy of {request.source} at {request.store}: nothing could be restored from there",
            "run backupd replicate, or take a backup first",
        )
    if request.path is not None:
        require_same_database(manifest, inventory, request.path)
    age_s = max(0.0, (context.clock() - as_of).total_seconds())
    drill = DrillReport(request.store, request.max_age_s, manifest.taken_at, round(age_s, 3))
    run.details = DrillDetails(generation=manifest.id, drill=drill)
    passed_over = [g.id for g in inventory.of(request.source) if g.taken_at > manifest.taken_at]
    if passed_over:
        run.warn(f"newer at {request.store}, but damaged or dated in the future: {', '.join(passed_over)}")
    if age_s > request.max_age_s:
        raise DrillFailed(
            f"the newest sound copy of {request.source} at {request.store} ({manifest.id}) is {human_duration(age_s)} "
            f"old, more than {human_duration(request.max_age_s)}: a restore would lose all since then",
            "see why nothing newer is sent (backupd status), then run backupd replicate",
        )
    return manifest


def _require_room(manifest: Manifest, request: DrillRequest, directory: Path) -> None:
    """Refuse to begin what will not fit: the archive, the database, and where the app expects it the database again."""
    what, size_bytes = f"a drill of {manifest.id}", manifest.snapshot.size_bytes
    needed = manifest.archive.size_bytes + size_bytes
    place_at = request.app.place_at if request.app else None
    if place_at and same_file_system(place_at.parent, directory):
        needed += size_bytes
    elif place_at:
        require_space(place_at.parent, size_bytes, reserve_bytes(place_at.parent, request.reserve_bytes), what)
    require_space(directory, needed, reserve_bytes(directory, request.reserve_bytes), what)


def _prove(
    manifest: Manifest,
    store: DirectoryStore,
    target: Path,
    request: DrillRequest,
    run: DrillRun,
    context: TaskContext,
) -> None:
    """Unpack and prove the copy, and compare what is in it with what the manifest says. Raises CopyCorrupt."""
    reserve = reserve_bytes(target.parent, request.reserve_bytes)
    inspection = extract_verified(manifest, store, target, request.workers, context, reserve)
    note_proven(run, "digests", *inspection.verdict.checks)
    run.details = replace(
        run.details,
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=inspection.verdict.level,
    )
    differing = differences(inspection.contents, manifest.contents)
    if differing:
        raise CopyCorrupt(f"{manifest.id} is not what its manifest says: {differing}", _HINT)
    if manifest.contents is not None:
        note_proven(run, "contents")
    store.archive_path(manifest.id).unlink()  # its room is for the app
