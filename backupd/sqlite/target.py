"""The target of a restore: the old database, what keeps others from it, and owner and mode of the new one.

A file lease keeps its app from it, a lock on its directory other restores.
"""

import json
import os
import select
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from backupd.errors import LockHeld, SourceMissing, TargetInUse, TargetRefused, WorkerFailed, WorkerHung
from backupd.model import SourceFacts
from backupd.sqlite.database_files import DatabasePlace, mount_problem, other_mount_points, side_files
from backupd.sqlite.history import KEPT
from backupd.sqlite.source import Source, real_path
from backupd.sqlite.worker.protocol import CheckpointRequest, CheckpointResult, LeaseRequest, LeaseState
from backupd.sqlite.worker_process import WorkerProcess, deadline_for
from backupd.system.file_lock import directory_lock
from backupd.system.fs import change_owner, set_mode
from backupd.system.held_file import HeldFile
from backupd.system.mounts import current_mounts, filesystem_of, is_remote
from backupd.system.owners import (
    NAMESPACE_HINT,
    host_id,
    known_owner,
    owner_of,
    owner_text,
    ownership_hint,
)
from backupd.system.process import close_input, pipe, send, start_module

STOPPED_FLAG = "--app-is-stopped"
ELSEWHERE = "restore elsewhere (--to PATH)"
_NAME_MAX = 255  # limits.h
_ANSWER_S, _EXIT_S = 60.0, 5.0


class FileLease:
    """The write lease on those files of a database (`paths`) that exist, held by a child process of their owner.

    The kernel may be unable to tell who has the files open: without the right to ask, on a file system without leases,
    or on a `remote` one (the text says why), which other kernels reach too. Then it is not `held`, and `stopped`, by
    which the operator confirms that the app is stopped, has to be true. Entering raises TargetInUse, TargetRefused.
    """

    def __init__(self, paths: Sequence[Path], uid: int | None, gid: int | None, *, remote: str, stopped: bool) -> None:
        self._remote, self._stopped = remote, stopped
        self._request = LeaseRequest(paths=[str(path) for path in paths], uid=uid, gid=gid)
        self.held = False

    def __enter__(self) -> Self:
        self._process = start_module("backupd.sqlite.worker.file_lease", directory="/")
        try:
            state: LeaseState = self._ask(json.dumps(self._request))
            self.held = state["state"] == "held"
            self._require_unused(state)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        close_input(self._process)
        pipe(self._process.stdout).close()
        with suppress(subprocess.TimeoutExpired):  # it waits for a dead disk or server
            self._process.wait(_EXIT_S)

    def open_requested(self, path: Path) -> bool:
        """Return whether a process has tried to open `path` since the lease was taken, and is waiting for it."""
        return self.held and str(path) in self._ask("?")["open_requested"]

    def _ask(self, question: str) -> Any:  # noqa: ANN401 - JSON
        send(self._process, question.encode() + b"\n")
        answer = pipe(self._process.stdout)
        if not select.select([answer], [], [], _ANSWER_S)[0]:
            raise WorkerHung(
                "the process that watches the database does not respond",
                "check that the disk or mount of the database responds (dmesg)",
            )
        try:
            return json.loads(answer.readline())
        except ValueError as error:
            raise WorkerFailed(
                "the process that watches the database died", "run the command again; dmesg may say why"
            ) from error

    def _require_unused(self, state: LeaseState) -> None:
        if state["state"] == "used":
            raise TargetInUse(f"{state['path']} is in use: a process has it open, here or in another container")
        reason = state["reason"] if state["state"] == "unknown" else self._remote
        if reason and not self._stopped:
            raise TargetRefused(
                f"cannot determine whether {state['path'] or self._request['paths'][0]} is in use: {reason}",
                f"run backupd as the owner of the file; or stop the app, and confirm that with {STOPPED_FLAG}",
            )


