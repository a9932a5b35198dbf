"""Directories that somebody else may write to: held open, so that no path into them is resolved twice.

A directory is opened once. What is in it is opened, made, renamed and removed by its name, relative to the descriptor
(openat(2) and its kin), and what is opened is looked at by its own descriptor. No link is followed on the way, no pipe
or device is opened, and nothing is removed across a mount point. Whatever is renamed or exchanged at that moment, only
what lies in the directory itself is reached.
"""

import errno
import os
import stat
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, Self

from backupd.system.fs import OPEN_FILES, exchange_names, fsync_open_directory, rename_to_free_name, write_all
from backupd.system.owners import known_owner
from backupd.system.small_file import (
    NO_LINK_NO_WAIT,
    READ_S,
    SMALL_BYTES,
    UnexpectedFile,
    read_opened,
    require_kind,
    required_regular,
)

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Iterator
    from pathlib import Path

MAX_NAMES: Final = 100_000
_MAX_DEPTH: Final = 32
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


class Directory:
    """An open directory; a context manager, closed at the end of its block.

    `path` is where it was when it was opened, and serves only messages. Each name is one part of a path. All methods
    raise OSError, UnexpectedFile among them.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self._held: list[int] = []

    @classmethod
    def open(cls, path: "Path | str", *, links: bool = True) -> Self:
        """Open the directory at `path`, whose links the operator made; without `links`, an absolute path has none."""
        text = os.fspath(path)
        if links:
            return cls(os.open(text, _DIRECTORY), text)
        directory = cls(os.open(os.sep, os.O_PATH | os.O_DIRECTORY), os.sep)
        *above, last = [part for part in text.split(os.sep) if part] or ["."]
        for part in above:
            with directory:
                descriptor = directory._open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
            directory = cls(descriptor, directory.path_of(part))
        with directory:
            return cls(directory._open(last, _DIRECTORY | os.O_NOFOLLOW), text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory and what it holds; anything else that was opened in it stays open."""
        for descriptor in (*self._held, self.descriptor):
            os.close(descriptor)

    def hold(self, descriptor: int) -> int:
        """Keep a file open until this directory is closed; returns its `descriptor`."""
        self._held.append(descriptor)
        return descriptor

    def release(self, descriptor: int) -> None:
        """Close a file that this directory holds."""
        self._held.remove(descriptor)
        os.close(descriptor)

    def child(self, name: str) -> "Directory":
        """Open the directory `name` in this one; a link is refused."""
        return Directory(self._open(_one_part(name), _DIRECTORY | os.O_NOFOLLOW), self.path_of(name))

    def make(self, name: str, mode: int = 0o700, *, new: bool = False, durable: bool = True) -> "Directory":
        """Open the directory `name` in this one; a missing one is made with the owner of this one, and `durable`.

        A `new` one must not exist. Raises FileExistsError.
        """
        if not new:
            with suppress(FileNotFoundError):
                return self.child(name)
        try:
            with self._errors(name):
                os.mkdir(_one_part(name), mode, dir_fd=self.descriptor)
        except FileExistsError:
            if new:
                raise
        directory = self.child(name)
        try:
            if not _first_names(directory.descriptor, 1):  # else another one was renamed to that name
                self.give_owner(directory.descriptor)
            if durable:
                self.fsync()
        except BaseException:
            directory.close()
            raise
        return directory

    def open_file(self, name: str, flags: int = os.O_RDONLY, *, one_link: bool = False) -> int:
        """Open the regular file `name` and return its descriptor; with `one_link`, and to write, it has no other name.

        No pipe or device is opened, except one that is put there at this moment; then it is closed again. Raises
        BlockingIOError where another process holds a lease on it.
        """
        descriptor = self._open(_one_part(name), flags | NO_LINK_NO_WAIT)
        return required_regular(descriptor, self.path_of(name), one_link=one_link or bool(flags & os.O_ACCMODE))

    def create_file(self, name: str, mode: int = 0o600) -> int:
        """Create the file `name`, which must not exist, for reading and writing; return its descriptor."""
        return self._open(_one_part(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)

    def read(self, name: str, limit_bytes: int = SMALL_BYTES, *, timeout_s: float = READ_S) -> bytes:
        """Return the contents of a small regular file; one that is larger than `limit_bytes` is refused.

        Raises TimeoutError after `timeout_s` seconds.
        """
        _one_part(name)
        return read_opened(lambda: self.open_file(name), self.path_of(name), limit_bytes, timeout_s)

    def write(self, name: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write the new file `name`, and fsync it; not yet the directory. As root it gets the owner of this one."""
        os.close(self._written(name, data, mode))

    def replace(
        self, name: str, data: bytes, *, temporary: str, within: "Directory | None" = None, mode: int = 0o600
    ) -> None:
        """Replace `name` by `data` atomically and durably, through the name `temporary` here or `within` another.

        Raises UnexpectedFile where another file was put in the place of `temporary`: then `name` may be that one.
        """
        other = within or self
        other.unlink(temporary)
        try:
            descriptor = other._written(temporary, data, mode)  # noqa: SLF001 - another of this class
            try:
                other.move(temporary, descriptor, self, name)
            finally:
                os.close(descriptor)
        finally:
            other.unlink(temporary)
        self.fsync()

    def _written(self, name: str, data: bytes, mode: int) -> int:
        """Write the new file `name` as `write` does; return its descriptor."""
        descriptor = self.create_file(name, mode)
        try:
            with open(descriptor, "r+b", buffering=0, closefd=False) as stream:
                write_all(stream, data)
            os.fsync(descriptor)
            self.give_owner(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def overwrite(self, name: str, data: bytes) -> None:
        """Replace the contents of `name` by shorter `data`; not atomic, but needs no free space."""
        with open(self.open_file(name, os.O_RDWR), "r+b", buffering=0) as stream:
            stream.write(data)
            stream.truncate()
            os.fsync(stream.fileno())

    def stat(self, name: str) -> os.stat_result | None:
        """Return the state of `name` itself, None where there is nothing of this name."""
        return self._state(_one_part(name))

    def holds(self, name: str, descriptor: int) -> bool:
        """Tell whether `name` is the open file `descriptor`."""
        state = self.stat(name)
        return state is not None and os.path.samestat(state, os.fstat(descriptor))

    def names(self, limit: int = MAX_NAMES) -> list[str]:
        """Return the names in this directory, in no order; more than `limit` are refused."""
        names = _first_names(self.descriptor, limit + 1)
        if len(names) > limit:
            raise UnexpectedFile(f"more than {limit} files in a directory of backupd", self.path)
        return names

    def states(self) -> "Iterator[tuple[str, os.stat_result]]":
        """Yield the names in this directory and the states of what has them, in no order; at most MAX_NAMES."""
        with os.scandir(self.descriptor) as entries:
            for number, entry in enumerate(entries):
                if number == MAX_NAMES:
                    raise UnexpectedFile(f"more than {MAX_NAMES} files in a directory of backupd", self.path)
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield entry.name, entry.stat(follow_symlinks=False)

    def rename(self, name: str, to: "Directory", new: str) -> None:
        """Rename `name` to `new` in the directory `to`, replacing a file there; not yet durable."""
        with self._errors(name, to.path_of(new)):
            os.rename(_one_part(name), _one_part(new), src_dir_fd=self.descriptor, dst_dir_fd=to.descriptor)

    def rename_to_free_name(self, name: str, to: "Directory", new: str) -> None:
        """Rename anything that is `name` here to `new` in `to`, which must not exist; not yet durable.

        Raises FileExistsError.
        """
        with self._errors(name, to.path_of(new)):
            rename_to_free_name(_one_part(name), _one_part(new), self.descriptor, to.descriptor)

    def move(self, name: str, descriptor: int, to: "Directory", new: str) -> None:
        """Rename the open file `descriptor`, whose name here is `name`, as `rename` does.

        Raises UnexpectedFile where another file was put in its place: then `new` may be that one.
        """
        if not self.holds(name, descriptor):
            raise UnexpectedFile("another file was put in the place of one that backupd made", self.path_of(name))
        self.rename(name, to, new)
        if not to.holds(new, descriptor):
            raise UnexpectedFile("another file was put in the place of one that backupd moved", to.path_of(new))

    def place(self, name: str, descriptor: int, to: "Directory", new: str) -> None:
        """Move the open file `descriptor`, whose name here is `name`, to `new`, which must not exist; not yet durable.

        It is a link to the open file itself, which fails where the name is taken, as a rename does not; where the file
        system has no hard links (FAT, SMB), a check and a `move`. Raises FileExistsError.
        """
        _one_part(new)
        try:  # AT_SYMLINK_FOLLOW of linkat(2): the file behind the descriptor, whatever its name is now
            os.link(f"{OPEN_FILES}{descriptor}", new, dst_dir_fd=to.descriptor, follow_symlinks=True)
        except FileExistsError as error:
            raise FileExistsError(error.errno, error.strerror, to.path_of(new)) from None
        except OSError:
            if to.stat(new) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to.path_of(new)) from None
            self.move(name, descriptor, to, new)
        else:
            if self.holds(name, descriptor):
                self.unlink(name)  # a database with two names is refused by the next backup

    def link(self, name: str, new: str) -> None:
        """Give the file `name` the second name `new`, which must not exist; a link is not followed. Not yet durable."""
        with self._errors(name):
            os.link(
                _one_part(name),
                _one_part(new),
                src_dir_fd=self.descriptor,
                dst_dir_fd=self.descriptor,
                follow_symlinks=False,
            )

    def exchange(self, name: str, other: str) -> bool:
        """Exchange two names in this directory atomically; False where that is not supported."""
        return exchange_names(_one_part(name), _one_part(other), self.descriptor)

    def unlink(self, name: str) -> bool:
        """Remove the file or link `name`; False where there is none. A directory is refused."""
        try:
            with self._errors(name):
                os.unlink(_one_part(name), dir_fd=self.descriptor)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove `name` with all that is in it, as far as possible; then raise the first error.

        A link is removed, not followed. A mount point stays, and so does what lies deeper than 32 directories.
        """
        _one_part(name)
        _remove(self, name, mount_of_descriptor(self.descriptor), _MAX_DEPTH)

    def clear(self) -> None:
        """Remove all that is in this directory, as `remove` does."""
        _clear(self, mount_of_descriptor(self.descriptor), _MAX_DEPTH)

    def fsync(self) -> None:
        """Make renames and removals in this directory durable; notes a file system that cannot."""
        fsync_open_directory(self.descriptor, self.path)

    def owner(self) -> tuple[int | None, int | None]:
        """Return user and group of this directory, None for one that is not mapped in this user namespace."""
        return known_owner(self.fixed_path, os.fstat(self.descriptor))

    def give_owner(self, descriptor: int) -> None:
        """As root, give an open file or directory of root's the owner of this directory.

        So a later run as that user can use it. It keeps its owner where root may not chown.
        """
        if os.geteuid() != 0:
            return
        state, (uid, gid) = os.fstat(descriptor), self.owner()
        if uid and state.st_uid == 0 and (stat.S_ISDIR(state.st_mode) or state.st_nlink == 1):
            with suppress(PermissionError):
                os.fchown(descriptor, uid, -1 if gid is None else gid)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return os.path.basename(self.path)

    @property
    def fixed_path(self) -> str:
        """A path that leads to this directory while it is open, however it is renamed, for what takes no descriptor."""
        return f"{OPEN_FILES}{self.descriptor}"

    def path_of(self, name: str) -> str:
        """Return the path of `name` for messages."""
        return os.path.join(self.path, name)

    def _open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open `name`, unless it is of another kind than `flags` ask for. Raises UnexpectedFile, OSError."""
        if not flags & os.O_EXCL and (state := self._state(name)):  # opening has effects on a device
            require_kind(state, self.path_of(name), directory=bool(flags & os.O_DIRECTORY))
        with self._errors(name):
            return os.open(name, flags, mode, dir_fd=self.descriptor)

    def _state(self, name: str) -> os.stat_result | None:
        with suppress(FileNotFoundError), self._errors(name):
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        return None

    @contextmanager
    def _errors(self, name: str, other: str | None = None) -> "Iterator[None]":
        """Let errors of system calls on `name` have its path, and the `other` path."""
        try:
            yield
        except OSError as error:
            both = (self.path_of(name), None, other) if other else (self.path_of(name),)
            raise OSError(error.errno, error.strerror, *both) from None


def mount_of_descriptor(descriptor: int) -> str:
    """Return what is different for directories on different mounts, also of one file system (proc(5), `mnt_id`)."""
    mount = ""
    with suppress(OSError), open(f"/proc/self/fdinfo/{descriptor}", "rb") as stream:
        mount = next((line.decode() for line in stream if line.startswith(b"mnt_id:")), "")
    return f"{os.fstat(descriptor).st_dev} {mount}"


def _first_names(descriptor: int, limit: int) -> list[str]:
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in islice(entries, limit)]


def _remove(parent: Directory, name: str, mount: str, depth: int) -> None:
    state = parent.stat(name)
    if state is None or not stat.S_ISDIR(state.st_mode):
        parent.unlink(name)
        return
    with parent.child(name) as directory:
        if mount_of_descriptor(directory.descriptor) != mount:
            raise UnexpectedFile("a file system is mounted there, and nothing in it is removed", directory.path)
        if not depth:
            raise UnexpectedFile(f"more than {_MAX_DEPTH} nested directories", directory.path)
        _clear(directory, mount, depth)
        try:
            os.rmdir(name, dir_fd=parent.descriptor)
        except OSError as error:
            error.filename = directory.path
            raise


def _clear(directory: Directory, mount: str, depth: int) -> None:
    """Remove what is in `directory`, as far as possible; then raise the first error."""
    first: OSError | None = None
    for name in _first_names(directory.descriptor, MAX_NAMES):
        try:
            _remove(directory, name, mount, depth - 1)
        except OSError as error:
            first = first or error
    if first is not None:
        raise first


def _one_part(name: str) -> str:
    """Return `name`, which must be one part of a path. Raises ValueError."""
    if name in {"", os.curdir, os.pardir} or os.sep in name or "\0" in name:
        raise ValueError(f"{name[:120]!r} is not the name of a file")
    return name
