"""Locks."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from backupd.errors import LockHeld, TargetInUse, TargetRefused, WorkerFailed
from backupd.system.process import process_start_errors

STOPPED_FLAG = "--app-is-stopped"


class FileLease:
    """The write lease on the files of a database that are there (`paths`), held by a child that is their owner.

    Where the kernel cannot tell who uses them (no right to ask, a file system without leases, `remote`: one that others
    reach past this kernel), it is not `held`, and `stopped` is the operator's word that nobody does. Entering raises
    TargetInUse, TargetRefused.
    """

    def __init__(self, paths: Sequence[Path], uid: int | None, gid: int | None, *, remote: str, stopped: bool) -> None:
        self._remote = remote
        self._request: dict[str, Any] = {"paths": [str(path) for path in paths], "uid": uid, "gid": gid}
        self._stopped = stopped
        self.held = False

    def __enter__(self) -> Self:
        with process_start_errors():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "backupd.sqlite.worker.file_lease"],
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # the terminal's Ctrl-C is the parent's to handle
            )
        try:
            answer = self._ask(json.dumps(self._request))
            self.held = answer["state"] == "held"
            self._judge(answer)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - for the type checker: they are pipes
            pipe.close()
        self._process.wait()

    def open_requested(self, path: Path) -> bool:
        """Tell whether somebody waits to open `path` since the lease was taken."""
        return self.held and str(path) in self._ask("?")["open_requested"]

    def _ask(self, question: str) -> dict[str, Any]:
        stdin, stdout = self._pipes()
        try:
            stdin.write(question.encode() + b"\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            raise WorkerFailed("the process that watches the database died", "run it again; see dmesg") from error
        return answer

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        assert self._process.stdout is not None  # noqa: S101 - the same
        return self._process.stdin, self._process.stdout

    def _judge(self, answer: dict[str, Any]) -> None:
        if answer["state"] == "used":
            raise TargetInUse(f"{answer['path']} is in use: a process has it open, here or in another container")
        doubt = answer["why"] if answer["state"] == "unknown" else self._remote
        if doubt and not self._stopped:
            raise TargetRefused(
                f"nobody can tell whether {answer['path'] or self._request['paths'][0]} is in use: {doubt}",
                f"run backupd as the owner of the file; or stop the app, and say so with {STOPPED_FLAG}",
            )


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
