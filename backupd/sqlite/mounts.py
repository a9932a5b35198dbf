"""Where a path lies: on which mount and kind of file system, and whether a database lies there with its side files.

SQLite's locks and shared memory are only safe on a local file system: https://sqlite.org/wal.html ("WAL does not work
over a network filesystem") and sqlite.org/howtocorrupt.html §2.1. It keeps -wal and -journal beside the name by which
the database is opened: a file that is mounted without its directory has them somewhere else (§2.5 there).
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|ceph|afs|ncpfs|lustre|gpfs|beegfs|ocfs2|gfs2|orangefs"
    # Shares of the machine around a virtual one: Docker Desktop, WSL, VirtualBox, Parallels, VMware.
    r"|fakeowner|grpcfuse|osxfs|drvfs|wslfs|vboxsf|prl_fs|vmhgfs"
    r"|fuse(blk|\..*)?"
)
_OCTAL = re.compile(r"\\([0-7]{3})")
_DELETED = "//deleted"
_DOCKER_DESKTOP = "/run/host_mark"
_VOLUME = re.compile(r"/volumes/([^/]+)/_data$")


class Mount(NamedTuple):  # no dataclass: child processes import this
    """One line of /proc/self/mountinfo (proc(5)): the path `root` of the file system of `device` is seen at `point`."""

    number: str
    parent: str
    device: str
    root: str
    point: str
    kind: str
    source: str

    @property
    def host_directory(self) -> str:
        """What to mount to have what is beside `root`: a volume of Docker, or a directory; DIRECTORY if not known.

        A directory is named as its own file system knows it; on its host, a mount point may come before that.
        """
        path = self.root
        if self.source.startswith(f"{_DOCKER_DESKTOP}/"):
            path = os.path.normpath(f"{self.source.removeprefix(_DOCKER_DESKTOP)}/{self.root}")
        directory, _name = os.path.split(path)
        volume = _VOLUME.search(directory)
        if volume is not None:
            return volume[1]
        return directory if directory != "/" else "DIRECTORY"


class Apart(NamedTuple):
    """Why a database lies apart from its side files, and what to do about it."""

    message: str
    hint: str


def mounts_in(mountinfo: str) -> tuple[Mount, ...]:
    """Return the mounts in the text of /proc/self/mountinfo, in its order."""
    return tuple(map(_mount, filter(None, mountinfo.split("\n"))))  # names may hold what else ends a line for Python


def current_mounts() -> tuple[Mount, ...]:
    """Return the mounts that this process sees; none where there is no /proc."""
    try:
        with open("/proc/self/mountinfo", "rb") as stream:
            return mounts_in(os.fsdecode(stream.read()))
    except OSError:
        return ()


def mount_of(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount that shows what is at `path` (absolute, links resolved), None where none is known.

    Mounts are a tree: one on `/a/b` is hidden by a later one on `/a`, and of several on one point the last is seen.
    """
    left = [mount for mount in mounts if _holds(mount.point, path)]
    known = {mount.number for mount in left}
    seen: Mount | None = None
    while True:
        parents = {seen.number} if seen else {mount.parent for mount in left} - known
        below = [mount for mount in left if mount.parent in parents or (seen is None and mount.parent == mount.number)]
        if not below:
            return seen
        seen = min(reversed(below), key=lambda mount: len(mount.point))
        left.remove(seen)


def filesystem_of(path: str, mounts: Iterable[Mount] | None = None) -> str:
    """Return the type of the file system that holds `path` (absolute, links resolved), `unknown` without /proc.

    A share of the host of Docker Desktop is `fakeowner`, whatever the kernel of its virtual machine calls it.
    """
    mount = mount_of(path, current_mounts() if mounts is None else mounts)
    if mount is None:
        return "unknown"
    return "fakeowner" if mount.source.startswith(_DOCKER_DESKTOP) else mount.kind


def is_remote(kind: str) -> bool:
    """Tell whether another kernel may write to a file system of this `kind` at the same time."""
    return _REMOTE.fullmatch(kind) is not None


def mounted_apart(path: str, mounts: Iterable[Mount] | None = None) -> Apart | None:
    """Say why the database at `path` (absolute, links resolved) lies apart from its side files; None where it does not.

    The database, or one of its side files, is a mount point: its app may have the others beside another name.
    """
    from backupd.sqlite.database_files import SIDE_SUFFIXES

    seen = current_mounts() if mounts is None else tuple(mounts)
    if not seen:
        return _on_another_device(path)
    for name in (path, *(f"{path}{suffix}" for suffix in SIDE_SUFFIXES)):
        mount = mount_of(name, seen)
        if mount is not None and mount.point == name and name != "/":
            return _apart(path, mount)
    return None


def second_names(path: str, mounts: Iterable[Mount] | None = None) -> tuple[str, ...]:
    """Return the other paths at which the file at `path` (absolute, links resolved) is mounted by itself."""
    seen = current_mounts() if mounts is None else tuple(mounts)
    own = mount_of(path, seen)
    if own is None:
        return ()
    inside = f"{own.root.rstrip('/')}/{os.path.relpath(path, own.point)}"
    return tuple(m.point for m in seen if (m.device, m.root) == (own.device, inside) and m.point != path)


def mount_the_directory(directory: str, host: str = "DIRECTORY", name: str = "") -> str:
    """Return the advice that brings a database, of another `name` there, and its side files together at `directory`."""
    line = f"-v {host}:{directory}" + (f", where the database is {directory}/{name}" if name else "")
    return (
        f"mount the directory of the database, not the file, for the app and for backupd: {line} (Kubernetes: without "
        "subPath; see docs/sources.md)"
    )


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    number, parent, device, root, point = map(_unescaped, before.split(" ")[:5])
    kind, source = map(_unescaped, [*after.split(" "), ""][:2])
    return Mount(number, parent, device, root.removesuffix(_DELETED), point, kind, source)


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _apart(path: str, mount: Mount) -> Apart:
    directory, name = os.path.split(path)
    _host, there = os.path.split(mount.root)
    new = "/data" if directory == "/" else directory
    is_other = mount.point == path and (new, there) != (directory, name)
    return Apart(
        f"{mount.point} is mounted without its directory: the app may keep -wal and -journal beside another name, "
        "where they are not seen",
        mount_the_directory(new, mount.host_directory, there if is_other else ""),
    )


def _on_another_device(path: str) -> Apart | None:
    """Compare devices: all that is known without /proc, where a mount of the same file system is not seen."""
    try:
        apart = os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev  # noqa: PTH116, PTH120 - a child's too
    except OSError:
        return None
    if not apart:
        return None
    return Apart(
        f"{path} is on another device than its directory: it seems to be mounted without it (/proc is missing)",
        mount_the_directory(os.path.dirname(path)),  # noqa: PTH120 - the same
    )
