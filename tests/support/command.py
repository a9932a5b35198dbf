"""The command line, run as an operator runs it: a process with arguments and an environment."""

import atexit
import json
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from support.fork_server import COVERAGE_CONFIG, FORK_COVERAGE_CONFIG, CommandResult, ForkServer, environment
from support.rights import Rights

# By whether coverage is measured, and what they were started through.
_fork_servers: defaultdict[tuple[bool, Sequence[str]], SimpleQueue[ForkServer]] = defaultdict(SimpleQueue)
_at_exit = ExitStack()
atexit.register(_at_exit.close)


@dataclass(frozen=True)
class Backupd:
    """The `backupd` command with an environment of its own.

    With fewer `rights` it is not measured, since it could not write what was covered. `through` starts a fork server.
    """

    environ: Mapping[str, str]
    cwd: Path
    rights: Rights | None = None
    through: Sequence[str] = ()

    def __call__(self, *arguments: str | Path, timeout_s: float = 120, **environ: str) -> CommandResult:
        """Run `backupd ARGUMENTS`; keyword arguments are more of the environment."""
        with borrowed_fork_server(self.through, measured=self.rights is None) as fork_server:
            answer = fork_server.run(
                arguments, self.environment(**environ), self.cwd, after_s=timeout_s, rights=self.rights
            )
        assert answer.code != -signal.SIGKILL, f"it did not end within {timeout_s} s: {answer}"
        return answer

    def environment(self, **more: str) -> dict[str, str]:
        """Return the whole environment of a run: nothing of backupd's comes from outside."""
        return environment({**self.environ, **more})


@contextmanager
def borrowed_fork_server(through: Sequence[str] = (), *, measured: bool = True) -> Iterator[ForkServer]:
    """Lend a fork server that was started `through` a command, a new one if all are busy."""
    measured &= COVERAGE_CONFIG in os.environ or FORK_COVERAGE_CONFIG in os.environ
    free = _fork_servers[measured, through]
    try:
        fork_server = free.get_nowait()
    except Empty:
        scratch = _at_exit.enter_context(tempfile.TemporaryDirectory())
        fork_server = _at_exit.enter_context(ForkServer(Path(scratch), through, measured=measured))
    try:
        yield fork_server
    finally:
        free.put(fork_server)


def log_lines(backups: Path) -> list[dict[str, Any]]:
    """Return the events in `backup.log`, oldest first."""
    return [json.loads(line) for line in (backups / "backup.log").read_text().splitlines()]
