"""backupd as the container of the README runs it: root with four capabilities, of which DAC_OVERRIDE is none."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from support.bank import make_bank
from support.command import Backupd, CommandResult
from support.fork_server import environment
from support.rights import Rights, enter_mount_namespace

APP, GROUP = 1234, 5678
_CAPABILITIES = ("setuid", "setgid", "kill", "chown")
_INTERPRETER = {Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]}


@dataclass(frozen=True)
class Volumes:
    """The volume of an app (`data`) and the one for backups, as they are mounted in the container."""

    data: Path
    backups: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()  # more of them

    @property
    def database(self) -> Path:
        return self.data / "tasks.db"

    def backupd(self, *arguments: str, **environ: str) -> CommandResult:
        """Run `backupd ARGUMENTS` as the container does; keyword arguments are more of the environment."""
        settings = {
            "BACKUPD_DATABASE": str(self.database),
            "BACKUPD_BACKUPS_DIR": str(self.backups),
            "BACKUPD_SPACE__RESERVE": "0",
            "PUID": "auto",
            **self.environ,
            **environ,
        }
        rights = Rights((*_CAPABILITIES, *self.capabilities))
        return Backupd(settings, Path.cwd(), rights, let_pass)(*arguments)

    def as_app(self, program: str) -> CommandResult:
        """Run a Python program as the app's user; `sys.argv[1]` is the path of its database."""
        mounting = ("unshare", "--mount", "sh", "-euc", f'{_opening()}\nexec "$@"', "sh")
        done = subprocess.run(
            [*mounting, *Rights(uid=APP, gid=GROUP).command, sys.executable, "-c", program, self.database],
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)


@contextmanager
def volumes(mode: int = 0o750) -> Iterator[Volumes]:
    """Make both volumes, of which the app's holds a bank and is a directory of `mode`; all of it is the app's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        made = Volumes(home / "data", home / "backups")
        made.data.mkdir()
        made.backups.mkdir()
        made.backups.chmod(0o1777)
        make_bank(made.database)
        for path in (made.database, made.data):
            os.chown(path, APP, GROUP)
        made.database.chmod(0o640)
        made.data.chmod(mode)
        yield made


def let_pass() -> None:
    """Let every user reach the interpreter, in a mount namespace of this process.

    It may lie where only root may pass, and a process that has become the app's user starts more of them: so such a
    directory is replaced by an open one.
    """
    if script := _opening():
        enter_mount_namespace()
        subprocess.run(["sh", "-euc", script], check=True)


@cache
def _opening() -> str:
    """Return the shell script that opens the way to the interpreter; empty where it is open."""
    lines = []
    for hidden in {found for path in _INTERPRETER if (found := _closed(path)) is not None}:
        kept = sorted(path for path in _INTERPRETER if path.is_relative_to(hidden))
        lines += [f"keep{n}=$(mktemp -d -p /run); mount --bind '{path}' $keep{n}" for n, path in enumerate(kept)]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs '{hidden}'")
        lines += [f"mkdir -p '{path}'; mount --move $keep{n} '{path}'" for n, path in enumerate(kept)]
        lines.append("rmdir " + " ".join(f"$keep{n}" for n in range(len(kept))))
    return "\n".join(lines)


def _closed(path: Path) -> Path | None:
    """Return the topmost directory above `path` that others may not pass."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)
