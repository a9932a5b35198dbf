"""The directories in `.backupd/staging` where runs make files: each of one run, and swept when its process is dead."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from backupd.system.directory import Directory
from backupd.system.file_lock import lock_opened

_RUN: Final = "run-"


@contextmanager
def new_staging(root: Directory) -> Iterator[Directory]:
    """Yield a new empty directory (0700) in `root`, emptied and removed at the end.

    A flock(2) on it tells that its process lives.
    """
    directory = _make(root)
    name = directory.name
    with directory:
        try:
            yield directory
        finally:
            try:
                _remove(directory, root, name)
            except BaseException:  # SIGTERM during the removal
                _remove(directory, root, name)
                raise


def abandoned_staging(root: Directory) -> Iterator[Directory]:
    """Yield the directories in `root` whose process is dead."""
    for name in sorted(root.names()):
        if name.startswith(_RUN):
            with suppress(OSError), root.child(name) as directory:
                if lock_opened(directory.descriptor):
                    yield directory


def remove_staging(root: Directory, name: str) -> str:
    """Remove as much as possible of `name`; returns why the rest remains, empty when nothing does."""
    try:
        root.remove(name)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _make(root: Directory) -> Directory:
    while True:
        with suppress(FileExistsError, FileNotFoundError):  # taken; or swept between mkdir and flock
            directory = root.make(f"{_RUN}{secrets.token_hex(4)}", new=True, durable=False)
            if lock_opened(directory.descriptor) and root.holds(directory.name, directory.descriptor):
                return directory
            directory.close()


def _remove(directory: Directory, root: Directory, name: str) -> None:
    """Empty the directory, also where it was moved, and remove what has its name."""
    with suppress(OSError):
        directory.clear()
    with suppress(OSError):
        root.remove(name)
