"""Fetch, unpack and prove a generation: what `verify` and `restore` both do, and the only way out of an archive."""

from pathlib import Path

from backupd.archive.members import unpack
from backupd.errors import CopyCorrupt
from backupd.jobs.site import Site
from backupd.jobs.space import require_space
from backupd.model import Manifest
from backupd.sqlite.verify import checking
from backupd.stores.contract import Store

_HINT = "use another generation, or this one from another store (backupd list)"


def unpack_proven(manifest: Manifest, store: Store, target: Path, workers: int, site: Site) -> None:
    """Unpack a generation into the new file `target` (0600), durably, and prove it before this returns.

    The archive's digest, the snapshot's digest and size, and the integrity check must all be right.
    Raises CopyCorrupt, with `target` gone; GenerationMissing; NoSpace.
    """
    require_space(target.parent, manifest.snapshot.size_bytes, 0, f"unpacking {manifest.id}")
    try:
        _unpack(manifest, store, target, workers, site)
        _check(manifest, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _unpack(manifest: Manifest, store: Store, target: Path, workers: int, site: Site) -> None:
    expected = manifest.snapshot
    site.progress.stage("unpack", expected.size_bytes)
    with store.open(manifest.id) as archive:
        sha256 = unpack(
            archive,
            target,
            manifest.archive,
            limit_bytes=expected.size_bytes,
            workers=workers,
            advance=site.progress.advance,
        )
    if sha256 != expected.sha256 or target.stat().st_size != expected.size_bytes:
        raise CopyCorrupt(f"{manifest.id} does not unpack to the snapshot that its manifest describes", _HINT)


def _check(manifest: Manifest, target: Path) -> None:
    with checking(target, manifest.snapshot.sqlite_writer) as inspection:
        verdict = inspection().verdict
    if verdict.level == "corrupt":
        raise CopyCorrupt(f"{manifest.id} is corrupt: {verdict.damage[0]}", _HINT)