@contextmanager
def restore_lock(database: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Lock the directory of `database` (links resolved) as `restore_locks` does. Raises LockHeld, SourceUnusable."""
    with restore_locks([real_path(database).parent], wait_s):
        yield


@contextmanager
def restore_locks(directories: Iterable[Path], wait_s: float = 0.0, held: Iterable[Path] = ()) -> Iterator[None]:
    """Lock `directories` against other restores and their recovery, but for those that this process has `held` already.

    A directory that does not exist, or is on a file system without flock (NFS), is not locked. Raises LockHeld when
    another process still has the lock after `wait_s`.
    """
    locked = set(map(_identity, held))
    with ExitStack() as stack:
        for directory in sorted(directories):
            if (identity := _identity(directory)) in locked:
                continue
            locked.add(identity)
            try:
                is_held = stack.enter_context(directory_lock(directory, timeout_s=wait_s))
            except OSError:  # inspecting the target explains what is wrong with its directory
                continue
            if not is_held:
                raise LockHeld(
                    f"another backupd is restoring in {directory}", "wait for it to end, then see what it restored"
                )
        yield


def _identity(directory: Path) -> tuple[int, int] | Path:
    """Return what two paths to one directory share, the path where it cannot be seen."""
    try:
        state = directory.stat()
    except OSError:
        return directory
    return state.st_dev, state.st_ino


@dataclass(frozen=True, slots=True)
class Target:
    """The real path of a database, and the old database there, if any."""

    path: Path
    old: Source | None

    @classmethod
    def inspect(cls, path: Path) -> "Target":
        """Inspect the target at `path`. Raises TargetRefused where no restore is possible, SourceUnusable."""
        real = real_path(path)
        _refuse_name(real)
        _refuse_mount(real)
        _refuse_directory(real.parent)
        try:
            old = Source.inspect(real, allow_empty=True, allow_links=True)
        except SourceMissing:
            return cls(real, None)
        if old.links > 1:
            raise TargetRefused(
                f"{real} has {old.links} hard links: an app that opens another one would not see the restored database",
                "remove the other names first",
            )
        if old.unmapped:
            raise TargetRefused(
                f"{real} belongs to a {old.unmapped} that is not mapped in this user namespace: "
                "the restored file cannot have that owner",
                f"{NAMESPACE_HINT}; or {ELSEWHERE}",
            )
        return cls(real, old)

    @classmethod
    def kept(cls, path: Path) -> "Target":
        """Inspect an old database that a restore kept at `path`. Raises TargetRefused for any other file."""
        if path.is_symlink() or not path.is_file():
            raise TargetRefused(
                f"{path} is not a regular file: no restore created it", "find out where it comes from, and remove it"
            )
        return cls(path, Source.inspect(path, allow_empty=True, allow_links=True))

    @property
    def bytes_in_use(self) -> int:
        """The size of the WAL, which a checkpoint may have to write into the old database."""
        return self.old.wal_bytes if self.old else 0

    def lease(self, *, stopped: bool) -> FileLease:
        """Return the lease on the files of the old database, which may be in use even if only side files exist."""
        return FileLease(self._leased(), *self._owner(), remote=self._remote(), stopped=stopped)

    def try_ownership(self, origin: SourceFacts) -> tuple[str, str]:
        """Try `apply_ownership` with a file of no name; returns owner and mode. Raises TargetRefused, OSError."""
        with DatabasePlace.open(self.path) as place:
            with tempfile.TemporaryFile(dir=place.directory.fixed_path) as trial:
                ownership = _set_ownership(trial.fileno(), place, self, origin)
            place.directory.fsync()
        return ownership

    def checkpoint(self) -> CheckpointResult | None:
        """Write the WAL or journal of the old database, if there is one, into its file.

        Raises TargetInUse, TargetRefused, NoSpace.
        """
        if self.old is None:
            return None
        name = self.path.name.partition(KEPT)[0]  # the name that its app uses
        request = CheckpointRequest(path=str(self.path), name=name, uid=self.old.uid, gid=self.old.gid)
        deadline = deadline_for(self.old.size_bytes + self.old.wal_bytes)
        with WorkerProcess[dict[str, str]]("checkpoint", request, Path("/"), deadline) as worker:
            return CheckpointResult(**worker.result())

    def _leased(self) -> list[Path]:
        return [self.path, *(path for path in side_files(self.path) if not path.name.endswith("-journal"))]

    def _remote(self) -> str:
        kind = filesystem_of(str(self.path))
        return f"it is on {kind}" if is_remote(kind) else ""

    def _owner(self) -> tuple[int | None, int | None]:
        if self.old is not None:
            return self.old.uid, self.old.gid
        for path in side_files(self.path):
            with suppress(FileNotFoundError):
                return known_owner(path, path.lstat())
        return os.geteuid(), os.getegid()


@contextmanager
def lease_all(targets: Iterable[Target], *, stopped: bool) -> Iterator[Mapping[Path, FileLease]]:
    """Hold the leases on all `targets` for the block, by path: one process holds those of one owner.

    Raises TargetInUse, TargetRefused.
    """
    of_owner: dict[tuple[int | None, int | None, str], list[Target]] = {}
    for target in targets:
        of_owner.setdefault((*target._owner(), target._remote()), []).append(target)  # noqa: SLF001 - of this module
    held: dict[Path, FileLease] = {}
    with ExitStack() as stack:
        for (uid, gid, remote), group in of_owner.items():
            paths = [path for target in group for path in target._leased()]  # noqa: SLF001 - the same
            lease = stack.enter_context(FileLease(paths, uid, gid, remote=remote, stopped=stopped))
            held |= {target.path: lease for target in group}
        yield held


def apply_ownership(new: HeldFile, place: DatabasePlace, target: Target, origin: SourceFacts) -> tuple[str, str]:
    """Give the `new` file owner, mode and extended attributes of the old database, else of its `origin`; durably.

    Returns owner (`uid:gid`) and mode. Raises TargetRefused when this process may not change the owner.
    """
    if target.old is not None:
        _copy_attributes(place, new.descriptor)
    ownership = _set_ownership(new.descriptor, place, target, origin)
    os.fsync(new.descriptor)
    return ownership


def _set_ownership(descriptor: int, place: DatabasePlace, target: Target, origin: SourceFacts) -> tuple[str, str]:
    mode = set_mode(descriptor, target.old.mode if target.old else origin.mode & 0o777, target.path)
    uid, gid = _new_owner(place, target, origin)
    if uid is not None:  # last: root with few capabilities cannot change the file of another user
        _change_owner(descriptor, uid, gid, target.path)
    return owner_of(descriptor), f"{mode:04o}"


def _new_owner(place: DatabasePlace, target: Target, origin: SourceFacts) -> tuple[int | None, int | None]:
    """Return the owner of the old database; without one, as root, that of its `origin`, else that of the directory.

    None keeps the owner of the file.
    """
    if target.old is not None:
        return target.old.uid, target.old.gid
    if os.geteuid() == 0:
        return place.directory.owner() if origin.uid is None else (origin.uid, origin.gid)
    return None, None  # only root may change the owner; a setgid directory has set the group


def _change_owner(descriptor: int, uid: int, gid: int | None, path: Path) -> None:
    state = os.fstat(descriptor)
    if uid == state.st_uid and gid in (None, state.st_gid):
        return
    refused = change_owner(descriptor, uid, gid, path)
    if refused is None or _imposes_owner(state, path):
        return
    group = "" if gid is None else f", PGID={gid}"
    mapped = host_id("uid", uid) is not None and (gid is None or host_id("gid", gid) is not None)
    raise TargetRefused(
        f"the restored file cannot be given to {owner_text(uid, gid)}, the owner of the old one: {refused.strerror}",
        f"run backupd as that user (PUID={uid}{group}), or as root with the capability CHOWN"
        if mapped
        else f"{NAMESPACE_HINT}; or {ELSEWHERE}",
    )


def _imposes_owner(state: os.stat_result, path: Path) -> bool:
    """Return whether all files of that file system belong to one user: FAT, SMB. NFS only maps root to another user."""
    return state.st_uid != os.geteuid() and not filesystem_of(str(path)).startswith("nfs")


def _copy_attributes(place: DatabasePlace, descriptor: int) -> None:
    """Copy extended attributes (ACLs, labels, user attributes) as far as the file system supports and allows it.

    Those of the old database, to the open new one.
    """
    with suppress(OSError):  # the file system has none
        source = place.directory.open_file(place.name)
        try:
            attributes = {name: os.getxattr(source, name) for name in os.listxattr(source)}
        finally:
            os.close(source)
        for name, value in attributes.items():
            with suppress(OSError):  # one that only the kernel sets
                os.setxattr(descriptor, name, value)


def _refuse_name(path: Path) -> None:
    """Refuse a name that is too long or unfit for the names of kept databases, which are made from it."""
    longest = f"{path.name}{KEPT}20261125T000000Z-9999-journal"
    try:
        too_long = len(longest.encode()) > _NAME_MAX
    except UnicodeEncodeError:
        raise TargetRefused(f"the name of {os.fsencode(path)!r} is not UTF-8", ELSEWHERE) from None
    if too_long:
        raise TargetRefused(
            f"the name of {path} is too long: the old database is kept as {path.name}{KEPT}…",
            ELSEWHERE,
        )


def _refuse_mount(path: Path) -> None:
    """Refuse a file that is mounted without its directory: it cannot be replaced, or only at one of its paths."""
    mounts = current_mounts()
    if (apart := mount_problem(str(path), mounts)) is not None:
        raise TargetRefused(apart.message, apart.hint)
    if others := other_mount_points(str(path), mounts):
        raise TargetRefused(
            f"{path} is also mounted as {', '.join(others)}: an app that opens it there would not see the restored one",
            "remove that mount first",
        )


def _refuse_directory(directory: Path) -> None:
    try:
        state = directory.stat()
    except FileNotFoundError:
        raise TargetRefused(f"{directory} does not exist", "create it, or mount the volume of the app") from None
    if not stat.S_ISDIR(state.st_mode):
        raise TargetRefused(f"{directory} is not a directory", "check the path")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise TargetRefused(f"{directory} is mounted read-only", f"mount the volume writable, or {ELSEWHERE}")
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise TargetRefused(
            f"uid {os.geteuid()} may not write to {directory}",
            ownership_hint(directory, f"run backupd as its owner (PUID={state.st_uid})") + f", or {ELSEWHERE}",
        )
