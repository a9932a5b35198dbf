"""Fetch, unpack and prove a generation: what `verify` and `restore` both do, and the only way out of an archive."""

from collections.abc import Callable
from pathlib import Path

from backupd.archive.members import unpack
from backupd.errors import CopyCorrupt, NoSpace
from backupd.files import is_full
from backupd.jobs.site import Site
from backupd.jobs.space import require_space, watching_space
from backupd.model import Manifest
from backupd.oserrors import why_full
from backupd.sqlite.verify import Inspection, checking
from backupd.stores.contract import Archives

_HINT = "use another generation, or this one from another store (backupd list)"


def unpack_proven(
    manifest: Manifest, store: Archives, target: Path, workers: int, site: Site, reserve_bytes: int = 0
) -> Inspection:
    """Unpack a generation into the new file `target` (0600), durably, and prove it before this returns what is in it.

    The archive's digest, the snapshot's digest and size, and the integrity check must all be right.
    At least `reserve_bytes` stay free. Raises CopyCorrupt, with `target` gone; GenerationMissing; NoSpace.
    """
    require_space(target.parent, manifest.snapshot.size_bytes, reserve_bytes, f"unpacking {manifest.id}")
    site.progress.stage("unpack", manifest.snapshot.size_bytes)
    try:
        _unpack(manifest, store, target, workers, watching_space(target.parent, reserve_bytes, site.progress.advance))
        site.progress.stage("check", manifest.snapshot.size_bytes)
        return _check(manifest, target)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, CopyCorrupt):
            raise CopyCorrupt(f"{manifest.id}: {error.message}", _HINT) from error
        if isinstance(error, OSError) and is_full(error):
            what, hint = why_full(error, target.parent)
            raise NoSpace(what, f"{hint}, and try again") from error
        raise


def _unpack(manifest: Manifest, store: Archives, target: Path, workers: int, advance: Callable[[int], None]) -> None:
    expected = manifest.snapshot
    with store.open(manifest.id) as archive:
        sha256 = unpack(
            archive,
            target,
            manifest.archive,
            limit_bytes=expected.size_bytes,
            workers=workers,
            advance=advance,
        )
    if sha256 != expected.sha256 or target.stat().st_size != expected.size_bytes:
        raise CopyCorrupt("it does not unpack to the snapshot that its manifest describes", _HINT)


def _check(manifest: Manifest, target: Path) -> Inspection:
    with checking(target, manifest.snapshot.sqlite_writer) as wait:
        inspection = wait()
    if inspection.verdict.level == "corrupt":
        raise CopyCorrupt(f"it is corrupt: {inspection.verdict.damage[0]}", _HINT)
    if inspection.verdict.level == "opaque" != manifest.verdict.level:
        raise CopyCorrupt("it cannot be read, and could be when its manifest was written", _HINT)
    return inspection
