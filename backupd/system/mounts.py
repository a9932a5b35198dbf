"""Where a path lies: on which mount and kind of file system, and whether a database lies there with its side files.

SQLite's locks and shared memory are only safe on a local file system: https://sqlite.org/wal.html ("WAL does not work
over a network filesystem") and sqlite.org/howtocorrupt.html §2.1. It keeps -wal and -journal beside the name by which
the database is opened: a file that is mounted without its directory has them somewhere else (§2.5 there).
"""

import errno
import os
import re
import signal
import stat
import time
from _thread import allocate_lock
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # child processes import this
    from pathlib import Path

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


RESPONDS_S = 5.0
_probes: "dict[str, _Probe]" = {}  # those that have no answer yet
_probes_lock = allocate_lock()


def responding_stat(path: "Path | str") -> os.stat_result:
    """Return the state of the file at `path`; links are followed.

    Raises TimeoutError if its mount does not respond within 5 s, OSError. One thread asks for a path, and all callers
    wait for it: a dead mount holds no more threads. Where the system starts no thread, it waits for the mount.
    """
    text = os.fspath(path)
    with _probes_lock:
        probe = _probes.get(text) or _Probe.start(text)
    return os.stat(path) if probe is None else probe.answer()


def responds(path: "Path | str") -> bool:
    """Return whether there is an answer about `path` in time, see `responding_stat`."""
    try:
        responding_stat(path)
    except TimeoutError:
        return False
    except (OSError, ValueError):
        return True
    return True


class _Probe:
    """A thread that asks for the state of a file, which may never return."""

    def __init__(self, path: str) -> None:
        import threading  # child processes import this module

        self._path, self._began = path, time.monotonic()
        self._found: os.stat_result | Exception | None = None
        self._thread = threading.Thread(target=self._ask, name="stat", daemon=True)

    @classmethod
    def start(cls, path: str) -> "_Probe | None":
        """Start one, and keep it until it has an answer; None if the system starts no thread. Only under the lock."""
        probe = cls(path)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # which the thread would take for us
        try:
            probe._thread.start()
            _probes[path] = probe  # before a signal that came meanwhile ends this: the thread removes it
        except RuntimeError:
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return probe

    def answer(self) -> os.stat_result:
        """Wait for the answer. Raises TimeoutError, OSError, ValueError."""
        self._thread.join(max(0.0, self._began + RESPONDS_S - time.monotonic()))
        if self._found is None:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {RESPONDS_S:.0f} s", self._path)
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def _ask(self) -> None:
        try:
            self._found = os.stat(self._path)
        except (OSError, ValueError) as error:
            self._found = error
        with _probes_lock:
            _probes.pop(self._path, None)  # another thread may have taken a signal that ended `start`


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
    def volume(self) -> str:
        """The name of the volume of Docker that it shows, else the directory, as its own file system knows it."""
        volume = _VOLUME.search(self.root)
        return volume[1] if volume else self.root

    @property
    def host_directory(self) -> str:
        """What to mount to have what is beside `root`: a volume of Docker, or a directory; DIRECTORY if not known.

        A directory is named as its own file system knows it; on its host, a mount point may come before that.
        """
        path = self.root
        if self.source.startswith(f"{_DOCKER_DESKTOP}/"):
            path = os.path.normpath(f"{self.source.removeprefix(_DOCKER_DESKTOP)}/{self.root}")
        directory, _name = os.path.split(path)
        if volume := _VOLUME.search(directory):
            return volume[1]
        return directory if directory != "/" else "DIRECTORY"


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


def exposing_mount(database: str, directory: str, mounts: Iterable[Mount] | None = None) -> Mount | None:
    """Return the mount of `database` where the owner of that file can remove `directory`, or what is in it, through it.

    An app sees the mount of its database, and what lies below the root of that, also where this process sees it at
    another place. Paths are absolute, their links resolved. None where the owner cannot, or where that is not known.
    """
    known = current_mounts() if mounts is None else tuple(mounts)
    app, ours = mount_of(database, known), mount_of(directory, known)
    if app is None or ours is None or app.device != ours.device:
        return None
    place = os.path.join(app.point, os.path.relpath(ours.root, app.root), os.path.relpath(directory, ours.point))
    place = os.path.normpath(place)
    with suppress(OSError):  # what cannot be looked at is not known
        owner, own_files = os.stat(database), True
        while _holds(app.point, place):
            if _may_change(owner, os.stat(place), own_files=own_files):
                return app
            if place == app.point:
                break
            place, own_files = os.path.dirname(place), False
    return None


def _may_change(owner: os.stat_result, directory: os.stat_result, *, own_files: bool) -> bool:
    """Tell whether the owner of a file may remove what is in a directory; in a sticky one only `own_files`."""
    bits = (stat.S_IWGRP if directory.st_gid == owner.st_gid else 0) | stat.S_IWOTH
    shared = bool(directory.st_mode & bits) and (own_files or not directory.st_mode & stat.S_ISVTX)
    return owner.st_uid in (0, directory.st_uid) or shared


def is_remote(kind: str) -> bool:
    """Tell whether another kernel may write to a file system of this `kind` at the same time."""
    return _REMOTE.fullmatch(kind) is not None


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    number, parent, device, root, point = map(_unescaped, before.split(" ")[:5])
    kind, source = map(_unescaped, [*after.split(" "), ""][:2])
    return Mount(number, parent, device, root.removesuffix(_DELETED), point, kind, source)


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
