"""Backups as an operator runs them, in this process or as another user."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backupd.report import BackupDetails, RunReport
from backupd.tasks.context import TaskContext
from support.command import Backupd, log_lines
from support.rights import Rights

APP, STRANGER = 1234, 2345
NO_CAPABILITIES = Rights()  # root in a container with cap-drop ALL
SETUID_ONLY = Rights(("setuid", "setgid"))  # root that may not pass over rights
# A user who is not the app's, but in its group. He may search every directory, since the interpreter may lie anywhere,
# and write no more than others.
FOREIGN = Rights(("dac_read_search",), STRANGER, APP)

BackUp = Callable[..., "BackupResult"]


@dataclass(frozen=True)
class BackupResult:
    """The report of a backup, and the store after it."""

    report: RunReport[BackupDetails]
    context: TaskContext

    @property
    def outcome(self) -> tuple[str, int]:
        """Outcome and exit code."""
        return self.report.outcome, self.report.exit_code

    @property
    def error(self) -> str:
        return self.report.error or ""

    @property
    def hint(self) -> str:
        return self.report.hint or ""

    @property
    def events(self) -> list[str]:
        """The names of all events in the log so far."""
        return [line["event.action"] for line in log_lines(self.context.store.directory)]

    @property
    def staged(self) -> list[Path]:
        """What lies in staging."""
        return [*(self.context.store.hidden / "staging").iterdir()]

    @property
    def quarantined(self) -> list[Path]:
        """The copies in quarantine."""
        return [*(self.context.store.hidden / "quarantine").glob("*/*/snapshot.sqlite3")]

    @property
    def generations(self) -> dict[str, bytes]:
        """Every published file with its bytes."""
        return {path.name: path.read_bytes() for path in self.context.store.directory.glob("tasks-*")}

    def unpacked(self, path: Path) -> Path:
        """Restore the archive with gunzip(1) to `path`."""
        with path.open("wb") as stream:
            subprocess.run(["gunzip", "-c", str(self.report.details.archive_path)], stdout=stream, check=True)
        return path


def backupd_as(who: Rights, path: Path, backups: Path, **environ: str) -> Backupd:
    """Return the command with the database at `path` and the rights of `who`."""
    settings = {"BACKUPD_DATABASE": str(path), "BACKUPD_BACKUPS_DIR": str(backups), "BACKUPD_SPACE__RESERVE": "0"}
    return Backupd({**settings, **environ}, Path.cwd(), who)
