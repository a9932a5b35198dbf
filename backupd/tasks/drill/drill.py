"""Rehearse a restore from a store: fetch, unpack, prove, compare, and let the app prove itself on the result.

Nothing in any store changes but the marks of damage that every check makes.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from backupd.errors import CopyCorrupt, DrillFailed, GenerationMissing, LockHeld
from backupd.formatting import human_span
from backupd.model import LOCAL_STORE, DrillReport, Manifest, RunReport
from backupd.stores.contract import Archives
from backupd.stores.local import DirectoryStore
from backupd.tasks.check_results import remember_check
from backupd.tasks.context import Site, read_inventory, workplace
from backupd.tasks.disk_space import require_space, reserve_bytes, same_file_system
from backupd.tasks.drill.app_check import differences, note_proven, place_of, prove_app
from backupd.tasks.freshness import last_proof
from backupd.tasks.inventory import Inventory
from backupd.tasks.options import DrillOrder
from backupd.tasks.origins import require_same_database
from backupd.tasks.provenance import Foreign, claims_of, refusal
from backupd.tasks.replicate import told_of
from backupd.tasks.restore.extract import fetch, unpack_proven
from backupd.tasks.retry import Retry
from backupd.tasks.run import Run, Stopwatch, recorded

OpenStore = Callable[[], AbstractContextManager[tuple[Archives, Inventory]]]

_HINT = "use another generation, and let the replica have this one anew (backupd replicate)"


def drill(order: DrillOrder, open_store: OpenStore, retry: Retry, site: Site) -> RunReport:
    """Rehearse now. Foreseen trouble does not raise: it is in the report, with how long each step took until then.

    A connection that is lost is made anew, as `retry` says. One drill at a time: it may have the app's place.
    """
    with recorded("drill", order.source, site) as run, site.locked_for("drill"):
        run.started()
        run.update(drill=DrillReport(order.store, order.max_age_s))
        if order.note:
            run.note(order.note)
        _sweep(site)
        place = place_of(order.app, run) if order.app else None
        if place:
            place.prepare()
        with workplace(site) as directory:
            _rehearse(order, open_store, retry, directory, run, site)
    return run.report


def _sweep(site: Site) -> None:
    """Remove what a killed drill left in staging, unless somebody works on the store, who has done so."""
    with suppress(LockHeld), replace(site, lock_timeout_s=0).locked("drill"):
        pass


def _rehearse(order: DrillOrder, open_store: OpenStore, retry: Retry, directory: Path, run: Run, site: Site) -> None:
    began = time.monotonic()
    run.update(drill=DrillReport(order.store, order.max_age_s))
    restored = directory / "restored.sqlite3"
    manifest = _restore(order, open_store, retry, restored, run, site)
    took_s = round(time.monotonic() - began, 3)
    trouble = remember_check(manifest.id, site, sound=True, detail="sound", duration_s=took_s, store=order.store)
    if trouble:
        run.warn(trouble)
    if order.app:
        prove_app(order.app, restored, manifest.origin, run)
    if run.report.drill:
        run.update(drill=replace(run.report.drill, recovery_s=round(time.monotonic() - began, 3)))


def _restore(order: DrillOrder, open_store: OpenStore, retry: Retry, target: Path, run: Run, site: Site) -> Manifest:
    """Restore the newest copy as `target`, timed by stage; damage is marked. Raises what keeps it from being proven."""
    timed = Stopwatch(site.progress, run.add_stage)
    watched = replace(site, progress=timed)
    fetched: list[tuple[Manifest, DirectoryStore]] = []
    try:
        retry(lambda: fetched.append(_fetch(order, open_store, target.parent, run, watched)))
        manifest, store = fetched[-1]
        _prove(manifest, store, target, order, run, watched)
    except CopyCorrupt as error:
        if run.report.generation:
            remember_check(run.report.generation, site, sound=False, detail=error.message, store=order.store)
        raise
    finally:
        timed.end()
    return manifest


def _fetch(
    order: DrillOrder, open_store: OpenStore, directory: Path, run: Run, site: Site
) -> tuple[Manifest, DirectoryStore]:
    """Choose the newest copy by the store's own listing, and fetch it."""
    site.progress.stage("connect", 0)
    with ExitStack() as stack:
        with told_of(order.store):
            store, inventory = stack.enter_context(open_store())
        manifest = _newest(order, inventory, run, site)
        _require_room(manifest, order, directory)
        reserve = reserve_bytes(directory, order.reserve_bytes)
        return manifest, fetch(manifest, store, directory, reserve, site)


def _newest(order: DrillOrder, inventory: Inventory, run: Run, site: Site) -> Manifest:
    """Return the manifest of the newest copy that counts.

    Raises GenerationMissing, ForeignCopies, OtherDatabase; DrillFailed when it is too old.
    """
    foreign: tuple[Foreign, ...] = ()
    if order.store != LOCAL_STORE:
        foreign = claims_of(read_inventory(site), site).foreign(inventory, order.source)
        inventory = inventory.without(key for group in foreign for key in group.ids)
    manifest, as_of = inventory.last_verified(order.source), last_proof(order.source, inventory, site)
    if foreign and manifest is None:
        raise refusal(foreign, order.store, "a drill of them would prove nothing for this app", site.clock())
    if manifest is None or as_of is None:
        raise GenerationMissing(
            f"there is no sound copy of {order.source} at {order.store}: nothing could be restored from there",
            "run backupd replicate, or take a backup first",
        )
    if order.path is not None:
        require_same_database(manifest, inventory, order.path)
    age_s = max(0.0, (site.clock() - as_of).total_seconds())
    drill = DrillReport(order.store, order.max_age_s, manifest.taken_at, round(age_s, 3))
    run.update(generation=manifest.id, drill=drill)
    passed_over = [g.id for g in inventory.of(order.source) if g.taken_at > manifest.taken_at]
    if passed_over:
        run.warn(f"newer at {order.store}, but damaged or dated in the future: {', '.join(passed_over)}")
    if age_s > order.max_age_s:
        raise DrillFailed(
            f"the newest sound copy of {order.source} at {order.store} ({manifest.id}) is {human_span(age_s)} old, "
            f"more than {human_span(order.max_age_s)}: a restore would lose all since then",
            "see why nothing newer is sent (backupd status), then run backupd replicate",
        )
    return manifest


def _require_room(manifest: Manifest, order: DrillOrder, directory: Path) -> None:
    """Refuse to begin what will not fit: the archive, the database, and where the app expects it the database again."""
    what, size_bytes = f"a drill of {manifest.id}", manifest.snapshot.size_bytes
    needed = manifest.archive.size_bytes + size_bytes
    place_at = order.app.place_at if order.app else None
    if place_at and same_file_system(place_at.parent, directory):
        needed += size_bytes
    elif place_at:
        require_space(place_at.parent, size_bytes, reserve_bytes(place_at.parent, order.reserve_bytes), what)
    require_space(directory, needed, reserve_bytes(directory, order.reserve_bytes), what)


def _prove(manifest: Manifest, store: DirectoryStore, target: Path, order: DrillOrder, run: Run, site: Site) -> None:
    """Unpack and prove the copy, and compare what is in it with what the manifest says. Raises CopyCorrupt."""
    reserve = reserve_bytes(target.parent, order.reserve_bytes)
    inspection = unpack_proven(manifest, store, target, order.workers, site, reserve)
    note_proven(run, "digests", *inspection.verdict.checks)
    run.update(
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
