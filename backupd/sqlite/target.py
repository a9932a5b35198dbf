"""A database that is to be replaced: what lies there, whether anybody uses it, and how its successor has to look."""

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backupd.errors import SourceMissing, TargetRefused
from backupd.model import SourceFacts
from backupd.sqlite.database_files import SIDE_SUFFIXES, mount_problem, other_mount_points
from backupd.sqlite.file_format import HEADER_BYTES, file_has_checksums, looks_encrypted, parse_header, set_checksums
from backupd.sqlite.source import Source
from backupd.sqlite.swap_journal import KEPT
from backupd.sqlite.target_locks import FileLease
from backupd.sqlite.worker_process import WorkerProcess
from backupd.system.fs import change_owner, fsync_directory, set_mode
from backupd.system.mounts import current_mounts, filesystem_of, is_remote
from backupd.system.owners import (
    NAMESPACE_HINT,
    host_id,
    known_owner,
    owner_of,
    owner_or_directory_owner,
    owner_text,
    ownership_hint,
)

ELSEWHERE = "restore elsewhere (--to PATH)"
_NAME_MAX = 255  # limits.h

JournalMode = Literal["wal", "rollback"]


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """The old database at rest, and in words how it is damaged, if it is.

    `journal_problem` says why its journal is still with it: nothing here tells what has to be done with it.
    """

    damage: str
    journal_problem: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The place of a database (real path), and the one that lies there, if any."""

    path: Path
    old: Source | None

    @classmethod
    def inspect(cls, path: Path) -> "Target":
        """Look at where `path` leads. Raises TargetRefused where nothing can be put in place, SourceUnusable."""
        real = Path(os.path.realpath(path))
        _refuse_name(real)
        _refuse_mount(real)
        _refuse_directory(real.parent)
        try:
            old = Source.inspect(real, allow_empty=True, allow_links=True)
        except SourceMissing:
            return cls(real, None)
        if old.links > 1:
            raise TargetRefused(
                f"{real} has {old.links} hard links: whoever opens it by another name would not see the restored one",
                "remove the other names first",
            )
        if old.unmapped:
            raise TargetRefused(
                f"{real} belongs to a {old.unmapped} that is not mapped in this user namespace: "
                "the restored file cannot be given to it",
                f"{NAMESPACE_HINT}; or {ELSEWHERE}",
            )
        return cls(real, old)

    @classmethod
    def kept(cls, path: Path) -> "Target":
        """Look at an old database that a restore kept. Raises TargetRefused for what no restore has kept there."""
        if path.is_symlink() or not path.is_file():
            raise TargetRefused(f"{path} is no file: no restore has kept it", "look who made it, and remove it")
        return cls(path, Source.inspect(path, allow_empty=True, allow_links=True))

    @property
    def bytes_in_use(self) -> int:
        """The size of the WAL, which may have to be taken into the old database before it is kept."""
        return self.old.wal_bytes if self.old else 0

    def lease(self, *, stopped: bool) -> FileLease:
        """Return the lease on every file of the old database; its side files alone tell of one whose file is gone."""
        owner = self.old or self._side_owner()
        uid, gid = (owner.uid, owner.gid) if isinstance(owner, Source) else owner
        names = ("", "-wal", "-shm")
        kind = filesystem_of(str(self.path))
        remote = f"it is on {kind}" if is_remote(kind) else ""
        return FileLease([Path(f"{self.path}{name}") for name in names], uid, gid, remote=remote, stopped=stopped)

    def try_ownership(self, origin: SourceFacts) -> tuple[str, str]:
        """Try with a file of no name what `dress` does, and return what it returns. Raises TargetRefused, OSError."""
        with tempfile.TemporaryFile(dir=self.path.parent) as trial:
            said = _dress(trial.fileno(), self, origin)
        fsync_directory(self.path.parent)
        return said

    def checkpoint(self) -> CheckpointResult | None:
        """Bring the old database to rest; None when there is none. Raises TargetInUse, TargetRefused, NoSpace."""
        if self.old is None:
            return None
        name = self.path.name.partition(KEPT)[0]  # by which its app knows it
        request = {"path": str(self.path), "name": name, "uid": self.old.uid, "gid": self.old.gid}
        with WorkerProcess("checkpoint", request, Path("/")) as child:
            return CheckpointResult(**child.result())

    def _side_owner(self) -> tuple[int | None, int | None]:
        for suffix in SIDE_SUFFIXES:
            try:
                path = Path(f"{self.path}{suffix}")
                return known_owner(path, path.lstat())
            except FileNotFoundError:
                continue
        return os.geteuid(), os.getegid()


def set_journal_mode(path: Path, wanted: JournalMode) -> bool:
    """Let our own database file at `path` have the journal mode that its app uses; tells whether it had another."""
    with path.open("rb") as stream:
        header = None if looks_encrypted(stream.fileno()) else parse_header(stream.read(HEADER_BYTES))
    if header is None or header.journal_mode == wanted:  # an empty database has none yet, an encrypted one is its app's
        return False
    checksums = file_has_checksums(path)
    with WorkerProcess("maintenance", {"verb": "journal", "path": path.name, "mode": wanted}, path.parent) as child:
        child.result()
    if checksums:
        with path.open("r+b") as stream:
            set_checksums(stream.fileno(), first_only=True)
    return True


def apply_ownership(path: Path, target: Target, origin: SourceFacts) -> tuple[str, str]:
    """Give the file at `path` owner, mode and extended attributes of the old database, else of its `origin`; durably.

    Returns owner (`uid:gid`) and mode. Raises TargetRefused when this process may not give it to them.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if target.old is not None:
            _copy_attributes(target.path, path)
        said = _dress(descriptor, target, origin)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return said


