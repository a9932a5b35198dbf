"""A worker's end of the pipe: it reads one request from stdin, and writes progress, events, and a reply or error.

Each is a line of JSON. The parent's end is `system.worker_process`.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from backupd.errors import WorkerFailed
from backupd.system.os_errors import foreseen_error
from backupd.system.process import call_when_parent_ends
from backupd.system.resources import limit_memory, memory_limit_bytes

_PROGRESS_EVERY_S = 0.1
_ORPHANED = 70
_NO_MEMORY = ("MemoryError", "NoMemError")  # Python's and apsw's, which not every worker imports
_MEMORY_BYTES = 1 << 30  # a database may be made to take any amount; SQLite's rows have at most 1 GB

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class ParentPipe:
    """The pipe to the parent, for progress and events, and for what it commands after the request."""

    def __init__(self) -> None:
        self._last_progress = 0.0
        self._commands: SimpleQueue[bytes] = SimpleQueue()

    def expect_commands(self) -> None:
        """Receive commands from now on, and exit as soon as the parent ends: it would work for nobody."""
        call_when_parent_ends(lambda: os._exit(_ORPHANED), self._commands.put)

    def next_command(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next command; None where none comes within `timeout_s`."""
        try:
            command: dict[str, Any] = json.loads(self._commands.get(timeout=timeout_s))
        except Empty:
            return None
        return command

    def answer(self, work: Callable[[], object]) -> None:
        """Send what `work` returns, or the foreseen error that it raises."""
        try:
            _send({"kind": "result", "result": work()})
        except Exception as error:
            foreseen = out_of_memory() if type(error).__name__ in _NO_MEMORY else foreseen_error(error)
            if foreseen is None:
                raise
            text = {"message": foreseen.message, "hint": foreseen.hint}
            _send({"kind": "error", "error": type(foreseen).__name__, **text})

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Report that `done_bytes` of `total_bytes` are done, at most ten times a second."""
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_EVERY_S or done_bytes == total_bytes:
            self._last_progress = now
            _send({"kind": "progress", "done": done_bytes, "total": total_bytes})

    def event(self, name: str, message: str) -> None:
        """Report what belongs in the log; `name` is one of `log.Event`."""
        _send({"kind": "event", "event": name, "message": message})


def serve(task: Callable[[Request, ParentPipe], Reply]) -> None:
    """Do `task` once for the request on stdin, and send its reply or a foreseen error.

    The parent keeps stdin open while it lives; when it closes, this process exits. Once the reply is sent it exits at
    once: `task` has closed its files, and the interpreter would take some 10 ms to free its modules, a sixth of a short
    task.
    """
    request: Request = json.loads(sys.stdin.buffer.readline())
    limit_memory(_MEMORY_BYTES)
    parent = ParentPipe()

    def work() -> Reply:
        parent.expect_commands()
        return task(request, parent)

    parent.answer(work)
    os._exit(0)


def out_of_memory() -> WorkerFailed:
    """Return the error for a database that needs more memory than a worker may have."""
    return WorkerFailed(
        f"the worker process needs more memory than the {memory_limit_bytes() >> 20} MiB that it may have",
        "a row or the schema of the database is extremely large",
    )


def _send(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
