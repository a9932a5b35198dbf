"""One verified backup of one source: the same steps by schedule and by hand.

    lock, heal → look at the source → copy → check ∥ pack ∥ digest → guard → publish → expire → report

Every step can be killed. Until its manifest is in place there is no new generation, and nothing old goes before.
"""

from dataclasses import replace

from backupd import __version__
from backupd.archive.archive import Packed
from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.catalog import RunRecord
from backupd.errors import NamesExhausted
from backupd.formatting import human_bytes
from backupd.model import Contents, Manifest, generation_id
from backupd.report import BackupDetails, RunReport
from backupd.system.mounts import is_remote
from backupd.tasks.capture import ARCHIVE_PART, Capture, capture_snapshot
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.inventory import Inventory, sharing
from backupd.tasks.prune import expire, pin_if_possible, removed_by
from backupd.tasks.pruning_hold import (
    admit_doubt,
    emptied,
    emptied_error,
    frozen_on_corruption,
    guard_against_shrinking,
    quarantined,
    thaw,
)
from backupd.tasks.reporter import GenerationPublished, SourceUnchanged
from backupd.tasks.requests import BackupRequest, RetentionRule
from backupd.tasks.restore.recovery import recover_before_backup
from backupd.tasks.run import BackupRun
from backupd.tasks.verify import record_verification

_MAX_ATTEMPT = 999
_LARGE_WAL_BYTES = 256 << 20
_NOTES = 3


def backup(request: BackupRequest, context: TaskContext) -> RunReport[BackupDetails]:
    """Back up one source now. Foreseen trouble does not raise: it is in the report, with what to do about it."""
    with context.run("backup", request.source, BackupDetails()) as run, context.exclusive_lock("backup"):
        context.recover()
        run.start()
        if request.timezone_warning:
            run.note(request.timezone_warning)
        if trouble := recover_before_backup(request.path, context):
            run.warn(trouble)
        inventory = local_inventory(context)
        last = inventory.last_verified(request.source)
        with context.store.staging() as staging, frozen_on_corruption(request, last, context):
            proof = capture_snapshot(request, last, staging, run, context)
            contents = _sound_contents(request, proof, last, run, context)
            _tell_oddities(request, proof, run)
            if doubt := sharing(inventory, request.source, request.path):
                run.warn(doubt)
            _settle(request, proof, contents, inventory, run, context)
        if request.pin is not None and run.report.generation is not None:
            pin_if_possible(run.report.generation, request.pin, run, context)
        if request.retention is not None:
            _expire(request.source, request.retention, run, context)
        if request.replicas:
            _warn_of_replicas(request, run, context)
    return run.report


def _sound_contents(
    request: BackupRequest, proof: Capture, last: Manifest | None, run: BackupRun, context: TaskContext
) -> Contents | None:
    """Return what is in the copy, None where it cannot be read.

    Raises CopyCorrupt, with the copy in quarantine, when it may not be published.
    """
    if proof.corrupt:
        raise quarantined(request, proof, proof.inspection.verdict.damage, last, context)
    admit_doubt(request, proof, last, run, context)
    contents = proof.inspection.contents
    if last is not None and emptied(last, contents) and not request.allow_empty:
        raise emptied_error(request, proof, last, context)
    return contents


def _settle(
    request: BackupRequest,
    proof: Capture,
    contents: Contents | None,
    inventory: Inventory,
    run: BackupRun,
    context: TaskContext,
) -> None:
    """Publish the copy, or record that the last generation holds the same; freeze or thaw rotation."""
    shrunk = guard_against_shrinking(request, contents, proof.snapshot.size_bytes, inventory, run, context)
    last = inventory.last_verified(request.source)
    if proof.unchanged and last is not None:
        record_unchanged(last, run, context)
    elif proof.packed is not None:
        publish(request.source, proof, proof.packed, contents, run, context)
    if not shrunk:
        thaw(request.source, context)


def _expire(source: str, retention: RetentionRule, run: BackupRun, context: TaskContext) -> None:
    """Prune; a generation that is published stays so, whatever happens to older ones."""
    try:
        plan = expire(source, retention, run, context)
    except OSError as error:
        run.warn(f"old generations could not be pruned: {error}")
    else:
        run.details = replace(run.details, kept=len(plan.keep), removed=removed_by(plan))


