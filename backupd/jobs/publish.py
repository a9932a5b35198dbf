"""From a proven copy to a generation, or to the record that the last one is still the whole truth."""

from backupd import __version__
from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.archive.members import Packed
from backupd.errors import SnapshotFailed
from backupd.jobs.checks import remember_check
from backupd.jobs.prove import ARCHIVE_PART, Proof
from backupd.jobs.run import Run
from backupd.jobs.site import Site
from backupd.log import Event
from backupd.model import Contents, Manifest, generation_id

_MAX_ATTEMPT = 999


def publish(source: str, proof: Proof, packed: Packed, contents: Contents | None, run: Run, site: Site) -> Manifest:
    """Publish the proven copy as a new generation of `source` and return its manifest. Raises OSError."""
    manifest = _manifest(source, proof, packed, contents, site)
    sealed = encode_manifest(manifest)
    decode_manifest(sealed, manifest.id)  # nothing is published that a restore would refuse
    with run.stage("publish"):
        site.store.publish(manifest.id, proof.snapshot.path.parent / ARCHIVE_PART, sealed)
    site.log.info(
        Event.GENERATION_PUBLISHED,
        f"published {manifest.id}, verified {manifest.verdict.level}",
        generation=manifest.id,
        archive_bytes=packed.archive.size_bytes,
        archive_sha256=packed.archive.sha256,
    )
    site.tell_catalog(lambda catalog: catalog.add_generation(manifest, site.store.name))
    run.update(outcome="published")
    _tell(manifest, run, site)
    return manifest


def record_unchanged(last: Manifest, run: Run, site: Site) -> Manifest:
    """Record that the source still holds, digest for digest, what the sound generation `last` holds."""
    site.log.info(
        Event.SNAPSHOT_UNCHANGED,
        f"{last.source} is what {last.id} holds: verified unchanged",
        generation=last.id,
    )
    remember_check(last.id, site, sound=True, detail="verified unchanged")
    run.update(outcome="unchanged")
    _tell(last, run, site)
    return last


def _manifest(source: str, proof: Proof, packed: Packed, contents: Contents | None, site: Site) -> Manifest:
    return Manifest(
        format=1,
        id=_free_id(source, proof, site),
        source=source,
        store=site.identity(),
        taken_at=proof.taken_at,
        backupd_version=__version__,
        origin=proof.source.facts,
        snapshot=proof.snapshot.facts(packed.snapshot_sha256),
        archive=packed.archive,
        contents=contents,
        verdict=proof.inspection.verdict,
    )


def _free_id(source: str, proof: Proof, site: Site) -> str:
    """Count on in one minute, past names that a removal has freed here: a replica may hold one of that name."""
    names = [generation_id(source, proof.taken_at, attempt) for attempt in range(1, _MAX_ATTEMPT + 1)]
    taken = site.store.all_taken() | site.copies().keys()
    last = max((number for number, name in enumerate(names) if name in taken), default=-1)
    if last + 1 == len(names):
        raise SnapshotFailed(f"{names[last]} is taken, the last name that this minute has", "try again in a minute")
    return names[last + 1]


def _tell(manifest: Manifest, run: Run, site: Site) -> None:
    run.update(
        generation=manifest.id,
        archive_path=str(site.store.archive_path(manifest.id)),
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )
