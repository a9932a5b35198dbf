"""Commands typed into this very process, where a new one for each would only cost time; and on a real terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.command import Backupd, CommandResult, borrowed_fork_server
from support.in_process import run_here


@dataclass(frozen=True)
class Keyboard:
    """`backupd` in this process, with an environment of its own; see `support.command.Backupd`."""

    environ: Mapping[str, str]

    def __call__(self, *arguments: object, **environ: str) -> CommandResult:
        """Run `backupd ARGUMENTS`; keyword arguments are more of the environment."""
        return run_here({**self.environ, **environ}, *arguments)


@dataclass(frozen=True)
class Pair:
    """A configuration file of two sources, `tasks` and `notes`, and their databases."""

    config: Path
    tasks: Path
    notes: Path


def into_closed_pipe(backupd: Backupd, *arguments: str) -> tuple[int, str]:
    """Run a command with its standard output closed; return its exit code and its standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "backupd", *arguments]
    environment = backupd.environment()
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    return done.returncode, done.stderr


def with_closed(backupd: Backupd, descriptor: int, *arguments: str) -> CommandResult:
    """Run a command that is started with one of its standard streams closed."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {descriptor}>&-', "sh", sys.executable, "-m", "backupd", *arguments],
        env=backupd.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def onto_full_disk(backupd: Backupd, *arguments: str) -> tuple[int, str]:
    """Run a command whose standard output takes nothing; return its exit code and what it said on standard error."""
    command = [sys.executable, "-m", "backupd", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=backupd.environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    return done.returncode, done.stderr


def on_terminal(backupd: Backupd, *arguments: str, columns: int = 160, typing: str = "") -> tuple[int, str]:
    """Run `backupd ARGUMENTS` on a pseudo-terminal, `typing` at once; return exit code and all that appeared there."""
    told = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    outside = backupd.environment(TERM="xterm-256color")
    environ = {name: value for name, value in outside.items() if name not in told}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    os.write(ours, typing.encode())
    said = b""
    with borrowed_fork_server() as fork_server:
        run = fork_server.start(arguments, environ, backupd.cwd, terminal=os.ttyname(theirs))
        while run.poll() is None or select.select([ours], [], [], 0)[0]:
            if ours in select.select([ours, run.ended], [], [])[0]:
                said += os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    return run.wait(), said.decode()
