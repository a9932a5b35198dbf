"""Restore a generation as a new file."""

import os
import stat
import tempfile
import time
from pathlib import Path

from backupd.errors import RestoreFailed, TargetRefused
from backupd.model import Manifest, SourceFacts
from backupd.sqlite.database_files import DatabasePlace, side_files
from backupd.sqlite.history import is_part, new_part_name
from backupd.stores.contract import Archives
from backupd.system.directory import Directory
from backupd.system.fs import change_owner, collect_limits, set_mode
from backupd.system.held_file import HeldFile
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
    if not target.parent.is_dir():
        raise TargetRefused(f"the directory {target.parent} does not exist", "create it, or give another --to PATH")
    if target.is_symlink():
        raise _exists(target)
    with collect_limits() as limits, DatabasePlace.open(target) as (directory, _name):
        refuse_unsafe(target, directory)
        if dry_run:
            require_space(target.parent, manifest.snapshot.size_bytes, 0, f"restoring {manifest.id}")
            with tempfile.TemporaryFile(dir=directory.fixed_path) as trial:
                owner, mode = _apply_ownership(trial.fileno(), target, manifest.origin)
            directory.fsync()
        else:
            owner, mode = _restore(manifest, target, directory, workers, context, store or context.store)
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


def refuse_unsafe(target: Path, directory: Directory) -> None:
    """Raise TargetRefused for a target that exists in its `directory`, or has side files that SQLite would replay."""
    if target.is_dir():
        raise TargetRefused(f"{target} is a directory", "give the path of a new file in it")
    if directory.stat(target.name) is not None:
        raise _exists(target)
    for path in side_files(target):
        if directory.stat(path.name) is not None:
            raise TargetRefused(
                f"{path} exists: SQLite would replay it into the restored database",
                "move it away, or give another --to PATH",
            )


def _exists(target: Path) -> TargetRefused:
    return TargetRefused(f"{target} already exists", "give a new path, or restore in place (without --to)")


def _restore(
    manifest: Manifest, target: Path, directory: Directory, workers: int, context: TaskContext, store: Archives
) -> tuple[str | None, int]:
    """Restore, and return owner and mode of the new file."""
    _sweep_old_parts(target.name, directory)
    new = HeldFile.create(directory, new_part_name(target.name))
    try:
        with marking_damage(manifest, store, context):
            extract_verified(manifest, store, new, workers, context)
        applied = _apply_ownership(new.descriptor, target, manifest.origin)
        os.fsync(new.descriptor)
        try:
            directory.place(new.name, new.descriptor, directory, target.name)
        except FileExistsError as error:
            raise TargetRefused(f"{target} was created by another process", "give another --to PATH") from error
        directory.fsync()
        if not directory.holds(target.name, new.descriptor):
            raise RestoreFailed(
                f"another process put its own file in place of the restored {target}",
                "give another --to PATH, in a directory that no other user can write to",
            )
    finally:
        directory.unlink(new.name)
    return applied


def _sweep_old_parts(target: str, directory: Directory) -> None:
    """Remove parts of killed restores to this target after a day; a younger one may belong to a running restore."""
    with os.scandir(directory.descriptor) as entries:
        names = [entry.name for entry in entries if is_part(entry.name, target)]
    for name in names:
        state = directory.stat(name)
        if state is not None and stat.S_ISREG(state.st_mode) and time.time() - state.st_mtime > _ABANDONED_S:
            directory.unlink(name)


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
