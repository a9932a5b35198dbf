"""Workspaces with two databases and a restore point of both."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from test_killed_restore import SHORT_WAITS, rows
from workspaces import Workspace

from support.generations import backdated
from support.points import publish_point

NEW, OLD = 3, 4  # rows in the ledger of the point, and of the databases that it replaces


@dataclass(frozen=True)
class Pair(Workspace):
    """A workspace with a second database beside the first, and a restore point of both."""

    @property
    def notes(self) -> Path:
        return self.database.with_name("notes.db")

    @property
    def databases(self) -> tuple[Path, Path]:
        return self.database, self.notes

    @property
    def environ(self) -> dict[str, str]:
        environ = Workspace.environ.fget(self)  # type: ignore[attr-defined] - a property has it
        del environ["BACKUPD_DATABASE"]
        return {
            **environ,
            **SHORT_WAITS,
            "BACKUPD_SOURCES__TASKS__PATH": str(self.database),
            "BACKUPD_SOURCES__NOTES__PATH": str(self.notes),
        }

    @property
    def point(self) -> str:
        (found,) = self.backups.glob("*.point.json")
        return found.name.removesuffix(".point.json")

    def found(self) -> list[int]:
        """Return how many rows an app would find in each database."""
        return [rows(path, self.root / "scratch") for path in self.databases]

    def pending(self) -> list[str]:
        """Return what a restore leaves beside the databases until it is concluded."""
        return [path.name for path in self.database.parent.iterdir() if path.name.startswith(".")]


def make_pair(workspace: Workspace) -> Pair:
    """Add the second database, and the point, to a workspace."""
    pair = Pair(workspace.root)
    newest = max(workspace.generations(), key=workspace.taken_at)
    publish_point(pair.backups, [newest, backdated(pair.backups, newest, days=0, source="notes")])
    for suffix in ("", "-wal"):
        shutil.copy2(f"{pair.database}{suffix}", f"{pair.notes}{suffix}")
    assert pair.found() == [OLD, OLD]
    return pair
