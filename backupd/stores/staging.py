"""Working directories on the file system of a store, removed at the end and swept after a crash."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.system.fs import inherit_owner

_PREFIX = "run-"


class Staging:
    """Creates directories below `root`; a flock(2) on each tells those in use from those of dead processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """Yield a new directory (0700), removed at the end of the block."""
        path, lock = self._make()
        try:
            yield path
        finally:
            _remove(path)
            os.close(lock)

    def abandoned(self) -> Iterator[Path]:
        """Yield the directories whose process is dead."""
        for path in sorted(self.root.glob(f"{_PREFIX}*")):
            lock = _try_lock(path)
            if lock is not None:
                try:
                    yield path
                finally:
                    os.close(lock)

    def _make(self) -> tuple[Path, int]:
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.root))
            inherit_owner(self.root, path)
            lock = _try_lock(path)
            if lock is not None and path.is_dir():
                return path, lock
            if lock is not None:  # swept between mkdir and flock
                os.close(lock)


def remove_tree(directory: Path) -> str:
    """Remove as much as possible of `directory`; returns why the rest remains, empty when nothing does."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        if directory.exists():
            shutil.rmtree(directory)  # again, for the reason of the first error
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _remove(directory: Path) -> None:
    """Remove `directory`, also when SIGTERM interrupts the removal."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _try_lock(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
