"""The file of a source, by device and inode: a file that replaces it, even for a moment, is not read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backupd.errors import SourceReplaced, SourceUnusable
from backupd.system.small_file import opened_file

RESTORE_HINT = "restore the last verified generation (backupd list)"
Identity = tuple[int, int]  # device and inode
MOST_DESCRIPTORS = 2048  # of a worker, which opens a dozen files, or some for each of many databases
_FIRST = 3


def require_in_place(path: str, identity: Identity) -> None:
    """Raise SourceReplaced unless the source is still the file at `path`, which is no link; SourceUnusable."""
    try:
        state = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise replaced(path) from error
    except PermissionError as error:
        raise SourceUnusable(
            f"uid {os.geteuid()}, which owns it, cannot reach {path}", "give it access (x) to every directory above it"
        ) from error
    if (state.st_dev, state.st_ino) != identity:
        raise replaced(path)


def require_opened(path: str, identity: Identity) -> None:
    """Raise SourceReplaced unless this process has the source open: SQLite opened `path` a moment ago."""
    for descriptor in range(_FIRST, MOST_DESCRIPTORS):
        with suppress(OSError):
            if _is(descriptor, identity):
                return
    raise replaced(path)


@contextmanager
def opened_source(path: str, identity: Identity) -> Iterator[int]:
    """Open the source for the block; yields its descriptor. Raises SourceReplaced, OSError."""
    with opened_file(path) as descriptor:
        if not _is(descriptor, identity):
            raise replaced(path)
        yield descriptor


def _is(descriptor: int, identity: Identity) -> bool:
    state = os.fstat(descriptor)
    return (state.st_dev, state.st_ino) == identity


def replaced(path: str) -> SourceReplaced:
    """Return the error for another file in the place of the source."""
    return SourceReplaced(f"{path} was replaced while it was copied", "run the backup again")
