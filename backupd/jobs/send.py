"""Send one generation to a replica: only what is sound here, where there is room, and never over somebody else's."""

from collections.abc import Iterator
from contextlib import contextmanager

from backupd.archive.manifest import decode_manifest
from backupd.errors import BackupdError, GenerationMissing, ManifestInvalid, NoSpace
from backupd.files import is_full
from backupd.jobs.checks import examine_archive, remember_check
from backupd.jobs.run import Run
from backupd.jobs.site import Site
from backupd.jobs.words import human_bytes
from backupd.log import Event
from backupd.model import Manifest
from backupd.oserrors import why_full
from backupd.stores.contract import Replica
from backupd.stores.taken import manifest_there, taken
from backupd.text import printable

_DENIED = (
    "let the account there read and write the directory of the replica (owner and mode), or correct the path in url"
)
_LONGEST = 400


def send(manifest: Manifest, replica: Replica, run: Run, site: Site) -> None:
    """Send it and tell, unless it was pruned here meanwhile, or turns out to be damaged here.

    Raises GenerationTaken, NoSpace, CopyCorrupt, ReplicaUnreachable, OSError.
    """
    key = manifest.id
    try:
        with run.stage("read"):
            found = examine_archive(manifest, site.store)
        encoded = site.store.manifest(key)
    except GenerationMissing:
        run.note(f"{key} was pruned meanwhile, and not sent")
        return
    if found.damaged:
        remember_check(key, site, sound=False, detail=found.detail)
    if not found.sound:
        run.warn(f"{key} was not sent: {found.detail}")
        return
    require_ours(manifest, _manifest_at(replica, key), replica.name)
    _require_room(manifest, replica)
    site.progress.stage(f"send {key}", manifest.archive.size_bytes)
    with run.stage("send"), _counted(replica, run):
        replica.publish(key, site.store.archive_path(key), encoded)
    _tell(manifest, replica, run, site)


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """Say of which replica the errors of the block are. Raises NoSpace, BackupdError."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            what, hint = why_full(error, error.filename if isinstance(error.filename, str) else None)
            raise NoSpace(f"{name}: {what}", hint) from error
        path = f": {error.filename}" if isinstance(error.filename, str) else ""
        what = f"{name}: {printable(f'{error.strerror or error}{path}')[:_LONGEST]}"
        hint = _DENIED if isinstance(error, PermissionError) else "check free space, inodes, quota and rights there"
        raise BackupdError(what, f"{hint}; backupd doctor tries them") from error


def require_ours(manifest: Manifest, there: Manifest | None, name: str) -> None:
    """Raise GenerationTaken when the replica has another generation under that id: it is no copy of ours."""
    if there is not None and there.archive.sha256 != manifest.archive.sha256:
        raise taken(manifest.id, name)


@contextmanager
def _counted(replica: Replica, run: Run) -> Iterator[None]:
    """Add what travels in the block to the report, also when it was in vain."""
    before = replica.travelled_bytes
    try:
        yield
    finally:
        run.update(sent_bytes=run.report.sent_bytes + replica.travelled_bytes - before)


def _manifest_at(replica: Replica, generation_id: str) -> Manifest | None:
    encoded = manifest_there(replica, generation_id)
    try:
        return None if encoded is None else decode_manifest(encoded, generation_id)
    except ManifestInvalid:  # damaged: about to be replaced
        return None


def _require_room(manifest: Manifest, replica: Replica) -> None:
    free = replica.free_space()
    needed = manifest.archive.size_bytes - replica.begun_bytes(manifest.id)
    if free is not None and free < needed:
        raise NoSpace(
            f"{manifest.id} needs {human_bytes(needed)} at {replica.name}, where {human_bytes(free)} are free",
            "free space there",
        )


def _tell(manifest: Manifest, replica: Replica, run: Run, site: Site) -> None:
    transfer = replica.last_transfer
    run.sent(manifest.id, transfer.spared_bytes, transfer.proven_by)
    if transfer.doubt:
        run.note(f"copies at {replica.name} were read back: {transfer.doubt}")
    site.tell_catalog(lambda catalog: catalog.add_generation(manifest, replica.name))
    site.log.info(
        Event.GENERATION_SENT,
        f"{manifest.id} is at {replica.name}, and equal ({transfer.proven_by})",
        generation=manifest.id,
        store=replica.name,
        sent_bytes=transfer.sent_bytes,
        spared_bytes=transfer.spared_bytes,
        proven_by=transfer.proven_by,
    )
