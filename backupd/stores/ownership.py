"""Change the owner of what root owns of a store: of a new volume, or of files from a run as root.

The app may write to that directory. So no link is followed, on the way to it or inside, and files with a second hard
link or with a name that is not backupd's are left alone.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, is_generation_id
from backupd.stores.contract import CHECKSUMS, HIDDEN

_INSPECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def transfer_ownership(directory: Path, uid: int, gid: int, log_name: str) -> None:
    """Change the owner of `directory`, and of backupd's files in it that root owns, to `uid`:`gid`. Needs CAP_CHOWN.

    Makes a missing directory that `uid` could not make, never its parent. Does nothing where it cannot be made or
    opened: the store reports that when it is used. Raises OSError where root may not chown.
    """
    owner = (uid, gid)
    try:
        with _parent_of(directory) as parent:
            if os.fstat(parent).st_uid != uid:
                with _unreachable_errors(), suppress(FileExistsError):
                    os.mkdir(directory.name, 0o750, dir_fd=parent)
            with _opened(directory.name, parent, os.O_DIRECTORY) as descriptor:
                for name in filter(_is_own_file(log_name), _names(descriptor)):
                    _chown(name, descriptor, owner, recurse=False)
                _chown(HIDDEN, descriptor, owner)
                if not os.fstat(descriptor).st_mode & stat.S_IWOTH:
                    _chown_opened(descriptor, owner)
    except _Unreachable:
        return


class _Unreachable(Exception):
    """Missing, not accessible, or a link."""


@contextmanager
def _unreachable_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _Unreachable from error


def _is_own_file(log_name: str) -> Callable[[str], bool]:
    def is_own(name: str) -> bool:
        stems = (name.removesuffix(suffix) for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX) if name.endswith(suffix))
        return name == CHECKSUMS or name.startswith(log_name) or any(is_generation_id(stem) for stem in stems)

    return is_own


@contextmanager
def _parent_of(directory: Path) -> Iterator[int]:
    """Open the parent of the absolute path `directory`, part by part, so that no link is followed."""
    descriptor = os.open("/", _PASS)
    try:
        for part in directory.parts[1:-1]:
            with _unreachable_errors():
                below = os.open(part, _PASS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, parent: int, flags: int = 0) -> Iterator[int]:
    with _unreachable_errors():
        descriptor = os.open(name, _INSPECT | flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _chown(name: str, parent: int, owner: tuple[int, int], *, recurse: bool = True) -> None:
    """Change the owner of a regular file, or of a directory and all in it; of itself last: its owner may deny it."""
    with suppress(_Unreachable):
        with _unreachable_errors():
            mode = os.lstat(name, dir_fd=parent).st_mode  # before it is opened, which has effects on a device or a pipe
        is_directory = stat.S_ISDIR(mode) and recurse
        if stat.S_ISREG(mode) or is_directory:
            with _opened(name, parent, os.O_DIRECTORY if is_directory else 0) as descriptor:
                for below in _names(descriptor) if is_directory else ():
                    _chown(below, descriptor, owner)
                _chown_opened(descriptor, owner)


def _chown_opened(descriptor: int, owner: tuple[int, int]) -> None:
    found = os.fstat(descriptor)
    if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
        os.fchown(descriptor, *owner)


def _names(descriptor: int) -> list[str]:
    with _unreachable_errors():
        return os.listdir(descriptor)
