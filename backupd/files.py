"""Durable file operations: write to a temporary name, fsync the file, rename, fsync the directory.

See https://lwn.net/Articles/457667/ for why each of the four is needed.
"""

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # child processes import this
    from pathlib import Path

_AT_FDCWD = -100  # fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


def is_full(error: OSError) -> bool:
    """Tell whether `error` says that there is no room left: on the disk, or in a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def fsync_directory(directory: "Path") -> None:
    """Make renames and removals in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: "Path") -> None:
    """Make the contents of `path` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: "Path", other: "Path") -> bool:
    """Let two files exchange names in one step; False where that cannot be had (renameat2(2)). Raises OSError."""
    import ctypes  # hardly ever needed, and slow to load

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # another C library, or an old one
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):  # the file system, or the kernel, does not know it
        return False
    raise OSError(number, os.strerror(number), str(other))


def write_durably(path: "Path", data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path`, which must not exist, and fsync it; not yet its directory. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)
    give_to_owner_of(path.parent, path)


def replace_durably(path: "Path", data: bytes, *, temporary: "Path", mode: int = 0o600) -> None:
    """Put `data` in place of `path` in one step, by way of `temporary` on the same file system. Raises OSError."""
    temporary.unlink(missing_ok=True)
    try:
        write_durably(temporary, data, mode=mode)
        give_to_owner_of(path.parent, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def overwrite(path: "Path", data: bytes) -> None:
    """Put shorter `data` in place of what `path` holds, in two steps but with no need of more room. Raises OSError."""
    with path.open("r+b", buffering=0) as stream:
        stream.write(data)
        stream.truncate()
        os.fsync(stream.fileno())


def give_to_owner_of(directory: "Path", path: "Path") -> None:
    """Give `path` the owner of `directory` when running as root, so that a later run as that user can go on.

    Where root may not chown (a container without CAP_CHOWN) the file stays as it is.
    """
    if os.geteuid() != 0:
        return
    owner = directory.stat()
    if owner.st_uid == 0:
        return
    try:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    except PermissionError:
        return
