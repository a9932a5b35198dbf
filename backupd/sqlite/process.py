"""The parent's end of the pipe: one child process for one job on a database file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from backupd import errors
from backupd.errors import BackupdError, SnapshotFailed

OnProgress = Callable[[int, int], None]
OnEvent = Callable[[str, str], None]

_LAST_WORDS = 400


def _ignore(_what: object, _more: object) -> None:
    """Listen to nothing."""


class Child:
    """A child process at work on one verb; as a context manager, it does not outlive its block."""

    def __init__(self, verb: str, request: Mapping[str, object], directory: Path) -> None:
        self._last_words = open(os.memfd_create("last words"), "w+b")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", f"backupd.sqlite.child.{verb}"],  # -P: import nothing from `directory`
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._last_words,
            start_new_session=True,  # the terminal's Ctrl-C is the parent's to handle
            text=True,
        )
        with suppress(BrokenPipeError):  # it died at once: `result` tells how
            self._stdin.write(json.dumps(dict(request)) + "\n")
            self._stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(PermissionError):  # root without CAP_KILL and a child of another user: it ends with its stdin
            self._process.kill()
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        self._process.wait()
        self._last_words.close()

    def result(self, on_progress: OnProgress = _ignore, on_event: OnEvent = _ignore) -> dict[str, Any]:
        """Wait for the child's answer.

        Raises the child's own error by its class, and SnapshotFailed when the child died.
        """
        for line in self._stdout:
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
                    self._process.wait()
                    return result
        raise _died(self._process.wait(), self._last_words)

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        return self._process.stdout


def _error(said: Mapping[str, str]) -> BackupdError:
    kind: type[BackupdError] = getattr(errors, said["error"])
    return kind(said["message"], said["hint"])


def _died(code: int, last_words: IO[bytes]) -> BackupdError:
    last_words.seek(0)
    text = last_words.read().decode(errors="replace").strip()[-_LAST_WORDS:]
    if code < 0:
        return SnapshotFailed(f"the process at work on the copy was killed by signal {-code}", "out of memory?")
    return SnapshotFailed(f"the process at work on the copy ended with {code}: {text}", "report this with backup.log")