def _warn_of_replicas(request: BackupRequest, run: BackupRun, context: TaskContext) -> None:
    """Let no backup that is nowhere but here pass for a good one: whoever takes it by hand hears of it too."""
    now = context.clock()
    unknown = dict[str, RunRecord | None]()
    failures = context.ask_catalog(
        lambda catalog: {name: catalog.last_failure("replicate", name, now) for name in request.replicas}, unknown
    )
    for name, failed in failures.items():
        if failed is not None:
            run.warn(f"the last replication to {name} failed: {failed.error or 'it was cut short'}")


def _tell_oddities(request: BackupRequest, proof: Capture, run: BackupRun) -> None:
    snapshot, verdict = proof.snapshot, proof.inspection.verdict
    if snapshot.hot_journal:
        run.warn(f"the app of {request.path} died in a transaction and was not started again: copied as of before it")
    if is_remote(snapshot.filesystem) and request.settings.network_fs == "refuse":
        run.warn(
            f'{request.path} is on {snapshot.filesystem}, whose locks may fail: set network_fs = "allow" if you know'
        )
    if snapshot.writers_held_s > request.settings.writer_budget_s:
        why = "it is encrypted" if snapshot.method == "file" else "the app never left a quiet moment"
        run.note(f"writers were held for {snapshot.writers_held_s:.1f} s: {why}")
    if proof.source.wal_bytes > _LARGE_WAL_BYTES:
        run.note(f"the WAL is {human_bytes(proof.source.wal_bytes)}: the app does not get to checkpoint it")
    if verdict.foreign_key_violations:
        run.note(f"{verdict.foreign_key_violations} rows refer to parents that are not there")
    if proof.inspection.contents is not None and not proof.inspection.contents.tables:
        run.note(f"{request.path} has no tables: is it the database of the app?")
    for note in verdict.notes[:_NOTES]:
        run.note(note)


def publish(
    source: str,
    proof: Capture,
    packed: Packed,
    contents: Contents | None,
    run: BackupRun,
    context: TaskContext,
) -> Manifest:
    """Publish the proven copy as a new generation of `source` and return its manifest. Raises OSError."""
    manifest = _manifest(source, proof, packed, contents, context)
    sealed = encode_manifest(manifest)
    decode_manifest(sealed, manifest.id)  # nothing is published that a restore would refuse
    with run.stage("publish"):
        context.store.publish(manifest.id, proof.snapshot.path.parent / ARCHIVE_PART, sealed)
    run.emit(GenerationPublished(manifest))
    _tell(manifest, run, context)
    return manifest


def record_unchanged(last: Manifest, run: BackupRun, context: TaskContext) -> Manifest:
    """Record that the source still holds, digest for digest, what the sound generation `last` holds."""
    run.emit(SourceUnchanged(last))
    record_verification(last.id, context, sound=True, detail="verified unchanged")
    _tell(last, run, context)
    return last


def _manifest(source: str, proof: Capture, packed: Packed, contents: Contents | None, context: TaskContext) -> Manifest:
    return Manifest(
        format=1,
        id=_free_id(source, proof, context),
        source=source,
        store=context.identity(),
        taken_at=proof.taken_at,
        backupd_version=__version__,
        origin=proof.source.facts,
        snapshot=proof.snapshot.facts(packed.snapshot_sha256),
        archive=packed.archive,
        contents=contents,
        verdict=proof.inspection.verdict,
    )


def _free_id(source: str, proof: Capture, context: TaskContext) -> str:
    """Count on in one minute, past names that a removal has freed here: a replica may hold one of that name."""
    names = [generation_id(source, proof.taken_at, attempt) for attempt in range(1, _MAX_ATTEMPT + 1)]
    taken = context.store.ids_in_use() | context.copies().keys()
    last = max((number for number, name in enumerate(names) if name in taken), default=-1)
    if last + 1 == len(names):
        raise NamesExhausted(f"{names[last]} is taken, the last name that this minute has", "try again in a minute")
    return names[last + 1]


def _tell(manifest: Manifest, run: BackupRun, context: TaskContext) -> None:
    run.details = BackupDetails(
        generation=manifest.id,
        archive_path=str(context.store.archive_path(manifest.id)),
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )
