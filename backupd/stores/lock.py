"""One run at a time on a store: a lock file that two containers on one volume both see.

The kernel drops the lock with its process (flock(2)), so that a dead one never blocks; what the file says tells who
holds it, and after a crash, who held it.
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
from backupd.system.fs import inherit_owner

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lock, or held it when it died: `since` is in seconds since the epoch."""

    task: str
    pid: int
    host: str
    since: float


@contextmanager
def store_lock(
    path: Path, task: str, *, timeout_s: float, on_wait: Callable[[LockHolder | None], None]
) -> Iterator[LockHolder | None]:
    """Hold the lock file `path`; yields who died holding it before, or None.

    Tells `on_wait` once when it has to wait. Raises LockHeld after `timeout_s` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "r+b", buffering=0) as stream:
        inherit_owner(path.parent, path)
        _acquire(descriptor, path, timeout_s, on_wait)
        dead = _read(descriptor)
        try:
            _write(descriptor, LockHolder(task, os.getpid(), socket.gethostname(), time.time()))
            yield dead
        finally:
            with suppress(OSError):
                stream.truncate(0)


def _acquire(descriptor: int, path: Path, timeout_s: float, on_wait: Callable[[LockHolder | None], None]) -> None:
    give_up = time.monotonic() + timeout_s
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(descriptor)
            if time.monotonic() >= give_up:
                raise LockHeld(f"{path.parent.parent} is in use by {_who(holder)}", "wait for it to end") from None
            if not told:
                on_wait(holder)
                told = True
            time.sleep(_POLL_S)
        else:
            return


def _who(holder: LockHolder | None) -> str:
    if holder is None:
        return "another run"
    age_s = max(0, time.time() - holder.since)
    return f"a {holder.task} that began {human_duration(age_s)} ago (process {holder.pid} on {holder.host})"


def _read(descriptor: int) -> LockHolder | None:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return LockHolder(str(said["task"]), int(said["pid"]), str(said["host"]), float(said["since"]))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _write(descriptor: int, holder: LockHolder) -> None:
    with suppress(OSError):  # a full disk must not keep anybody from pruning: the lock itself needs no room
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
