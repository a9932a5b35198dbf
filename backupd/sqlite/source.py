"""The app's database as the file system describes it; nothing here opens it."""

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backupd.errors import SourceMissing, SourceUnusable
from backupd.model import FileState, Signature, SourceFacts
from backupd.sqlite.database_files import mount_problem, other_mount_points
from backupd.sqlite.discovery import Search, how_to_forget
from backupd.sqlite.permissions import Permissions
from backupd.system.links import LINK_HINT, foreign_link, stat_without_links
from backupd.system.mounts import current_mounts, mount_of
from backupd.system.os_errors import dangling_link
from backupd.system.owners import known_owner, ownership_hint

TIMESTAMP_GRAIN_NS = 2_000_000_000
_EMPTY_BYTES = 1
_BLOCK_BYTES = 512  # of st_blocks (inode(7))


@dataclass(frozen=True, slots=True)
class Source:
    """A database on disk: real path, owner, and the sizes that a copy of it will need.

    `uid` and `gid` are None where this user namespace does not map them.
    """

    path: Path
    uid: int | None
    gid: int | None
    mode: int
    size_bytes: int
    wal_bytes: int
    signature: Signature
    links: int
    directory: Permissions

    @property
    def empty(self) -> bool:
        """Whether the file is empty: SQLite treats it as a new database."""
        return self.size_bytes <= _EMPTY_BYTES

    @property
    def unmapped(self) -> str:
        """The id that this user namespace does not map, `user` or `group`; a group only if it has rights of its own."""
        if self.uid is None:
            return "user"
        grants = (self.mode >> 3 & ~self.mode) & 0o7
        return "group" if self.gid is None and grants else ""

    @property
    def facts(self) -> SourceFacts:
        """The facts that the manifest records."""
        directory = (self.directory.uid, self.directory.gid, self.directory.mode)
        return SourceFacts(str(self.path), self.uid, self.gid, self.mode, self.signature, *directory)

    def may_be_read_by(self, uid: int | None) -> bool:
        """Tell whether the user `uid` may read the database: it is his, or it is in his directory and all may read it.

        In any other directory he may be unable to reach it, and other containers do not even see it.
        """
        return uid == self.uid or (uid == self.directory.uid and bool(self.mode & stat.S_IROTH))

    @classmethod
    def inspect(
        cls, path: Path, *, allow_empty: bool = False, allow_links: bool = False, search: Search | None = None
    ) -> "Source":
        """Inspect the database at `path` (links are followed, see `real_path`), which a `search` has found, if any.

        Raises SourceMissing, and SourceUnusable if it is not a regular file, is mounted without its directory, is
        empty, or has a second name.
        """
        real = real_path(path)
        state = _stat(real, path, search)
        signature = signature_of(real, state)
        mode = stat.S_IMODE(state.st_mode)
        uid, gid = known_owner(real, state)
        rights = Permissions.of(real.parent)
        wal_bytes = _written_bytes(f"{real}-wal")
        source = cls(real, uid, gid, mode, state.st_size, wal_bytes, signature, state.st_nlink, rights)
        source._refuse_place(allow_links=allow_links)
        source._refuse(allow_empty=allow_empty, allow_links=allow_links)
        return source

    def _refuse_place(self, *, allow_links: bool) -> None:
        mounts = current_mounts()
        if (apart := mount_problem(str(self.path), mounts)) is not None:
            raise SourceUnusable(apart.message, apart.hint)
        others = other_mount_points(str(self.path), mounts)
        if others and not allow_links:
            raise SourceUnusable(
                f"{self.path} is also mounted as {', '.join(others)}, without its directory: backupd cannot see the "
                "WAL of an app that opens it there, and a copy would be stale",
                'remove that mount; or set hard_link = "allow" if the app opens this path',
            )

    def _refuse(self, *, allow_empty: bool, allow_links: bool) -> None:
        if self.empty and not allow_empty:
            raise SourceUnusable(
                f"{self.path} is empty ({self.size_bytes} bytes): no backup was made and none was removed",
                "restore the database if it was lost; set allow_empty = true if it is empty on purpose",
            )
        if self.links > 1 and not allow_links:
            raise SourceUnusable(
                f"{self.path} has {self.links} hard links: the WAL of an app that opens another one is not "
                "seen, and a copy would be stale",
                'remove the other names; or set hard_link = "allow" if the app opens this path',
            )


