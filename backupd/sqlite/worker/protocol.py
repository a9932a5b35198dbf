"""The child's end of the pipe: one JSON request on stdin, JSON lines of progress, events and one answer on stdout."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from backupd.errors import BackupdError, InputOutputError, NoSpace
from backupd.system.files import is_full
from backupd.system.os_errors import remedy, said
from backupd.system.starting import starting

_PROGRESS_EVERY_S = 0.1
_ORPHANED = 70


class Wire:
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


def serve(work: Callable[[dict[str, Any], Wire], dict[str, Any]]) -> None:
    """Do the one piece of `work` that stdin asks for, and answer with its result or with a foreseen error.

    The parent keeps stdin open for as long as it lives: when it closes, nobody waits for the answer any more,
    and a child that lived on would hold the app's snapshot pinned for nothing.
    """
    request = json.loads(sys.stdin.buffer.readline())
    try:
        with starting():
            threading.Thread(target=_die_with_parent, daemon=True).start()
        _send({"kind": "result", "result": work(request, Wire())})
    except BackupdError as error:
        _send_error(error)
    except OSError as error:
        kind = NoSpace if is_full(error) else InputOutputError
        _send_error(kind(f"I/O error: {said(error)}", remedy(error)))


def _die_with_parent() -> None:
    os.read(0, 1)
    os._exit(_ORPHANED)


def _send_error(error: BackupdError) -> None:
    name = type(error).__name__
    _send({"kind": "error", "error": name, "message": error.message, "hint": error.hint})


def _send(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
