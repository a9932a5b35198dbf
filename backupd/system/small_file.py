"""Regular files that somebody else may have put there: opened without waiting, and read with limits.

Nothing but a regular file is opened. A small one is read by `read_small_file` or `Directory.read`, up to a limit of its
size and of the time.
"""

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from backupd.system.fs import OPEN_FILES

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL_BYTES: Final = 1 << 20
READ_S: Final = 5.0
NO_LINK_NO_WAIT: Final = os.O_NOFOLLOW | os.O_NONBLOCK  # not even a lease of another process delays such an open
_LEASE_S: Final = 60.0  # the kernel itself ends a lease after 45 s (proc(5), lease-break-time)
_POLL_S: Final = 0.02
_PIECE_BYTES: Final = 1 << 16
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnexpectedFile(OSError):
    """An object of another kind is at a path of backupd, as `strerror` says; it is left unchanged."""

    def __init__(self, what: str, path: str) -> None:
        super().__init__(errno.EINVAL, what, path)


def open_regular(path: "Path | str", flags: int = os.O_RDONLY, *, links: bool = False) -> int:
    """Open the regular file at `path` and return its descriptor; its last part is no link, unless `links` are followed.

    What this process has open is opened again by its path in /proc/self/fd.
    No pipe or device is opened, except one that is put there at this moment; then it is closed again. Raises
    UnexpectedFile, BlockingIOError where another process holds a lease on it, and OSError.
    """
    text = os.fspath(path)
    links = links or text.startswith(OPEN_FILES)
    with suppress(FileNotFoundError):
        require_kind(os.stat(text, follow_symlinks=links), text)  # opening has effects on a device
    descriptor = os.open(text, flags | (os.O_NONBLOCK if links else NO_LINK_NO_WAIT), 0o600)
    return required_regular(descriptor, text, one_link=bool(flags & os.O_ACCMODE))


@contextmanager
def opened_file(
    path: "Path | str", flags: int = os.O_RDONLY, *, links: bool = False, timeout_s: float = _LEASE_S
) -> "Iterator[int]":
    """Open the regular file at `path` for the block, as `open_regular` does; yields its descriptor.

    Raises UnexpectedFile, OSError; and TimeoutError where another process holds a lease on it for longer than
    `timeout_s` seconds.
    """
    text = os.fspath(path)
    descriptor = _opened_before(time.monotonic() + timeout_s, lambda: open_regular(text, flags, links=links), text)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def require_regular_file(path: str) -> None:
    """Raise UnexpectedFile unless the file at `path`, if there is one, is a regular file."""
    with suppress(FileNotFoundError):
        require_kind(os.stat(path, follow_symlinks=False), path)


def read_small_file(
    path: "Path | str", limit_bytes: int = SMALL_BYTES, *, links: bool = False, timeout_s: float = READ_S
) -> bytes:
    """Return the contents of the small file at `path`, opened as `open_regular` does.

    Raises UnexpectedFile, also for a file that is larger than `limit_bytes`, TimeoutError after `timeout_s` seconds,
    and OSError.
    """
    return read_opened(lambda: open_regular(path, links=links), os.fspath(path), limit_bytes, timeout_s)


def read_opened(open_it: "Callable[[], int]", path: str, limit_bytes: int, timeout_s: float) -> bytes:
    """Return the contents of the file at `path` that `open_it` opens, with the limits of `read_small_file`."""
    give_up, data = time.monotonic() + timeout_s, b""
    with open(_opened_before(give_up, open_it, path), "rb", buffering=0) as stream:
        while piece := stream.read(min(_PIECE_BYTES, limit_bytes + 1 - len(data))):
            data += piece
            if len(data) > limit_bytes:
                raise UnexpectedFile(f"larger than {limit_bytes} bytes", path)
            _require_time(give_up, path)
    return data


def _opened_before(give_up: float, open_it: "Callable[[], int]", path: str) -> int:
    while True:
        with suppress(BlockingIOError):  # another process holds a lease on it (fcntl(2), F_SETLEASE), and was told
            return open_it()
        _require_time(give_up, path)
        time.sleep(_POLL_S)


def _require_time(give_up: float, path: str) -> None:
    if time.monotonic() >= give_up:
        raise TimeoutError(errno.ETIMEDOUT, "it cannot be read in time", path)


def required_regular(descriptor: int, path: str, *, one_link: bool = False) -> int:
    """Return `descriptor`; unless it is of a regular file, close it and raise UnexpectedFile."""
    try:
        require_kind(os.fstat(descriptor), path, one_link=one_link)
    except UnexpectedFile:
        os.close(descriptor)
        raise
    return descriptor


def require_kind(state: os.stat_result, path: str, *, directory: bool = False, one_link: bool = False) -> None:
    """Raise UnexpectedFile unless `state` is of a regular file, or of a directory; `one_link`: with no other name."""
    if one_link and stat.S_ISREG(state.st_mode) and state.st_nlink > 1:
        raise UnexpectedFile("a file with another name (hard link)", path)
    if stat.S_ISDIR(state.st_mode) if directory else stat.S_ISREG(state.st_mode):
        return
    found = next((text for is_kind, text in _KINDS if is_kind(state.st_mode)), "a file")
    raise UnexpectedFile(f"{found}, not a {'directory' if directory else 'regular file'}", path)
