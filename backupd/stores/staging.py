"""Working directories on the file system of a store: lent, cleaned up, and swept after a crash."""

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
    """Lends directories below `root`. A lock on each tells those at work from those that a killed process left."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """Lend a new directory (0700) until the end of the block."""
        path, lock = self._make()
        try:
            yield path
        finally:
            _remove(path)
            os.close(lock)

    def abandoned(self) -> Iterator[Path]:
        """Yield the directories whose process is gone."""
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
            if lock is not None:  # swept between mkdir and lock: another one
                os.close(lock)


def sweep(directory: Path) -> str:
    """Remove what can be removed of `directory`, and say in words why the rest could not; nothing when all is gone."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        if directory.exists():
            shutil.rmtree(directory)  # once more, since the first error tells the reason
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _remove(directory: Path) -> None:
    """Remove `directory`, also when the SIGTERM that ends this process comes in the middle of it."""
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