def real_path(path: Path) -> Path:
    """Return where `path` leads to. Raises SourceUnusable for a link whose owner is not that of its target."""
    if foreign := foreign_link(path):
        raise SourceUnusable(str(foreign), LINK_HINT)
    return Path(os.path.realpath(path))


def signature_of(path: Path, state: os.stat_result | None = None) -> Signature:
    """Return the signature of the database at `path` (real path) and its WAL. Raises OSError when it is gone."""
    now = time.time_ns()
    database = _file_state(state or path.stat())
    try:
        wal = _file_state(Path(f"{path}-wal").stat())
    except FileNotFoundError:
        wal = None
    return Signature(database, wal if wal and wal.size_bytes else None, now)


def same_content(earlier: Signature, now: Signature) -> bool:
    """Return whether the database is probably unchanged since `earlier`; only a digest is proof.

    False if the last change was less than 2 s old then, since time stamps have a granularity, and if a WAL was removed
    or emptied since.
    """
    times = [t for f in (earlier.database, earlier.wal) if f for t in (f.mtime_ns, f.ctime_ns)]
    is_old_enough = earlier.captured_at_ns - max(times) > TIMESTAMP_GRAIN_NS
    return is_old_enough and earlier.database == now.database and earlier.wal == now.wal


def _written_bytes(path: str) -> int:
    """Return the size of the file at `path` without its holes, 0 without a file: any size may be planted."""
    with suppress(FileNotFoundError):
        state = os.lstat(path)
        return min(state.st_size, state.st_blocks * _BLOCK_BYTES) if stat.S_ISREG(state.st_mode) else 0
    return 0


def _stat(path: Path, named: Path, search: Search | None) -> os.stat_result:
    """Return the state of the real path `path`, which is `named` in the configuration, or was found by a `search`."""
    try:
        state = stat_without_links(path)
    except FileNotFoundError as error:
        if search is not None and named == search.path:
            raise search.failure() from error
        if link := dangling_link(named):
            raise SourceMissing(
                f"no database at {named}: {link}",
                "mount the target of the link at the same path here, or configure the path of the database itself",
            ) from error
        raise SourceMissing(
            f"no database at {path}",
            "check the path and that the right volume is mounted: an unmounted one is an empty directory; "
            f"if the database is lost: backupd restore{how_to_forget(search, named)}",
        ) from error
    except PermissionError as error:
        raise SourceUnusable(
            f"uid {os.geteuid()} may not access {path}",
            ownership_hint(
                path, "run backupd as the user of the app (PUID), or as root with the capability DAC_READ_SEARCH"
            ),
        ) from error
    except OSError as error:
        raise SourceUnusable(f"{path} cannot be inspected: {error.strerror}", "check the path") from error
    if not stat.S_ISREG(state.st_mode):
        kind = "a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file"
        hint = "configure the path of the database file itself"
        mount = mount_of(str(path), current_mounts())
        is_mounted = mount is not None and mount.point == str(path)
        if stat.S_ISDIR(state.st_mode) and not (is_mounted and path.suffix):
            raise (search if search is not None and named == search.path else Search("", path)).failure()
        if is_mounted:
            hint += "; Docker creates a directory in place of a missing file to be mounted: mount its directory"
        raise SourceUnusable(f"{path} is {kind}", hint)
    return state


def _file_state(state: os.stat_result) -> FileState:
    return FileState(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
