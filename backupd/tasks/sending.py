"""Send generations and restore points to a replica, each after all that it needs: contents, list, manifest, index."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

from backupd.archive.content import unpacked
from backupd.archive.file_list import FileEntry, contents_in, decode_entries
from backupd.archive.manifest import decode_manifest
from backupd.errors import ContentMissing, CopyCorrupt, GenerationMissing, ManifestInvalid, NoSpace
from backupd.formatting import counted, human_bytes
from backupd.model import AnyManifest, FilesManifest, RestorePoint
from backupd.stores.contract import Replica, find_manifest, generation_taken
from backupd.tasks.contents_check import ContentsCheck
from backupd.tasks.context import TaskContext
from backupd.tasks.events import GenerationSent
from backupd.tasks.run import ReplicationRun
from backupd.tasks.store_events import PointSent
from backupd.tasks.verify import digest_archive, record_verification

_MOST_ROUNDS: Final = 3  # of sending contents: what is lost there faster than that is found by the next run


def send(manifest: AnyManifest, replica: Replica, run: ReplicationRun, context: TaskContext) -> None:
    """Send one generation, unless it has been pruned since the plan was made, or is damaged here.

    Of a set of files, the contents that the replica lacks come first. Raises GenerationTaken, NoSpace, CopyCorrupt,
    ReplicaUnreachable, OSError.
    """
    generation_id = manifest.id
    try:
        with run.stage("read"):
            found = digest_archive(manifest, context.store)
        encoded = context.store.manifest(generation_id)
    except GenerationMissing:
        run.note(f"{generation_id} was pruned during the run, and not sent")
        return
    if found.damaged:
        record_verification(generation_id, context, sound=False, detail=found.detail)
    if not found.sound:
        run.warn(f"{generation_id} was not sent: {found.detail}")
        return
    found_there = find_manifest(replica, generation_id)
    there = _decoded(found_there, generation_id)
    if there is not None and there.archive.sha256 != manifest.archive.sha256:
        raise generation_taken(generation_id, replica.name)
    if isinstance(manifest, FilesManifest):
        faulty = _faulty_contents(manifest, replica, run, context) if there is not None else frozenset[str]()
        if not _send_contents(manifest, faulty, replica, run, context):
            return
    _require_room(manifest, replica)
    context.progress.stage(f"send {generation_id}", manifest.archive.size_bytes)
    with run.stage("send"), _counted(replica, run):
        path = context.store.archive_path(generation_id)
        replica.publish(generation_id, path, encoded, manifest.kind, found_there)
    _record_sent(manifest, replica, run)


def send_point(point: RestorePoint, replica: Replica, run: ReplicationRun, context: TaskContext) -> None:
    """Send the index of a restore point, whose parts are all at the replica. Raises GenerationTaken, OSError."""
    try:
        encoded = context.store.point(point.id)
    except GenerationMissing:
        run.note(f"{point.id} was pruned during the run, and not sent")
        return
    replica.publish_point(point.id, encoded)
    run.details = replace(run.details, points=(*run.details.points, point.id))
    run.emit(PointSent(point.id, replica.name))


def send_lost_contents(
    manifests: Iterable[AnyManifest], replica: Replica, run: ReplicationRun, context: TaskContext
) -> None:
    """Send again what a replica has lost of the contents of generations that are there, and here as well."""
    digests = set[bytes]()
    for manifest in manifests:
        if isinstance(manifest, FilesManifest):
            with suppress(GenerationMissing, CopyCorrupt, OSError):  # pruned since, or damaged: then it is not known
                digests.update(_contents_of(manifest, context))
    if not digests:
        return
    before = run.details.contents
    if fault := _publish(digests, replica, run, context):
        run.warn(f"contents of files that are lost at {replica.name} cannot be sent again: {fault}")
    if lost := run.details.contents - before:
        run.warn(f"{counted(lost, 'content')} of files were no longer at {replica.name}, and were sent again")


def _faulty_contents(
    manifest: FilesManifest, replica: Replica, run: ReplicationRun, context: TaskContext
) -> frozenset[str]:
    """Read the contents of a generation that was found damaged at a replica; return the digests of those that are."""
    check = ContentsCheck(replica.contents)
    context.progress.stage(f"read {manifest.id} at {replica.name}", manifest.files.size_bytes)
    with run.stage("read"):
        check.check(partial(_entries_of, manifest, context), 0, context.progress.advance)
    return check.faulty


def _send_contents(
    manifest: FilesManifest, faulty: Collection[str], replica: Replica, run: ReplicationRun, context: TaskContext
) -> bool:
    """Send the contents that the list of a generation names and that the replica lacks, or has `faulty`.

    Returns False, after marking the generation as damaged, where one is damaged or missing here.
    """
    context.progress.stage(f"send contents of {manifest.id}", manifest.files.size_bytes)
    fault = _publish(_contents_of(manifest, context), replica, run, context, faulty)
    if fault and context.store.has_files(manifest.id):
        record_verification(manifest.id, context, sound=False, detail=fault)
        run.warn(f"{manifest.id} was not sent: {fault}")
    elif fault:
        run.note(f"{manifest.id} was pruned during the run, and not sent")
    return not fault


def _publish(
    found: Iterable[bytes], replica: Replica, run: ReplicationRun, context: TaskContext, faulty: Collection[str] = ()
) -> str:
    """Send what the replica lacks, or has `faulty`, of the contents with these raw digests.

    While some are sent, another store that uses the replica may sweep what is there and no list names yet: so it is
    listed again after them. Returns what is wrong with one here.
    """
    digests = frozenset(found)
    for _ in range(_MOST_ROUNDS):
        try:
            with run.stage("send"), _counted(replica, run):
                transfer = replica.contents.publish(map(bytes.hex, digests), context.store.contents, faulty)
        except (ContentMissing, CopyCorrupt):
            if fault := _fault_here(digests, context):
                return fault
            raise
        run.details = replace(
            run.details,
            contents=run.details.contents + transfer.contents,
            contents_bytes=run.details.contents_bytes + transfer.sent_bytes,
        )
        faulty = ()
        if not transfer.contents:
            break
    return ""


def _contents_of(manifest: FilesManifest, context: TaskContext) -> Iterator[bytes]:
    with unpacked(context.store.open(manifest.id), manifest.archive.member_bytes) as listed:
        yield from contents_in(listed, manifest.files.list_sha256, manifest.id)


def _entries_of(manifest: FilesManifest, context: TaskContext) -> Iterator[FileEntry]:
    with unpacked(context.store.open(manifest.id), manifest.archive.member_bytes) as listed:
        yield from decode_entries(listed, manifest.id)


def _fault_here(digests: Iterable[bytes], context: TaskContext) -> str:
    """Return what is wrong with the first content that is missing or damaged in the local store; empty for none."""
    for digest in digests:
        try:
            context.store.contents.require_sound(digest.hex())
        except (ContentMissing, CopyCorrupt) as error:
            return error.message
    return ""


@contextmanager
def _counted(replica: Replica, run: ReplicationRun) -> Iterator[None]:
    """Add the bytes that the block sends to the report, also when it fails."""
    before = replica.sent_bytes
    try:
        yield
    finally:
        sent_bytes = run.details.sent_bytes + replica.sent_bytes - before
        run.details = replace(run.details, sent_bytes=sent_bytes)


def _decoded(encoded: bytes | None, generation_id: str) -> AnyManifest | None:
    try:
        return None if encoded is None else decode_manifest(encoded, generation_id)
    except ManifestInvalid:  # damaged: about to be replaced
        return None


def _require_room(manifest: AnyManifest, replica: Replica) -> None:
    free = replica.free_space()
    needed = manifest.archive.size_bytes - replica.partial_bytes(manifest.id)
    if free is not None and free < needed:
        raise NoSpace(
            f"{manifest.id} needs {human_bytes(needed)} at {replica.name}, where {human_bytes(free)} are free",
            "free space there",
        )


def _record_sent(manifest: AnyManifest, replica: Replica, run: ReplicationRun) -> None:
    transfer, details = replica.last_transfer, run.details
    run.details = replace(
        details,
        sent=(*details.sent, manifest.id),
        resumed_bytes=details.resumed_bytes + transfer.resumed_bytes,
        verified_by=tuple(sorted({*details.verified_by, transfer.verified_by})),
    )
    if transfer.fallback_reason:
        run.note(f"copies at {replica.name} were read back: {transfer.fallback_reason}")
    run.emit(GenerationSent(manifest, replica.name, transfer))
