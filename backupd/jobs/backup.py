"""One verified backup of one source: the same steps by schedule and by hand.

    lock, heal → look at the source → copy → check ∥ pack ∥ digest → guard → publish → expire → report

Every step can be killed. Until its manifest is in place there is no new generation, and nothing old goes before.
"""

from backupd.catalog import RunRecord
from backupd.jobs.expire import expire
from backupd.jobs.freeze import (
    admit_doubt,
    emptied_error,
    frozen_on_corruption,
    guard_against_shrinking,
    quarantined,
    thaw,
)
from backupd.jobs.generations import local_inventory
from backupd.jobs.heal import healed_before_backup
from backupd.jobs.inventory import Inventory
from backupd.jobs.order import BackupOrder, Expiry
from backupd.jobs.origins import sharing
from backupd.jobs.pin import pin_if_possible
from backupd.jobs.prove import Proof, prove
from backupd.jobs.publish import publish, record_unchanged
from backupd.jobs.run import Run, recorded
from backupd.jobs.shrink import emptied
from backupd.jobs.site import Site
from backupd.jobs.words import human_bytes
from backupd.model import Contents, Manifest, RunReport
from backupd.sqlite.mounts import is_remote

_LARGE_WAL_BYTES = 256 << 20
_NOTES = 3


def backup(order: BackupOrder, site: Site) -> RunReport:
    """Back up one source now. Foreseen trouble does not raise: it is in the report, with what to do about it."""
    with recorded("backup", order.source, site) as run, site.locked("backup"):
        run.started()
        if order.zone_doubt:
            run.note(order.zone_doubt)
        if trouble := healed_before_backup(order.path, site):
            run.warn(trouble)
        inventory = local_inventory(site)
        last = inventory.last_verified(order.source)
        with site.store.staging() as staging, frozen_on_corruption(order, last, site):
            proof = prove(order, last, staging, run, site)
            contents = _sound_contents(order, proof, last, run, site)
            _tell_oddities(order, proof, run)
            if doubt := sharing(inventory, order.source, order.path):
                run.warn(doubt)
            _settle(order, proof, contents, inventory, run, site)
        if order.pin is not None and run.report.generation is not None:
            pin_if_possible(run.report.generation, order.pin, run, site)
        if order.expiry is not None:
            _expire(order.source, order.expiry, run, site)
        if order.replicas:
            _warn_of_replicas(order, run, site)
    return run.report


def _sound_contents(order: BackupOrder, proof: Proof, last: Manifest | None, run: Run, site: Site) -> Contents | None:
    """Return what is in the copy, None where it cannot be read.

    Raises CopyCorrupt, with the copy in quarantine, when it may not be published.
    """
    if proof.corrupt:
        raise quarantined(order, proof, proof.inspection.verdict.damage, last, site)
    admit_doubt(order, proof, last, run, site)
    contents = proof.inspection.contents
    if last is not None and emptied(last, contents) and not order.allow_empty:
        raise emptied_error(order, proof, last, site)
    return contents


def _settle(
    order: BackupOrder, proof: Proof, contents: Contents | None, inventory: Inventory, run: Run, site: Site
) -> None:
    """Publish the copy, or record that the last generation holds the same; freeze or thaw rotation."""
    shrunk = guard_against_shrinking(order, contents, proof.snapshot.size_bytes, inventory, run, site)
    last = inventory.last_verified(order.source)
    if proof.unchanged and last is not None:
        record_unchanged(last, run, site)
    elif proof.packed is not None:
        publish(order.source, proof, proof.packed, contents, run, site)
    if not shrunk:
        thaw(order.source, site)


def _expire(source: str, expiry: Expiry, run: Run, site: Site) -> None:
    """Prune; a generation that is published stays so, whatever happens to older ones."""
    try:
        expire(source, expiry, run, site)
    except OSError as error:
        run.warn(f"old generations could not be pruned: {error}")


def _warn_of_replicas(order: BackupOrder, run: Run, site: Site) -> None:
    """Let no backup that is nowhere but here pass for a good one: whoever takes it by hand hears of it too."""
    now = site.clock()
    unknown = dict[str, RunRecord | None]()
    failures = site.ask_catalog(
        lambda catalog: {name: catalog.last_failure("replicate", name, now) for name in order.replicas}, unknown
    )
    for name, failed in failures.items():
        if failed is not None:
            run.warn(f"the last replication to {name} failed: {failed.error or 'it was cut short'}")


def _tell_oddities(order: BackupOrder, proof: Proof, run: Run) -> None:
    snapshot, verdict = proof.snapshot, proof.inspection.verdict
    if snapshot.hot_journal:
        run.warn(f"the app of {order.path} died in a transaction and was not started again: copied as of before it")
    if is_remote(snapshot.filesystem) and order.settings.network_fs == "refuse":
        run.warn(
            f'{order.path} is on {snapshot.filesystem}, whose locks may fail: set network_fs = "allow" if you know'
        )
    if snapshot.writers_held_s > order.settings.writer_budget_s:
        why = "it is encrypted" if snapshot.method == "file" else "the app never left a quiet moment"
        run.note(f"writers were held for {snapshot.writers_held_s:.1f} s: {why}")
    if proof.source.wal_bytes > _LARGE_WAL_BYTES:
        run.note(f"the WAL is {human_bytes(proof.source.wal_bytes)}: the app does not get to checkpoint it")
    if verdict.foreign_key_violations:
        run.note(f"{verdict.foreign_key_violations} rows refer to parents that are not there")
    if proof.inspection.contents is not None and not proof.inspection.contents.tables:
        run.note(f"{order.path} has no tables: is it the database of the app?")
    for note in verdict.notes[:_NOTES]:
        run.note(note)
