"""Locks that two containers on one volume share: of a lock file that names its holder, and of a directory itself.

The kernel releases a lock with its process (flock(2)), so that a dead one never blocks. After a crash the lock file
names the process that held it.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backupd.errors import LockHeld
from backupd.formatting import human_duration
from backupd.system.directory import Directory

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock, or held it when it died; `since` is in seconds since the epoch."""

    task: str
    pid: int
    host: str
    since: float


@contextmanager
def file_lock(
    path: Path,
    task: str,
    *,
    timeout_s: float = 0.0,
    on_wait: Callable[[LockHolder | None], object] = lambda _holder: None,
) -> Iterator[LockHolder | None]:
    """Hold the lock file `path`, whose directory is no link; yields the process that died while it held it, or None.

    Calls `on_wait` once when it has to wait. Raises LockHeld after `timeout_s` seconds, OSError.
    """
    with Directory.open(path.parent.parent) as above, above.child(path.parent.name) as directory:
        descriptor = directory.hold(directory.open_file(path.name, os.O_RDWR | os.O_CREAT))
        if not os.fstat(descriptor).st_size:  # a new one, not a file of root's that was renamed
            directory.give_owner(descriptor)
        if not _acquire(descriptor, timeout_s=timeout_s, on_wait=lambda: on_wait(_read(descriptor))):
            raise LockHeld(f"{path.parent.parent} is in use by {_described(_read(descriptor))}", "wait until it ends")
        dead = _read(descriptor)
        try:
            _write(descriptor, LockHolder(task, os.getpid(), socket.gethostname(), time.time()))
            yield dead
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)


@contextmanager
def directory_lock(directory: Path, *, shared: bool = False, timeout_s: float = 0.0) -> Iterator[bool]:
    """Lock `directory` itself, which leaves no file behind; yields whether that succeeded within `timeout_s` seconds.

    Raises OSError where there is no such directory, or its file system has no locks.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield lock_opened(descriptor, shared=shared, timeout_s=timeout_s)
    finally:
        os.close(descriptor)


def lock_opened(descriptor: int, *, shared: bool = False, timeout_s: float = 0.0) -> bool:
    """Lock an open file or directory until it is closed; return whether that succeeded. Raises OSError."""
    return _acquire(descriptor, shared=shared, timeout_s=timeout_s)


def _acquire(
    descriptor: int, *, shared: bool = False, timeout_s: float, on_wait: Callable[[], object] = lambda: None
) -> bool:
    give_up, waits = time.monotonic() + timeout_s, False
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= give_up:
            return False
        if not waits:
            waits = True
            on_wait()
        time.sleep(_POLL_S)


def _described(holder: LockHolder | None) -> str:
    if holder is None:
        return "another run"
    age_s = max(0, time.time() - holder.since)
    return f"a {holder.task} started {human_duration(age_s)} ago (process {holder.pid} on {holder.host})"


def _read(descriptor: int) -> LockHolder | None:
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        return LockHolder(str(facts["task"]), int(facts["pid"]), str(facts["host"]), float(facts["since"]))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _write(descriptor: int, holder: LockHolder) -> None:
    with suppress(OSError):  # a full disk must not prevent pruning: the lock itself needs no space
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
