"""One restore at a time beside a database, also of several backupd that have no store in common."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.errors import LockHeld

_POLL_S = 0.1


@contextmanager
def restore_lock(database: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Let nobody else put a database in place, or heal that, in the directory of what `database` leads to.

    The kernel's lock on the directory itself leaves nothing behind, and ends with its process. Where there is none (no
    such directory, NFS), nobody is kept apart. Raises LockHeld when another one still has it after `wait_s`.
    """
    directory = Path(os.path.realpath(database)).parent
    descriptor = _opened(directory)
    try:
        if descriptor is not None:
            _lock(descriptor, directory, time.monotonic() + wait_s)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _opened(directory: Path) -> int | None:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # what is wrong with it is told by who looks at the place
        return None


def _lock(descriptor: int, directory: Path, give_up: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < give_up:
                time.sleep(_POLL_S)
                continue
            raise LockHeld(
                f"another backupd is restoring in {directory}", "wait for it to end, and look at what it did"
            ) from None
        except OSError:  # a file system without such locks
            return
        return
