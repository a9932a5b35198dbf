"""Restore a generation as a new file."""

import glob
import os
import secrets
import tempfile
import time
from pathlib import Path

from backupd.errors import TargetRefused
from backupd.model import Manifest, SourceFacts
from backupd.sqlite.database_files import side_files
from backupd.stores.contract import Archives
from backupd.system.fs import change_owner, collect_limits, fsync_directory, place_exclusively, set_mode
from backupd.system.owners import owner_of
from backupd.system.resources import require_space
from backupd.tasks.context import TaskContext
from backupd.tasks.events import GenerationRestored
from backupd.tasks.restore import RestoreResult
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.verify import marking_damage

_ABANDONED_S = 86400


def restore_to_path(
    manifest: Manifest,
    target: Path,
    workers: int,
    context: TaskContext,
    *,
    store: Archives | None = None,
    dry_run: bool = False,
) -> RestoreResult:
    """Restore a generation of `store` (None: the local one) as the new file `target`; no file is replaced.

    The file gets its name when it is complete, verified and durable. It has the mode of the source, and with root also
    its owner, where root may set that. Raises TargetRefused, CopyCorrupt, NoSpace.
    """
    target = target.absolute()
    refuse_unsafe(target)
    with collect_limits() as limits:
        if dry_run:
            require_space(target.parent, manifest.snapshot.size_bytes, 0, f"restoring {manifest.id}")
            with tempfile.TemporaryFile(dir=target.parent) as trial:
                owner, mode = _apply_ownership(trial.fileno(), target, manifest.origin)
            fsync_directory(target.parent)
        else:
            owner, mode = _restore(manifest, target, workers, context, store or context.store)
            what = f"restored {manifest.id} to {target}"
            context.emit(GenerationRestored(what, manifest.id, str(target)))
    return RestoreResult(
        source=manifest.source,
        generation=manifest.id,
        taken_at=manifest.taken_at,
        target=str(target),
        snapshot_bytes=manifest.snapshot.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        owner=owner,
        mode=f"{mode:04o}",
        dry_run=dry_run,
        level=manifest.verdict.level,
        notes=tuple(limits),
    )


def refuse_unsafe(target: Path) -> None:
    """Raise TargetRefused for a target that exists, has no directory, or has side files that SQLite would replay."""
    if not target.parent.is_dir():
        raise TargetRefused(f"the directory {target.parent} does not exist", "create it, or give another --to PATH")
    if target.is_dir():
        raise TargetRefused(f"{target} is a directory", "give the path of a new file in it")
    if os.path.lexists(target):
        raise TargetRefused(f"{target} already exists", "give a new path, or restore in place (without --to)")
    for path in side_files(target):
        if os.path.lexists(path):
            raise TargetRefused(
                f"{path} exists: SQLite would replay it into the restored database",
                "move it away, or give another --to PATH",
            )


def _restore(
    manifest: Manifest, target: Path, workers: int, context: TaskContext, store: Archives
) -> tuple[str | None, int]:
    """Restore, and return owner and mode of the new file."""
    _sweep_old_parts(target)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with marking_damage(manifest, store, context):
            extract_verified(manifest, store, part, workers, context)
        with part.open("rb") as stream:
            applied = _apply_ownership(stream.fileno(), target, manifest.origin)
            os.fsync(stream.fileno())
        try:
            place_exclusively(part, target)
        except FileExistsError as error:
            raise TargetRefused(f"{target} was created by another process", "give another --to PATH") from error
        fsync_directory(target.parent)
    finally:
        part.unlink(missing_ok=True)
    return applied


def _sweep_old_parts(target: Path) -> None:
    """Remove parts of killed restores to this target after a day; a younger one may belong to a running restore."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        if time.time() - part.stat().st_mtime > _ABANDONED_S:
            part.unlink()


def _apply_ownership(descriptor: int, target: Path, origin: SourceFacts) -> tuple[str | None, int]:
    """Give the open file mode and owner of the source; return owner, None where it stays that of us, and mode."""
    mode = set_mode(descriptor, origin.mode & 0o777, target)
    given = (
        os.geteuid() == 0
        and origin.uid is not None
        and change_owner(descriptor, origin.uid, origin.gid, target) is None
    )
    imposed = os.fstat(descriptor).st_uid != os.geteuid()  # on FAT and SMB, by the mount
    return (owner_of(descriptor) if given or imposed else None), mode
