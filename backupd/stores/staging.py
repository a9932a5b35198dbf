"""Working directories on the file system of a store, removed at the end and swept after a crash."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from backupd.system.file_lock import directory_lock
from backupd.system.fs import inherit_owner

_PREFIX = "run-"


class Staging:
    """Creates directories below `root`; a flock(2) on each tells those in use from those of dead processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """Yield a new directory (0700), removed at the end of the block."""
        with ExitStack() as stack:
            path = self._make(stack)
            try:
                yield path
            finally:
                _remove(path)

    def abandoned(self) -> Iterator[Path]:
        """Yield the directories whose process is dead."""
        for path in sorted(self.root.glob(f"{_PREFIX}*")):
            with suppress(OSError), directory_lock(path) as held:
                if held:
                    yield path

    def _make(self, stack: ExitStack) -> Path:
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.root))
            inherit_owner(self.root, path)
            with suppress(OSError):
                if stack.enter_context(directory_lock(path)) and path.is_dir():
                    return path
            stack.close()  # swept between mkdir and flock


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
