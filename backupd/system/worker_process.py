"""The parent's end of the pipe to a worker: a child process that does one task, most often on a database file."""

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Generic, Self, TypeVar

from backupd import errors
from backupd.errors import BackupdError, WorkerFailed, WorkerHung
from backupd.system.process import close_input, pipe, send, start_module

OnProgress = Callable[[int, int], None]
OnEvent = Callable[[str, str], None]
Reply = TypeVar("Reply")

_STDERR_CHARACTERS = 400
_END_S: Final = 1.0
_EXIT_TIMEOUT_S = 5.0
_LONGEST_LINE_BYTES = 32 << 20
_SETTINGS = "BACKUPD_"  # secrets may be among them
_LONGEST_POLL_S = 3600.0  # poll(2) counts milliseconds in an int


def ignore(_first: object, _second: object) -> None:
    """Discard progress or an event."""


class WorkerProcess(Generic[Reply]):
    """A child process that runs `module`; as a context manager, it ends with the block: at once after an error.

    It begins in `directory`, without the settings in the environment, has the open `files`, by the same descriptors,
    and has until `deadline` by the monotonic clock. A process that waits for a dead disk or server cannot be killed:
    the block ends after 5 s nevertheless.
    """

    def __init__(
        self,
        module: str,
        request: Mapping[str, object],
        directory: Path | str,
        deadline: float,
        files: Collection[int] = (),
    ) -> None:
        self._deadline = deadline
        self._stderr = open(os.memfd_create("stderr"), "w+b")  # noqa: SIM115 - closed by __exit__
        environ = {name: value for name, value in os.environ.items() if not name.upper().startswith(_SETTINGS)}
        self._process = start_module(
            module, directory=directory, environ=environ, descriptors=files, stderr=self._stderr
        )
        self._stdout = pipe(self._process.stdout)
        self._received = self._lines()
        self._has_failed = False  # by its own word: nothing is left for it to do
        send(self._process, json.dumps(request).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_rest: object) -> None:
        if error is None or self._has_failed:  # one that waits for a further command ends by itself, and in order
            close_input(self._process)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        self.kill()
        self._stdout.close()
        try:
            self._wait()
        except WorkerHung:
            threading.Thread(target=self._process.wait, daemon=True).start()  # reaps it whenever it ends
        self._stderr.close()

    def kill(self) -> None:
        """End the child now; its locks are free as soon as it has ended."""
        with suppress(PermissionError):  # root without CAP_KILL and a child of another user: it ends with its stdin
            self._process.kill()
        close_input(self._process)

    def result(self, on_progress: OnProgress = ignore, on_event: OnEvent = ignore) -> Reply:
        """Wait for the reply of the child, and for its end.

        Raises the child's own error by its class, WorkerFailed when the child died, and WorkerHung.
        """
        reply = self.reply(on_progress, on_event)
        with suppress(WorkerHung):
            self._wait()
        return reply

    def command(self, command: Mapping[str, object], deadline: float) -> None:
        """Send a child that goes on after its reply a further command, whose reply it has to send until `deadline`."""
        self._deadline = deadline
        send(self._process, json.dumps(command).encode() + b"\n")

    def reply(self, on_progress: OnProgress = ignore, on_event: OnEvent = ignore) -> Reply:
        """Wait for the next reply of the child; raises what `result` does."""
        for line in self._received:
            message = json.loads(line)
            match message["kind"]:
                case "progress":
                    on_progress(message["done"], message["total"])
                case "event":
                    on_event(message["event"], message["message"])
                case "error":
                    self._has_failed = True
                    kind: type[BackupdError] = getattr(errors, message["error"])
                    raise kind(message["message"], message["hint"])
                case _:
                    reply: Reply = message["result"]
                    return reply
        raise _died(self._wait(), self._stderr)

    def _wait(self) -> int:
        try:
            return self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise _hung() from error

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines that the child writes. A plain read would never return from a child hung in the kernel."""
        poll, rest = select.poll(), b""
        poll.register(self._stdout, select.POLLIN)
        while True:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise _hung()
            if not poll.poll(1000 * min(left_s, _LONGEST_POLL_S)):
                continue
            data = os.read(self._stdout.fileno(), 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
            if len(rest) > _LONGEST_LINE_BYTES:
                raise WorkerFailed("the worker process sent more than a reply can be", "report this with backup.log")


def _hung() -> WorkerHung:
    return WorkerHung(
        "the worker process does not respond and was abandoned",
        "check that the disks and mounts of the database and of the backups respond (dmesg)",
    )


def _died(code: int, stderr: IO[bytes]) -> WorkerFailed:
    stderr.seek(0)
    text = stderr.read().decode(errors="replace").strip()[-_STDERR_CHARACTERS:]
    if code < 0:
        return WorkerFailed(f"the worker process was killed by signal {-code}", "out of memory? dmesg says so")
    return WorkerFailed(f"the worker process ended with exit code {code}: {text}", "report this with backup.log")
