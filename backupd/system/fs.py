"""Durable file operations: write to a temporary name, fsync the file, rename, fsync the directory.

https://lwn.net/Articles/457667/ says why each of the four is needed.
"""

import errno
import os
import stat
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from backupd.system.owners import owner_text

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Iterator, ValuesView
    from pathlib import Path
    from typing import BinaryIO

OPEN_FILES = "/proc/self/fd/"
_AT_FDCWD = -100  # fcntl.h
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2  # linux/fs.h
# fsync(2) of a directory on CIFS before Linux 4.17, vboxsf, DrvFs, 9p2000. PostgreSQL's fd.c tolerates the first two.
_UNSUPPORTED = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)
# chmod(2) of an own file on ZFS with NFSv4 ACLs (aclmode=restricted), FAT and some SMB servers; chown(2) on the latter
# two, without CAP_CHOWN, and (EINVAL) to an id that this user namespace does not map.
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)

_limits: ContextVar["dict[tuple[str, int], str] | None"] = ContextVar("limits", default=None)


@contextmanager
def collect_limits() -> "Iterator[ValuesView[str]]":
    """Collect what file systems did not support in the block, and what was skipped: one sentence each."""
    limits: dict[tuple[str, int], str] = {}
    token = _limits.set(limits)
    try:
        yield limits.values()
    finally:
        _limits.reset(token)


def _note(kind: str, device: int, limit: str) -> None:
    limits = _limits.get()
    if limits is not None:
        limits.setdefault((kind, device), limit)


def known_path(path: "Path | str") -> str:
    """Return `path`; of one below an open directory (`Directory.fixed_path`), the path by which people know it."""
    text = os.fspath(path)
    return os.path.realpath(text) if text.startswith(OPEN_FILES) else text


def visible_directory(directory: "Path | str") -> str:
    """Return `directory` without the hidden directories of a store at its end."""
    return f"{known_path(directory)}{os.sep}".partition(f"{os.sep}.backupd{os.sep}")[0].rstrip(os.sep) or os.sep


def is_disk_full(error: OSError) -> bool:
    """Tell whether `error` means that the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def opened(path: "Path | str", flags: int = os.O_RDONLY) -> "Iterator[int]":
    """Open the file at `path` for the block; yields its descriptor. Raises OSError."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fsync_directory(directory: "Path") -> None:
    """Make renames and removals in `directory` durable; notes a file system that cannot. Raises OSError."""
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        fsync_open_directory(descriptor, directory)


def fsync_open_directory(descriptor: int, directory: "Path | str") -> None:
    """Do what `fsync_directory` does to the open `directory`. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        limit = f"the file system of {visible_directory(directory)} cannot fsync directories ({error.strerror})"
        lost = "a power failure may take back the last renames there"
        _note("fsync", os.fstat(descriptor).st_dev, f"{limit}: {lost}")


def exchange_names(one: "Path | str", other: "Path | str", directory: int = _AT_FDCWD) -> bool:
    """Exchange two names of the open `directory` atomically; False where that is not supported (renameat2(2)).

    Raises OSError.
    """
    return _renameat2(one, other, directory, directory, _RENAME_EXCHANGE)


def rename_to_free_name(name: str, new: str, directory: int, to: int) -> None:
    """Rename `name` in the open `directory` to `new` in the open directory `to`, where nothing may have that name.

    Where the kernel or the file system cannot ensure that, a moment lies between the check and the rename. Raises
    FileExistsError, OSError.
    """
    if not _renameat2(name, new, directory, to, _RENAME_NOREPLACE):
        try:
            os.stat(new, dir_fd=to, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, new, src_dir_fd=directory, dst_dir_fd=to)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)


def _renameat2(one: "Path | str", other: "Path | str", directory: int, to: int, flags: int) -> bool:
    import ctypes  # rarely needed, and slow to load

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # another C library, or an older version
        return False
    if rename(directory, os.fsencode(one), to, os.fsencode(other), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:  # not supported by the file system or the kernel
        return False
    raise OSError(number, os.strerror(number), str(other))


def set_mode(descriptor: int, mode: int, path: "Path") -> int:
    """Set the mode of the open file at `path`; return the mode that it then has.

    Where the file system refuses, the file keeps its mode, which is noted. Raises OSError.
    """
    if stat.S_IMODE(os.fstat(descriptor).st_mode) == mode:  # FAT has one mode, and no chmod
        return mode
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    state = os.fstat(descriptor)
    _note_mode(state, mode, path)
    return stat.S_IMODE(state.st_mode)


def note_extra_access(descriptor: int, path: "Path | str", mode: int = 0o600) -> None:
    """Note it if the file system gives more users access to an open file than `mode` does. Raises OSError."""
    state = os.fstat(descriptor)
    if state.st_mode & ~mode & 0o066:
        _note_mode(state, mode, path)


def _note_mode(state: os.stat_result, wanted: int, path: "Path | str") -> None:
    found = stat.S_IMODE(state.st_mode)
    directory = visible_directory(os.fspath(path).rpartition(os.sep)[0])
    limit = f"the file system of {directory} gives files mode {found:04o} instead of {wanted:04o}"
    if found & ~wanted & 0o066:
        _note("mode", state.st_dev, f"{limit}: other users may have access (see its ACLs and mount options)")
    elif wanted & ~found & 0o066:
        _note("mode", state.st_dev, f"{limit}: users other than the owner may lack access")


def change_owner(descriptor: int, uid: int, gid: int | None, path: "Path") -> OSError | None:
    """Give the open file at `path` to `uid`:`gid`, or to `uid` alone; return the error if that is refused, and note it.

    Raises OSError for any other error.
    """
    try:
        os.fchown(descriptor, uid, -1 if gid is None else gid)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        where = visible_directory(path.parent)
        limit = f"files in {where} cannot be given to {owner_text(uid, gid)} ({error.strerror})"
        _note("owner", os.fstat(descriptor).st_dev, limit)
        return error
    return None


def write_all(stream: "BinaryIO", data: "bytes | memoryview") -> None:
    """Write `data` to an unbuffered stream, which may take it in parts. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]
