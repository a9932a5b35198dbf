"""The command line, run as an operator runs it: a process with arguments and an environment."""

import atexit
import json
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from support.fork_server import COVERAGE_CONFIG, FORK_COVERAGE_CONFIG, CommandResult, ForkServer, environment
from support.rights import Rights

_fork_servers: defaultdict[bool, SimpleQueue[ForkServer]] = defaultdict(SimpleQueue)  # by whether coverage is measured
_at_exit = ExitStack()
atexit.register(_at_exit.close)


@dataclass(frozen=True)
class Backupd:
    """The `backupd` command with an environment of its own.

    It calls `enter` first, a function of a module in tests/support. With that it is not measured, since it may not be
    able to write what was covered.
    """

    environ: Mapping[str, str]
    cwd: Path
    rights: Rights | None = None
    enter: Callable[[], None] | None = None

    def __call__(self, *arguments: str | Path, timeout_s: float = 120, **environ: str) -> CommandResult:
        """Run `backupd ARGUMENTS`; keyword arguments are more of the environment."""
        with borrowed_fork_server(measured=not self.enter) as fork_server:
            environ = self.environment(**environ)
            answer = fork_server.run(
                arguments, environ, self.cwd, after_s=timeout_s, rights=self.rights, enter=self.enter
            )
        assert answer.code != -signal.SIGKILL, f"it did not end within {timeout_s} s: {answer}"
        return answer

    def environment(self, **more: str) -> dict[str, str]:
        """Return the whole environment of a run: nothing of backupd's comes from outside."""
        return environment({**self.environ, **more})


@contextmanager
def borrowed_fork_server(*, measured: bool = True) -> Iterator[ForkServer]:
    """Lend a fork server, a new one if all are busy."""
    measured &= COVERAGE_CONFIG in os.environ or FORK_COVERAGE_CONFIG in os.environ
    free = _fork_servers[measured]
    try:
        fork_server = free.get_nowait()
    except Empty:
        scratch = _at_exit.enter_context(tempfile.TemporaryDirectory())
        fork_server = _at_exit.enter_context(ForkServer(Path(scratch), measured=measured))
    try:
        yield fork_server
    finally:
        if fork_server.is_free():
            free.put(fork_server)


def end_fork_servers() -> None:
    """End those that are free, and wait until each has written what it has measured."""
    _fork_servers.clear()
    _at_exit.close()


def log_lines(backups: Path) -> list[dict[str, Any]]:
    """Return the events in `backup.log`, oldest first."""
    return [json.loads(line) for line in (backups / "backup.log").read_text().splitlines()]
