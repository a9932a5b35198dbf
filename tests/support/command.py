"""The command line, run as an operator runs it: a process with arguments and an environment."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Backupd:
    """The `backupd` command with an environment of its own."""

    environ: Mapping[str, str]
    cwd: Path

    def __call__(self, *arguments: str | Path, timeout_s: float = 120, **environ: str) -> Answer:
        """Run `backupd ARGUMENTS`; keyword arguments are more of the environment."""
        done = subprocess.run(
            [sys.executable, "-m", "backupd", *map(str, arguments)],
            env=self.environment(**environ),
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the whole environment of a run: nothing of backupd's comes from outside."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith("BACKUPD_")}
        return {**outside, **self.environ, **more}


def log_lines(backups: Path) -> list[dict[str, Any]]:
    """Return the events in `backup.log`, oldest first."""
    return [json.loads(line) for line in (backups / "backup.log").read_text().splitlines()]
