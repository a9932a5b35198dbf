"""Restore a generation to a new path: prove it first, put it in place last."""

import glob
import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backupd.errors import CopyCorrupt, TargetRefused
from backupd.log import Event
from backupd.model import Manifest, SourceFacts, Verification
from backupd.stores.contract import Archives
from backupd.system.fs import change_owner, collect_limits, fsync_directory, place_exclusively, set_mode
from backupd.system.owners import owner_of
from backupd.tasks.context import TaskContext
from backupd.tasks.disk_space import require_space
from backupd.tasks.restore.extract import extract_verified
from backupd.tasks.verify import record_verification

_ABANDONED_S = 86400
_SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did, or with `dry_run` would do; `owner` is `uid:gid`, None where it stays as it is.

    `level` is how far the generation was verified; `notes` tell what the file system cannot do.
    """

    generation: str
    taken_at: datetime
    target: str
    snapshot_bytes: int
    snapshot_sha256: str
    owner: str | None
    mode: str
    dry_run: bool
    level: Verification
    notes: tuple[str, ...] = ()


def restore_to(
    manifest: Manifest,
    target: Path,
    workers: int,
    context: TaskContext,
    *,
    store: Archives | None = None,
    dry_run: bool = False,
) -> Restored:
    """Restore a generation of `store` (None: the local one) as the new file `target`; nothing there is ever replaced.

    The file appears under its name complete, proven and durable, with the mode that the source had, and as root with
    its owner, where root may give files away. Raises TargetRefused, CopyCorrupt, NoSpace.
    """
    target = target.absolute()
    refuse_unsafe(target)
    with collect_limits() as limits:
        if dry_run:
            require_space(target.parent, manifest.snapshot.size_bytes, 0, f"restoring {manifest.id}")
            owner, mode = _rehearse(target, manifest.origin)
        else:
            owner, mode = _restore(manifest, target, workers, context, store or context.store)
    done = Restored(
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
    if not dry_run:
        context.log.info(
            Event.GENERATION_RESTORED,
            f"restored {manifest.id} to {target}",
            generation=manifest.id,
            target=str(target),
        )
    return done


def refuse_unsafe(target: Path) -> None:
    """Refuse a target that exists, lies in no directory, or has side files that SQLite would replay into it.

    Raises TargetRefused.
    """
    if not target.parent.is_dir():
        raise TargetRefused(f"there is no directory {target.parent}", "make it, or give another --to PATH")
    if target.is_dir():
        raise TargetRefused(f"{target} is a directory", "give the name of a file in it")
    if os.path.lexists(target):
        raise TargetRefused(f"{target} exists already", "give a new path, or restore in place (without --to)")
    for suffix in _SIDE_FILES:
        if os.path.lexists(f"{target}{suffix}"):
            raise TargetRefused(
                f"{target}{suffix} lies there: SQLite would replay it into the restored database",
                "move it away, or give another --to PATH",
            )


def _rehearse(target: Path, origin: SourceFacts) -> tuple[str | None, int]:
    """Try with a file of no name which owner and mode the restored one would have. Raises OSError."""
    with tempfile.TemporaryFile(dir=target.parent) as trial:
        said = _dress(trial.fileno(), target, origin)
    fsync_directory(target.parent)
    return said


def _restore(
    manifest: Manifest, target: Path, workers: int, context: TaskContext, store: Archives
) -> tuple[str | None, int]:
    """Restore, and return owner and mode of the new file."""
    _sweep_old_parts(target)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        extract_verified(manifest, store, part, workers, context)
        with part.open("rb") as stream:
            said = _dress(stream.fileno(), target, manifest.origin)
            os.fsync(stream.fileno())
        try:
            place_exclusively(part, target)
        except FileExistsError as error:
            raise TargetRefused(f"{target} was created during the restore", "give another --to PATH") from error
        fsync_directory(target.parent)
    except CopyCorrupt as error:
        record_verification(manifest.id, context, sound=False, detail=error.message, store=store.name)
        raise
    finally:
        part.unlink(missing_ok=True)
    return said


def _sweep_old_parts(target: Path) -> None:
    """Remove what killed restores to the same place left more than a day ago; a younger one may be at work."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        if time.time() - part.stat().st_mtime > _ABANDONED_S:
            part.unlink()


def _dress(descriptor: int, target: Path, origin: SourceFacts) -> tuple[str | None, int]:
    """Give the open file mode and owner of the source; return the owner, None where it stays as it is, and the mode."""
    mode = set_mode(descriptor, origin.mode & 0o777, target)
    given = (
        os.geteuid() == 0
        and origin.uid is not None
        and change_owner(descriptor, origin.uid, origin.gid, target) is None
    )
    imposed = os.fstat(descriptor).st_uid != os.geteuid()  # on FAT and SMB, by the mount
    return (owner_of(descriptor) if given or imposed else None), mode
