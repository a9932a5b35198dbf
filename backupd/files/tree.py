"""Trees of directories, gone through part by part, relative to open directories: no link is followed on the way."""

import os
import stat
from contextlib import suppress
from typing import Self

from backupd.system.directory import Directory, mount_of_descriptor
from backupd.system.small_file import UnexpectedFile
from backupd.system.sync import can_sync_at_once, sync_at_once


class Cursor:
    """Opens the directories above paths below `root`; those of neighbours are opened once. A context manager."""

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._names: list[str] = []
        self._open: list[Directory] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._back_to(0)

    def parent(self, path: bytes, *, make: bool = False) -> tuple[Directory, str]:
        """Return the directory that `path` lies in, and its name there; with `make`, missing ones are made.

        The directory is open until the next call. Raises UnexpectedFile where a link or file is on the way, OSError.
        """
        *above, name = map(os.fsdecode, path.split(b"/"))
        self._back_to(_common(above, self._names))
        for part in above[len(self._open) :]:
            here = self._open[-1] if self._open else self._root
            self._open.append(here.make(part, durable=False) if make else here.child(part))
            self._names.append(part)
        return (self._open[-1] if self._open else self._root), name

    def find(self, path: bytes) -> tuple[Directory, str] | None:
        """Return the same for something that exists, None where there is nothing at `path`. Raises OSError."""
        with suppress(FileNotFoundError, UnexpectedFile):
            directory, name = self.parent(path)
            if directory.stat(name) is not None:
                return directory, name
        return None

    def _back_to(self, depth: int) -> None:
        while len(self._open) > depth:
            self._names.pop()
            self._open.pop().close()


def _common(one: list[str], other: list[str]) -> int:
    """Return how many parts two paths have in common at their beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def names_in(directory: Directory) -> list[str]:
    """Return all names in `directory`, however many, in order. Raises OSError."""
    with os.scandir(directory.descriptor) as entries:
        return sorted(entry.name for entry in entries)


def make_durable(directory: Directory) -> None:
    """Make all durable that was written and renamed on the file system of `directory`. Raises OSError."""
    if can_sync_at_once(directory.fixed_path):
        sync_at_once(directory.descriptor, directory.path)
    else:
        os.sync()


def remove_tree(parent: Directory, name: str) -> None:
    """Remove `name` with all that is in it, also from directories in which only their owner may not write.

    A link is removed, not followed. Raises UnexpectedFile at a mount point, OSError.
    """
    _remove(parent, name, mount_of_descriptor(parent.descriptor))


def size_of_tree(directory: Directory) -> int:
    """Return the size of all files below `directory`, in bytes, without other file systems. Raises OSError."""
    return _size(directory, mount_of_descriptor(directory.descriptor))


def _remove(parent: Directory, name: str, mount: str) -> None:
    state = parent.stat(name)
    if state is None or not stat.S_ISDIR(state.st_mode):
        parent.unlink(name)
        return
    with parent.child(name) as directory:
        if mount_of_descriptor(directory.descriptor) != mount:
            raise UnexpectedFile("a file system is mounted there, and nothing in it is removed", directory.path)
        if state.st_mode & stat.S_IRWXU != stat.S_IRWXU and os.geteuid() == state.st_uid:
            os.fchmod(directory.descriptor, stat.S_IRWXU)
        for inner in names_in(directory):
            _remove(directory, inner, mount)
    os.rmdir(name, dir_fd=parent.descriptor)


def _size(directory: Directory, mount: str) -> int:
    size_bytes = 0
    for name in names_in(directory):
        state = directory.stat(name)
        if state is not None and stat.S_ISREG(state.st_mode):
            size_bytes += state.st_size
        elif state is not None and stat.S_ISDIR(state.st_mode):
            with directory.child(name) as inner:
                if mount_of_descriptor(inner.descriptor) == mount:
                    size_bytes += _size(inner, mount)
    return size_bytes
