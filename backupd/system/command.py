"""A command of the operator: run without a shell, limited in time, and ended with all that it started."""

import os
import select
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from backupd.errors import ProcessRefused
from backupd.formatting import LONGEST_LINE, printable
from backupd.system.process import close_input, pipe, process_start_errors, start_module

_OUTPUT_BYTES: Final = 4096
_EXIT_S: Final = 2.0
_OUTPUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended; `failure` is in words, empty for the exit code 0."""

    how: Literal["ended", "late", "unusable"]  # unusable: it cannot be run
    code: int = 0  # its exit code, negative for a signal
    failure: str = ""


class Command:
    """A running command; as a context manager, it and all of its process group end with the block.

    They also end when this process is killed (`backupd.system.process`). Raises ProcessRefused, OSError.
    """

    def __init__(self, words: tuple[str, ...], environ: Mapping[str, str], directory: Path) -> None:
        self._words = words
        self._output = b""
        self._reader = threading.Thread(target=self._read, name="command", daemon=True)
        self._process = start_module(
            "backupd.system.process", *words, directory=directory, environ=environ, stderr=subprocess.PIPE
        )
        try:
            with process_start_errors():
                self._reader.start()
        except ProcessRefused:
            self._process.communicate()  # it ends with its standard input
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        close_input(self._process)
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_OUTPUT_S)  # a process that left the group may keep the pipe open
        pipe(self._process.stdout).close()

    def wait(self, timeout_s: float) -> CommandEnd:
        """Wait for its end, for at most `timeout_s`; what it started may still run."""
        answer = pipe(self._process.stdout)
        ready, _, _ = select.select([answer], [], [], timeout_s)
        if not ready:
            return CommandEnd("late", failure=f"the command {self._name} did not end within {timeout_s:.0f} s")
        kind, _, what = answer.readline().decode(errors="replace").strip().partition(" ")
        if (kind, what) == ("exit", "0"):
            return CommandEnd("ended")
        if kind == "error":
            return CommandEnd("unusable", failure=f"the command {self._name} cannot be run: {what}")
        how = f"killed by signal {what[1:]}" if what.startswith("-") else f"exit code {what or 'unknown'}"
        last = self.last_line()
        failure = f"the command {self._name} failed ({how}){f': {last}' if last else ''}"
        return CommandEnd("ended", int(what or -1), failure)

    def output(self) -> str:
        """Return the end of its output so far."""
        return self._output.decode(errors="replace")

    def last_line(self) -> str:
        """Return the beginning of the last line of its output, once it has ended."""
        self._reader.join(_OUTPUT_S)  # for the rest of its output
        return printable(self.output().strip().rpartition("\n")[2][:LONGEST_LINE])

    @property
    def _name(self) -> str:
        return printable(os.path.basename(self._words[0]))  # noqa: PTH119 - a word, not yet a path

    def _read(self) -> None:
        stream = pipe(self._process.stderr)
        with stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._output = (self._output + chunk)[-_OUTPUT_BYTES:]
