"""The parent's end of the pipe: one child process for one job on a database file."""

import json
import math
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from backupd import errors
from backupd.errors import BackupdError, WorkerFailed, WorkerHung
from backupd.system.process import close_input, pipe, send, start_module

OnProgress = Callable[[int, int], None]
OnEvent = Callable[[str, str], None]

_LAST_WORDS = 400
_DEATH_S = 5.0
_LONGEST_POLL_S = 3600.0  # poll(2) counts milliseconds in an int


def _ignore(_what: object, _more: object) -> None:
    """Listen to nothing."""


class WorkerProcess:
    """A child process at work on one verb; as a context manager, it does not outlive its block.

    Unless the kernel will not let it go: a process that waits for a dead disk or server may not even be killable.
    Nobody waits for that.
    """

    def __init__(self, verb: str, request: Mapping[str, object], directory: Path) -> None:
        self._last_words = open(os.memfd_create("last words"), "w+b")  # noqa: SIM115 - closed by __exit__
        module = f"backupd.sqlite.worker.{verb}"
        self._process = start_module(module, directory=directory, stderr=self._last_words)
        self._stdout = pipe(self._process.stdout)
        send(self._process, json.dumps(dict(request)).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(PermissionError):  # root without CAP_KILL and a child of another user: it ends with its stdin
            self._process.kill()
        close_input(self._process)
        self._stdout.close()
        try:
            self._wait()
        except WorkerHung:
            threading.Thread(target=self._process.wait, daemon=True).start()  # whenever it ends: leave no zombie
        self._last_words.close()

    def result(
        self, on_progress: OnProgress = _ignore, on_event: OnEvent = _ignore, give_up: float = math.inf
    ) -> dict[str, Any]:
        """Wait for the child's answer, until `give_up` by the monotonic clock.

        Raises the child's own error by its class, WorkerFailed when the child died, and WorkerHung.
        """
        for line in self._lines(give_up):
            said = json.loads(line)
            match said["kind"]:
                case "progress":
                    on_progress(said["done"], said["total"])
                case "event":
                    on_event(said["event"], said["message"])
                case "error":
                    raise _error(said)
                case _:
                    result: dict[str, Any] = said["result"]
                    with suppress(WorkerHung):
                        self._wait()
                    return result
        raise _died(self._wait(), self._last_words)

    def _wait(self) -> int:
        try:
            return self._process.wait(_DEATH_S)
        except subprocess.TimeoutExpired as late:
            raise _hung() from late

    def _lines(self, give_up: float) -> Iterator[bytes]:
        """Yield what the child says. A plain read would never return from a child that hangs in the kernel."""
        poll, rest = select.poll(), b""
        poll.register(self._stdout, select.POLLIN)
        while True:
            left_s = max(0.0, give_up - time.monotonic())
            if not poll.poll(1000 * min(left_s, _LONGEST_POLL_S)):
                if not left_s:
                    raise _hung()
                continue
            said = os.read(self._stdout.fileno(), 1 << 16)
            if not said:
                return
            *lines, rest = (rest + said).split(b"\n")
            yield from lines


def _error(said: Mapping[str, str]) -> BackupdError:
    kind: type[BackupdError] = getattr(errors, said["error"])
    return kind(said["message"], said["hint"])


def _hung() -> WorkerHung:
    return WorkerHung(
        "the process at work on the copy hangs, and was given up",
        "see whether the disks and mounts of the database and of the backups answer (dmesg)",
    )


def _died(code: int, last_words: IO[bytes]) -> BackupdError:
    last_words.seek(0)
    text = last_words.read().decode(errors="replace").strip()[-_LAST_WORDS:]
    if code < 0:
        return WorkerFailed(f"the process at work on the copy was killed by signal {-code}", "out of memory?")
    return WorkerFailed(f"the process at work on the copy ended with {code}: {text}", "report this with backup.log")
