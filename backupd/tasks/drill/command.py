"""Run a command of the operator's on a restored copy: for a time, with little said, and never longer than the drill."""

import os
import select
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from backupd.errors import DrillFailed, ProcessRefused
from backupd.formatting import printable
from backupd.system.process import close_input, pipe, process_start_errors, start_module

RESTORED: Final = "BACKUPD_RESTORED_DATABASE"
_OURS: Final = "BACKUPD_"
_TAIL_BYTES: Final = 4096
_DEATH_S: Final = 2.0
_LAST_WORDS_S: Final = 1.0


def environment_for(restored: Path, environ: Mapping[str, str], secrets: frozenset[str]) -> dict[str, str]:
    """Return `environ` without all that is backupd's own or one of its `secrets`, with the path of the copy added."""
    others = {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(_OURS) and value.strip() not in secrets
    }
    return others | {RESTORED: str(restored)}


class Command:
    """A command at work; as a context manager, it and all of its process group end with the block.

    They end as well when this process is killed: a leash holds them (`backupd.system.process_group`).
    """

    def __init__(self, words: tuple[str, ...], environ: Mapping[str, str], directory: Path) -> None:
        self._words = words
        self._tail = b""
        self._reader = threading.Thread(target=self._read, name="command", daemon=True)
        self._process = start_module(
            "backupd.system.process_group", *words, directory=directory, environ=environ, stderr=subprocess.PIPE
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
            self._process.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_LAST_WORDS_S)  # who has left the process group may hold the pipe open for ever
        pipe(self._process.stdout).close()

    def require_success(self, timeout_s: float) -> None:
        """Wait for its end. Raises DrillFailed unless it ends with 0 within `timeout_s`."""
        answer = pipe(self._process.stdout)
        ready, _, _ = select.select([answer], [], [], timeout_s)
        if not ready:
            raise DrillFailed(
                f"the command {self._name} did not end within {timeout_s:.0f} s",
                "let it start what has to run on in the background, or raise drill.timeout_s",
            )
        kind, _, what = answer.readline().decode(errors="replace").strip().partition(" ")
        if (kind, what) == ("exit", "0"):
            return
        if kind == "error":
            raise DrillFailed(f"the command {self._name} cannot be run: {what}", "check drill.command")
        self._reader.join(_LAST_WORDS_S)  # what it said last may be on its way still
        last = self.output().strip().rpartition("\n")[2]
        how = f"killed by signal {what[1:]}" if what.startswith("-") else f"exit code {what or 'unknown'}"
        said = f": {printable(last[:200])}" if last else ""
        raise DrillFailed(f"the command {self._name} failed ({how}){said}", "see what it said (backupd drill --json)")

    def output(self) -> str:
        """Return the end of what it said so far."""
        return self._tail.decode(errors="replace")

    @property
    def _name(self) -> str:
        return printable(os.path.basename(self._words[0]))  # noqa: PTH119 - a word, not yet a path

    def _read(self) -> None:
        said = pipe(self._process.stderr)
        with said:
            while chunk := os.read(said.fileno(), 1 << 16):
                self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
