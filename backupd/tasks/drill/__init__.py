"""Run a restore drill: fetch, unpack, verify and compare the newest copy of a store, and check the app on it.

It changes no store, except for marking a damaged copy.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from backupd.errors import ConfigError, CopyCorrupt, DrillFailed, GenerationMissing, LockHeld
from backupd.formatting import human_duration
from backupd.model import LOCAL_STORE, Contents, Manifest
from backupd.report import DrillDetails, DrillReport, RunReport
from backupd.sqlite.inspection import Inspection
from backupd.stores.contract import Archives
from backupd.system.held_file import HeldFile
from backupd.system.resources import require_space, reserve_bytes
from backupd.tasks.choice import Accept, accepting_damage, never, require_newest
from backupd.tasks.context import TaskContext, read_inventory, work_directory
from backupd.tasks.drill.app_check import WHICH_SOURCE, add_proven, app_database, check_app
from backupd.tasks.freshness import last_verified_at
from backupd.tasks.inventory import Inventory, require_same_database
from backupd.tasks.provenance import ForeignGenerations, provenance_of, refusal
from backupd.tasks.replica import Retry, replica_errors
from backupd.tasks.requests import DrillRequest
from backupd.tasks.restore.extract import extract_verified, fetch
from backupd.tasks.run import DrillRun, Stopwatch
from backupd.tasks.verify import record_verification

OpenStore = Callable[[], AbstractContextManager[tuple[Archives, Inventory]]]

_HINT = "use another generation, and send this one again (backupd replicate)"
_MOST_DIFFERENCES = 3
_RESTORED = "restored.sqlite3"


def drill(
    request: DrillRequest, open_store: OpenStore, retry: Retry, context: TaskContext, accept: Accept = never
) -> RunReport[DrillDetails]:
    """Run a drill now; errors are in the report, with the seconds of each stage before.

    `retry` opens the store, and `open_store` returns archives that resume after a lost connection. Newer
    copies that are damaged degrade the drill; where one cannot be read now, or was replaced, it fails unless an older
    one is `accept`ed. One drill runs at a time: the second instance of the app has one database.
    """
    details = DrillDetails(drill=DrillReport(request.store, request.max_age_s))
    with context.run("drill", request.source, details) as run, context.task_lock("drill"):
        run.start()
        if request.unclear:
            raise ConfigError(request.unclear, WHICH_SOURCE)
        if request.note:
            run.note(request.note)
        # Removes what a killed drill left in staging; another run that has the store has done so.
        with suppress(LockHeld), replace(context, lock_timeout_s=0).exclusive_lock("drill"):
            context.recover()
        if request.app and (placed := app_database(request.app, run)):
            placed.prepare()
        with work_directory(context) as directory:
            began = time.monotonic()
            restored = HeldFile.create(directory, _RESTORED)
            manifest = _restore(request, open_store, retry, accept, restored, run, context)
            took_s = round(time.monotonic() - began, 3)
            problem = record_verification(
                manifest.id, context, sound=True, detail="sound", duration_s=took_s, store=request.store
            )
            if problem:
                run.warn(problem)
            if request.app:
                check_app(request.app, restored, manifest.origin, run)
            recovery_s = round(time.monotonic() - began, 3)
            run.details = replace(run.details, drill=replace(run.details.drill, recovery_s=recovery_s))
    return run.report


def _restore(
    request: DrillRequest,
    open_store: OpenStore,
    retry: Retry,
    accept: Accept,
    target: HeldFile,
    run: DrillRun,
    context: TaskContext,
) -> Manifest:
    """Restore the newest copy as `target`, timed by stage, and return its manifest; damage is marked."""
    timed = Stopwatch(context.progress, run.add_stage)
    watched = replace(context, progress=timed)
    place = Path(target.directory.fixed_path)
    reserve = reserve_bytes(place, request.reserve_bytes)
    try:
        timed.stage("connect", 0)
        with ExitStack() as stack:

            def connect() -> tuple[Archives, Inventory]:
                with replica_errors(request.store):
                    return stack.enter_context(open_store())

            store, inventory = retry(connect)
            manifest = _newest(request, inventory.refusing_oversized(place), accept, run, watched)
            _require_space(manifest, request, place, reserve)
            fetched = fetch(manifest, store, target.directory, reserve, watched)
        _verify(extract_verified(manifest, fetched, target, request.workers, watched, reserve), manifest, run)
        fetched.remove()  # the app needs the space
    except CopyCorrupt as error:
        if run.report.generation:
            record_verification(run.report.generation, context, sound=False, detail=error.message, store=request.store)
        raise
    finally:
        timed.end()
    return manifest


def _newest(
    request: DrillRequest, inventory: Inventory, accept: Accept, run: DrillRun, context: TaskContext
) -> Manifest:
    """Return the manifest of the newest copy that counts.

    Raises GenerationMissing, ForeignCopies, OtherDatabase, CopyUnreadable, GenerationTaken; DrillFailed when it is too
    old.
    """
    foreign: tuple[ForeignGenerations, ...] = ()
    if request.store != LOCAL_STORE:
        foreign = provenance_of(read_inventory(context), context).foreign(inventory, request.source)
        inventory = inventory.without({key for group in foreign for key in group.ids} - inventory.replaced)
    manifest, as_of = inventory.last_database(request.source), last_verified_at(request.source, inventory, context)
    if foreign and manifest is None:
        raise refusal(foreign, request.store, "a drill of them would prove nothing for this app", context.clock())
    if manifest is None or as_of is None:
        inventory.require_readable(request.source)
        raise GenerationMissing(
            f"{request.store} has no verified copy of {request.source}: nothing could be restored from it",
            "run backupd replicate, or backupd backup first",
        )
    if request.path is not None:
        require_same_database(manifest, inventory, request.path)
    if warning := require_newest(manifest, inventory, accepting_damage(accept, manifest, inventory)):
        run.warn(warning)
    age_s = max(0.0, (context.clock() - as_of).total_seconds())
    drill = DrillReport(request.store, request.max_age_s, manifest.taken_at, round(age_s, 3))
    run.details = DrillDetails(generation=manifest.id, drill=drill)
    if age_s > request.max_age_s:
        raise DrillFailed(
            f"the newest verified copy of {request.source} at {request.store} ({manifest.id}) is "
            f"{human_duration(age_s)} old, more than {human_duration(request.max_age_s)}: a restore "
            "would lose everything since then",
            "see in backupd status why nothing newer is sent, then run backupd replicate",
        )
    return manifest


def _require_space(manifest: Manifest, request: DrillRequest, directory: Path, reserve: int) -> None:
    """Raise NoSpace where archive, database and the copy for the second instance of the app would not fit."""
    what, size_bytes = f"a drill of {manifest.id}", manifest.snapshot.size_bytes
    needed = manifest.archive.size_bytes + size_bytes
    place_at = request.app.place_at if request.app else None
    if place_at and place_at.parent.stat().st_dev == directory.stat().st_dev:
        needed += size_bytes
    elif place_at:
        require_space(place_at.parent, size_bytes, reserve_bytes(place_at.parent, request.reserve_bytes), what)
    require_space(directory, needed, reserve, what)


def _verify(inspection: Inspection, manifest: Manifest, run: DrillRun) -> None:
    """Report how the unpacked copy was verified, and compare it with the manifest. Raises CopyCorrupt."""
    add_proven(run, "digests", *inspection.verdict.checks)
    run.details = replace(
        run.details,
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=inspection.verdict.level,
    )
    if differing := differences(inspection.contents, manifest.contents):
        raise CopyCorrupt(f"{manifest.id} differs from its manifest: {differing}", _HINT)
    if manifest.contents is not None:
        add_proven(run, "contents")


def differences(found: Contents | None, expected: Contents | None) -> str:
    """Return how the contents `found` in a copy differ from those `expected`; empty if they do not, or if None are.

    Tables whose rows could not be counted (`None`) are skipped: counting may take functions that only the app has.
    """
    if expected is None:
        return ""
    if found is None:
        return "its contents could not be counted"
    all_of_them = list(_differences(found, expected))
    more = len(all_of_them) - _MOST_DIFFERENCES
    return "; ".join(all_of_them[:_MOST_DIFFERENCES]) + (f" and {more} more differences" if more > 0 else "")


def _differences(found: Contents, expected: Contents) -> Iterator[str]:
    for table in sorted(expected.tables.keys() - found.tables.keys()):
        yield f"table {table} is missing"
    for table in sorted(found.tables.keys() - expected.tables.keys()):
        yield f"table {table} is not in the manifest"
    for table in sorted(found.tables.keys() & expected.tables.keys()):
        rows, wanted = found.tables[table], expected.tables[table]
        if None not in (rows, wanted) and rows != wanted:
            yield f"table {table} has {rows} rows, not {wanted}"
    if found.schema_sha256 != expected.schema_sha256:
        yield "its schema has another digest"
