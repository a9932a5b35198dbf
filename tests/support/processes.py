"""Processes around a copy: who runs, who is gone, and somebody who acts in the middle of it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.app import running_app
from support.bank import is_balanced


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait for `condition` to come true."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "it never came to be"
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process, none when it has ended."""
    try:
        return [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has no command line any more."""
    return not command_line(pid)


def command_line(pid: int) -> bytes:
    """Return the words of a command, each with a zero after it; none when the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def state_of(pid: int) -> str:
    """Return the letter for the state of a process (proc(5)): `D` waits in the kernel, not to be killed."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process do nothing while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def serving(mount: Path) -> int:
    """Return the process that serves a mount of `through_fuse`."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    (pid,) = (pid for pid in pids if command_line(pid).endswith(b"\0%b\0" % mount))
    return pid


def has_open(pid: int, path: Path) -> bool:
    """Tell whether a process has the file at `path` open."""
    try:
        return any(entry.readlink() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False


def copying_process(path: Path) -> int:
    """Wait until a child of this process copies the database at `path`, and return it; apps have it open too."""
    found: list[int] = []

    def look() -> bool:
        ours = (pid for pid in children_of(os.getpid()) if b"backupd.sqlite.worker.snapshot" in command_line(pid))
        found[:] = [pid for pid in ours if has_open(pid, path)]
        return bool(found)

    wait_until(look)
    return found[0]


def die_in_a_transaction(path: Path, uid: int = 0, journal_mode: str = "delete") -> None:
    """Let an app of the bank at `path` die with half a transaction in the file, and the journal beside it."""
    with running_app(path, uid) as app:
        app.sql(f"PRAGMA journal_mode={journal_mode}")
        app.sql("PRAGMA cache_size=2")
        app.sql("BEGIN")
        app.sql("UPDATE account SET balance = balance + 1000000, owner = owner || 'y'")
        app.kill()
    assert not is_balanced(path)


class CopyObserver:
    """Hears of the progress of a job, and acts: before the copies, and in the middle of the first ones.

    `before` holds what is done as each attempt to copy begins, `amid` what is done once part of it is copied.
    """

    def __init__(self, *amid: Callable[[], object], before: tuple[Callable[[], object], ...] = ()) -> None:
        self._amid, self._before = [*amid], [*before]
        self._copying = False

    def stage(self, name: str, _total_bytes: int) -> None:
        """Hear that a stage begins."""
        self._copying = name == "copy"
        if self._copying and self._before:
            self._before.pop(0)()

    def advance(self, _done_bytes: int) -> None:
        """Hear that something was copied; act once in each attempt."""
        if self._copying and self._amid:
            self._copying = False
            self._amid.pop(0)()

    @property
    def done(self) -> bool:
        """Whether all was done."""
        return not self._amid and not self._before


def nothing() -> None:
    """Do nothing."""
