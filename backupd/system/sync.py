"""Make many files durable at once: all that was written to their file system (syncfs(2))."""

import ctypes
import os
import re
from typing import Final

from backupd.system.mounts import filesystem_of

_LOCAL: Final = frozenset(("btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs"))
_TELLS_ERRORS: Final = (5, 8)  # the kernel since which syncfs(2) fails where a file could not be written


def can_sync_at_once(path: str) -> bool:
    """Tell whether `sync_at_once` is as good as an fsync of each file on the file system of `path`.

    Of a share, whose server would have to know of it, and of an old kernel that is not certain.
    """
    kernel = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    is_known = kernel >= _TELLS_ERRORS and hasattr(ctypes.CDLL(None), "syncfs")
    return is_known and filesystem_of(os.path.realpath(path)) in _LOCAL


def sync_at_once(descriptor: int, path: str) -> None:
    """Make all durable that was written to the file system of an open file since it was opened. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
