"""Give to its new user what root owns of a store in a directory: a fresh volume, or what a run as root left there.

The app may write to that directory. Hence no link is followed, on the way to it or inside, a file with a second name
is left alone, and so is all that does not bear a name of ours.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, is_generation_id
from backupd.stores.local import CHECKSUMS, HIDDEN

_INSPECT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def transfer_ownership(directory: Path, uid: int, gid: int, log_name: str) -> None:
    """Give `directory`, and those entries of ours in it that root owns, to `uid`:`gid`. Needs CAP_CHOWN for that.

    Where it is missing it is made, if `uid` could not do so; its parent is never made. Where that, or looking inside,
    is not possible, nothing happens: the store says so when it is used. Raises OSError where root may not chown.
    """
    owner = (uid, gid)
    try:
        with _parent_of(directory) as parent:
            if os.fstat(parent).st_uid != uid:
                _make(directory.name, parent)
            with _opened(directory.name, parent, os.O_DIRECTORY) as descriptor:
                for name in filter(_is_file_of_ours(log_name), _names(descriptor)):
                    _give_file(name, descriptor, owner)
                _give_tree(HIDDEN, descriptor, owner)
                if not os.fstat(descriptor).st_mode & stat.S_IWOTH:
                    _give_opened(descriptor, owner)
    except _Unreachable:
        return


class _Unreachable(Exception):
    """Not there, not for us to see, or a link."""


def _is_file_of_ours(log_name: str) -> Callable[[str], bool]:
    def is_ours(name: str) -> bool:
        stems = (name.removesuffix(suffix) for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX) if name.endswith(suffix))
        return name == CHECKSUMS or name.startswith(log_name) or any(is_generation_id(stem) for stem in stems)

    return is_ours


@contextmanager
def _parent_of(directory: Path) -> Iterator[int]:
    """Open the parent of the absolute path `directory`, part by part, so that no link leads elsewhere."""
    descriptor = os.open("/", _PASS)
    try:
        for part in directory.parts[1:-1]:
            try:
                below = os.open(part, _PASS, dir_fd=descriptor)
            except OSError as error:
                raise _Unreachable from error
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, parent: int, flags: int = 0) -> Iterator[int]:
    try:
        descriptor = os.open(name, _INSPECT | flags, dir_fd=parent)
    except OSError as error:
        raise _Unreachable from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o750, dir_fd=parent)
    except FileExistsError:
        return
    except OSError as error:
        raise _Unreachable from error


def _give_tree(name: str, parent: int, owner: tuple[int, int]) -> None:
    """Give a directory and what is in it; itself last, since its new owner may shut us out."""
    with suppress(_Unreachable), _opened(name, parent, os.O_DIRECTORY) as descriptor:
        for below in _names(descriptor):
            _give_file(below, descriptor, owner)
            _give_tree(below, descriptor, owner)
        _give_opened(descriptor, owner)


def _give_file(name: str, parent: int, owner: tuple[int, int]) -> None:
    with suppress(_Unreachable):
        if _is_regular(name, parent):  # before it is opened, which would do something to a device or a pipe
            with _opened(name, parent) as descriptor:
                _give_opened(descriptor, owner)


def _give_opened(descriptor: int, owner: tuple[int, int]) -> None:
    found = os.fstat(descriptor)
    if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
        os.fchown(descriptor, *owner)


def _is_regular(name: str, parent: int) -> bool:
    try:
        return stat.S_ISREG(os.lstat(name, dir_fd=parent).st_mode)
    except OSError as error:
        raise _Unreachable from error


def _names(descriptor: int) -> list[str]:
    try:
        return os.listdir(descriptor)
    except OSError as error:
        raise _Unreachable from error
