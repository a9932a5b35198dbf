"""The child's end of the pipe: one JSON request on stdin, JSON lines of progress, events and one answer on stdout."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from backupd.system.os_errors import foreseen_error
from backupd.system.process import call_when_parent_ends

_PROGRESS_EVERY_S = 0.1
_ORPHANED = 70


class ParentPipe:
    """Tells the parent how the work goes on."""

    def __init__(self) -> None:
        self._last_progress = 0.0

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Report that `done_bytes` of `total_bytes` are done, at most ten times a second."""
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_EVERY_S or done_bytes == total_bytes:
            self._last_progress = now
            _send({"kind": "progress", "done": done_bytes, "total": total_bytes})

    def event(self, name: str, message: str) -> None:
        """Report something worth a line in the log; `name` is one of `log.Event`."""
        _send({"kind": "event", "event": name, "message": message})


def serve(work: Callable[[dict[str, Any], ParentPipe], dict[str, Any]]) -> None:
    """Do the one piece of `work` that stdin asks for, and answer with its result or with a foreseen error.

    The parent keeps stdin open for as long as it lives: when it closes, nobody waits for the answer any more,
    and a child that lived on would hold the app's snapshot pinned for nothing.
    """
    request = json.loads(sys.stdin.buffer.readline())
    try:
        call_when_parent_ends(lambda: os._exit(_ORPHANED))
        _send({"kind": "result", "result": work(request, ParentPipe())})
    except Exception as error:
        foreseen = foreseen_error(error)
        if foreseen is None:
            raise
        _send({"kind": "error", "error": type(foreseen).__name__, "message": foreseen.message, "hint": foreseen.hint})


def _send(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