def _dress(descriptor: int, target: Target, origin: SourceFacts) -> tuple[str, str]:
    mode = set_mode(descriptor, target.old.mode if target.old else origin.mode & 0o777, target.path)
    uid, gid = _owner_to_be(target, origin)
    if uid is not None:  # last: root with few capabilities has no say any more in what is another's
        _give(descriptor, uid, gid, target.path)
    return owner_of(descriptor), f"{mode:04o}"


def _owner_to_be(target: Target, origin: SourceFacts) -> tuple[int | None, int | None]:
    """Return whose the file is to be: of the owner of the old database, else, as root, of that of its `origin`.

    Where the backup did not know that one either, of the owner of the directory. None leaves the file as it is.
    """
    if target.old is not None:
        return target.old.uid, target.old.gid
    if os.geteuid() == 0:
        return owner_or_directory_owner(origin.uid, origin.gid, target.path.parent)
    return None, None  # nobody but root may give a file away; a setgid directory has given the group


def _give(descriptor: int, uid: int, gid: int | None, path: Path) -> None:
    state = os.fstat(descriptor)
    if uid == state.st_uid and gid in (None, state.st_gid):
        return
    refused = change_owner(descriptor, uid, gid, path)
    if refused is None or _imposes_owner(state, path):
        return
    group = "" if gid is None else f", PGID={gid}"
    mapped = host_id("uid", uid) is not None and (gid is None or host_id("gid", gid) is not None)
    raise TargetRefused(
        f"the restored file cannot be given to {owner_text(uid, gid)}, who owned the old one: {refused.strerror}",
        f"run backupd as that user (PUID={uid}{group}), or as root with the capability CHOWN"
        if mapped
        else f"{NAMESPACE_HINT}; or {ELSEWHERE}",
    )


def _imposes_owner(state: os.stat_result, path: Path) -> bool:
    """Tell whether all files of that file system belong to one user: FAT, SMB. NFS only makes root somebody else."""
    return state.st_uid != os.geteuid() and not filesystem_of(str(path)).startswith("nfs")


def _copy_attributes(source: Path, target: Path) -> None:
    """Copy extended attributes as far as the file system knows and allows them: ACLs, labels, notes of the user."""
    for name, value in _attributes(source).items():
        try:
            os.setxattr(target, name, value)
        except OSError:  # one that only the kernel sets
            continue


def _attributes(path: Path) -> Mapping[str, bytes]:
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path)}
    except OSError:  # a file system without
        return {}


def _refuse_name(path: Path) -> None:
    """Refuse a name that the names of what is kept cannot be made from, before anything is begun."""
    longest = f"{path.name}{KEPT}20261125T000000Z-99-journal"
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
    """Refuse a file that cannot be replaced, or would be under one name alone: it is mounted without its directory."""
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
        raise TargetRefused(f"there is no directory {directory}", "make it, or mount the volume of the app") from None
    if not stat.S_ISDIR(state.st_mode):
        raise TargetRefused(f"{directory} is no directory", "check the path")
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        raise TargetRefused(f"{directory} is mounted read-only", f"mount the volume writable, or {ELSEWHERE}")
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise TargetRefused(
            f"uid {os.geteuid()} may not write to {directory}",
            ownership_hint(directory, f"run backupd as its owner (PUID={state.st_uid})") + f", or {ELSEWHERE}",
        )
