"""The files of a database, and mounts that separate them.

SQLite keeps -wal and -journal beside the name by which a database is opened: those of a file that is mounted without
its directory are somewhere else (https://sqlite.org/howtocorrupt.html §2.5).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from backupd.system.directory import Directory
from backupd.system.links import reach
from backupd.system.mounts import Mount, current_mounts, mount_of

# https://sqlite.org/tempfiles.html: SQLite treats files of these names as parts of the database.
SIDE_SUFFIXES = ("-wal", "-shm", "-journal")


def side_files(database: Path) -> tuple[Path, ...]:
    """Return where WAL, shared memory and rollback journal of `database` are, if they exist."""
    return tuple(Path(f"{database}{suffix}") for suffix in SIDE_SUFFIXES)


def files_of_database(database: Path) -> frozenset[Path]:
    """Return the path of `database`, and those of its side files."""
    return frozenset((database, *side_files(database)))


class DatabasePlace(NamedTuple):
    """Where a database is: its directory, which is held open and its app may write to, and its name there."""

    directory: Directory
    name: str

    @classmethod
    @contextmanager
    def open(cls, database: Path) -> Iterator["DatabasePlace"]:
        """Open where the absolute path `database` leads to, see `system.links.reach`, for the block.

        Raises TargetRefused for a link of another owner, OSError.
        """
        directory, name = reach(database)
        with directory:
            yield cls(directory, name)

    @property
    def path(self) -> Path:
        """The path of the database, for messages and for its own processes."""
        return self.path_of(self.name)

    def path_of(self, name: str) -> Path:
        """Return the path of a file beside the database."""
        return Path(self.directory.path_of(name))

    def names(self) -> list[str]:
        """Return the names beside the database that begin as its own does, perhaps after a dot. Raises OSError."""
        with os.scandir(self.directory.descriptor) as entries:
            return [entry.name for entry in entries if entry.name.startswith((self.name, f".{self.name}"))]


def same_place(one: Path, other: Path) -> bool:
    """Return whether two databases would share a file, also by way of links and mounts. Raises OSError."""
    first, second = one.parent, other.parent
    if not (first.exists() and second.exists() and first.samefile(second)):
        return False
    names = (frozenset(path.name for path in files_of_database(each)) for each in (one, other))
    return bool(next(names) & next(names))


class MountProblem(NamedTuple):
    """Why a database is mounted apart from its side files, and what to do about it."""

    message: str
    hint: str


def mount_problem(path: str, mounts: Iterable[Mount] | None = None) -> MountProblem | None:
    """Return why the database at `path` (absolute, links resolved) is mounted apart from its side files, if it is.

    Then the database, or one of its side files, is a mount point: its app may keep the others beside another name.
    """
    seen = current_mounts() if mounts is None else tuple(mounts)
    if not seen:
        return _on_another_device(path)
    for name in (path, *(f"{path}{suffix}" for suffix in SIDE_SUFFIXES)):
        mount = mount_of(name, seen)
        if mount is not None and mount.point == name and name != "/":
            return _apart(path, mount)
    return None


def other_mount_points(path: str, mounts: Iterable[Mount] | None = None) -> tuple[str, ...]:
    """Return the other paths at which the file at `path` (absolute, links resolved) is mounted by itself."""
    seen = current_mounts() if mounts is None else tuple(mounts)
    own = mount_of(path, seen)
    if own is None:
        return ()
    inside = f"{own.root.rstrip('/')}/{os.path.relpath(path, own.point)}"
    return tuple(m.point for m in seen if (m.device, m.root) == (own.device, inside) and m.point != path)


def mount_directory_hint(directory: str, host: str = "DIRECTORY", name: str = "") -> str:
    """Return the hint to mount the directory of a database, whose `name` may differ there, at `directory`."""
    line = f"-v {host}:{directory}" + (f", where the database is {directory}/{name}" if name else "")
    return (
        f"mount the directory of the database, not the file, for the app and for backupd: {line} (Kubernetes: without "
        "subPath; see docs/sources.md)"
    )


def _apart(path: str, mount: Mount) -> MountProblem:
    directory, name = os.path.split(path)
    _host, there = os.path.split(mount.root)
    new = "/data" if directory == "/" else directory
    is_other = mount.point == path and (new, there) != (directory, name)
    return MountProblem(
        f"{mount.point} is mounted without its directory: the app may keep -wal and -journal beside another name, "
        "which backupd cannot see",
        mount_directory_hint(new, mount.host_directory, there if is_other else ""),
    )


def _on_another_device(path: str) -> MountProblem | None:
    """Compare devices, which is all that can be done without /proc: a mount of the same file system goes unnoticed."""
    try:
        apart = os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev  # noqa: PTH116, PTH120 - a child's too
    except OSError:
        return None
    if not apart:
        return None
    return MountProblem(
        f"{path} is on another device than its directory: it is probably mounted without it (/proc is missing)",
        mount_directory_hint(os.path.dirname(path)),  # noqa: PTH120 - the same
    )
