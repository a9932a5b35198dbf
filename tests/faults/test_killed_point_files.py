"""The restore of a point with a set of files, killed between its parts: database and files become old or new as one."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from backupd.log import null_log
from backupd.masking import Mask
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import FilesRequest
from backupd.tasks.restore.recovery import recover_before_backup, recover_files_before_backup
from support.bank import make_bank, spend, transfers
from support.faults import BackupdRunner, on_both_cores
from support.points import publish_point
from support.put_back import facts

OLD, NEW = 2, 0  # transfers before a restore, and in the point
_NEVER, _KILLS = 1_000_000, 7


class App:
    """An app of a database and its uploads, with a restore point of both; both were written to since."""

    def __init__(self, root: Path) -> None:
        self.root, self.uploads, self.database = root, root / "data" / "uploads", root / "data" / "tasks.db"
        self.environ = {
            "BACKUPD_DATABASE": str(self.database),
            "BACKUPD_FILES__UPLOADS__PATH": str(self.uploads),
            "BACKUPD_BACKUPS_DIR": str(root / "backups"),
            "BACKUPD_SPACE__RESERVE": "0",
        }

    @property
    def context(self) -> TaskContext:
        return TaskContext(DirectoryStore("local", self.root / "backups"), null_log(Mask([])))

    def make(self, runner: BackupdRunner) -> None:
        (self.uploads / "2026").mkdir(parents=True)
        make_bank(self.database, rows=5)
        for name in ("2026/cat", "dog", "stays"):
            (self.uploads / name).write_bytes(name.encode())
        database = runner.run(["backup", "--source", "tasks", "--json"], self.environ).json["generation"]
        files = backup(FilesRequest("uploads", self.uploads, reserve_bytes=0), self.context).generation
        publish_point(self.root / "backups", [database, str(files)])
        spend(self.database, OLD)
        (self.uploads / "dog").write_bytes(b"other")
        shutil.rmtree(self.uploads / "2026")

    def state(self) -> tuple[int, frozenset[tuple[bytes, object]]]:
        """Return what is in both: the transfers, and what each file holds."""
        return transfers(self.database), frozenset((name, fact[4]) for name, fact in facts(self.uploads).items())

    def copy(self, name: str) -> "App":
        shutil.copytree(self.root, self.root.with_name(name), symlinks=True)
        return App(self.root.with_name(name))


@pytest.fixture
def app(runner: BackupdRunner, tmp_path: Path) -> App:
    app = App(tmp_path / "app")
    app.make(runner)
    return app


def killed_at_each(arguments: Sequence[str], app: App, runner: BackupdRunner) -> set[int]:
    """Kill `backupd ARGUMENTS` before some steps between its journals; return the transfers after each recovery.

    Recovered from is each by what begins a backup of the database, or of the files.
    """
    old = app.state()
    ended = app.copy("ended")
    done = runner.run(arguments, ended.environ, at=_NEVER)
    assert done.code == 0, done
    steps = done.steps
    new = ended.state()
    about = [at for at, step in enumerate(steps) if re.search(r"restore-point|renameat2|\.restore\b", step)]

    def kill(at: int) -> int:
        killed = app.copy(f"killed-{at}")
        assert runner.run(arguments, killed.environ, at=at).code == -9
        if at % 2:
            assert recover_files_before_backup(killed.uploads, killed.context) == ""
        assert recover_before_backup(killed.database, killed.context) == ""
        assert recover_files_before_backup(killed.uploads, killed.context) == ""
        assert killed.state() in (old, new), steps[at - 1 : at + 1]
        assert not [path for path in killed.uploads.iterdir() if path.name.startswith(".backupd-restore")]
        transfers_left = killed.state()[0]
        shutil.rmtree(killed.root)
        return transfers_left

    assert old[0] != new[0]
    some = about[:: max(1, len(about) // _KILLS)]  # test_killed_put_back.py has every step of the files
    return {*on_both_cores(kill, sorted({*some, about[-1]}))}


def test_killed_restore_of_point_with_files_is_whole(app: App, runner: BackupdRunner) -> None:
    assert killed_at_each(["restore", "--point", "latest"], app, runner) == {OLD, NEW}


def test_killed_undo_of_point_with_files_is_whole(app: App, runner: BackupdRunner) -> None:
    assert runner.run(["restore", "--point", "latest"], app.environ).code == 0
    assert killed_at_each(["restore", "--undo"], app, runner) == {OLD, NEW}
