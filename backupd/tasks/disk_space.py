"""Free space: checked before a task and watched during it, so that no app runs out of space because of a backup."""

import shutil
from collections.abc import Callable
from pathlib import Path

from backupd.errors import NoSpace
from backupd.formatting import human_bytes
from backupd.model import Manifest
from backupd.sqlite.source import Source
from backupd.system.os_errors import explain_no_inodes, lacks_inodes

_MAX_DEFAULT_RESERVE = 1 << 30
_DEFAULT_RESERVE = 0.05
_MARGIN = 1.1
_UNKNOWN_RATIO = 0.5
FILES_OF_A_BACKUP = 12  # and directories, at its peak: staging, copy, side files, archive, manifest, checksums, catalog


def reserve_bytes(directory: Path, configured: int | None) -> int:
    """Return what must stay free on the file system of `directory`: as configured, else 5 % and at most 1 GiB."""
    if configured is not None:
        return configured
    return min(_MAX_DEFAULT_RESERVE, int(shutil.disk_usage(directory).total * _DEFAULT_RESERVE))


def bytes_needed(source: Source, last: Manifest | None, copies: int) -> int:
    """Estimate what a backup will occupy at its peak: `copies` uncompressed ones and the archive."""
    snapshot = (source.size_bytes + source.wal_bytes) * _MARGIN
    ratio = last.archive.size_bytes / max(last.snapshot.size_bytes, 1) if last else _UNKNOWN_RATIO
    return int(snapshot * (copies + min(ratio, 1.0)))


def require_space(directory: Path, needed: int, reserve: int, what: str, files: int = 1) -> None:
    """Raise NoSpace where `what` would leave less than `reserve` free, or lacks inodes for `files` new files."""
    if lacks_inodes(directory, files):
        short, hint = explain_no_inodes(directory)
        raise NoSpace(f"{what} cannot begin: {short}", hint)
    free = shutil.disk_usage(directory).free
    if free - needed >= reserve:
        return
    stay = f" and {human_bytes(reserve)} must stay so" if reserve else ""
    ways = ", move backups_dir to a larger disk, or lower space.reserve" if reserve else " there, or use a larger disk"
    raise NoSpace(
        f"{what} needs {human_bytes(needed)} at {directory}, where {human_bytes(free)} are free{stay}",
        f"free space{ways}",
    )


def watching_space(directory: Path, reserve: int, advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return an `advance` that raises NoSpace as soon as less than `reserve` is free."""

    def watched(done_bytes: int) -> None:
        if shutil.disk_usage(directory).free < reserve:
            raise NoSpace(
                f"less than {human_bytes(reserve)} were left free at {directory} during the task",
                "free space, or move backups_dir to a larger disk",
            )
        advance(done_bytes)

    return watched


def same_file_system(one: Path, other: Path) -> bool:
    """Return whether both paths are on one file system."""
    return one.stat().st_dev == other.stat().st_dev
