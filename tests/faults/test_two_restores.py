"""Several backupd without a common store, and one database: none takes the unfinished work of another for its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

from workspaces import Workspace, events

from backupd.log import Event
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import new_part_name, swap_journal_name
from backupd.sqlite.swap import FileMark, SwapJournal, journal_written
from backupd.sqlite.target import restore_lock
from support.bank import is_balanced, transfers
from support.command import Backupd
from support.directories import kept_databases
from support.faults import BackupdRunner, stopped, traced
from support.processes import wait_until

BUSY = 75
COMMAND = (sys.executable, "-m", "backupd", "restore")
NEW, OLD = 3, 4  # rows in the ledger of the newest generation, and of the database that it replaces


def stranger(workspace: Workspace) -> dict[str, str]:
    """Return the environment of another backupd, which has a store of its own."""
    other = workspace.root / "other-backups"
    shutil.copytree(workspace.backups, other)
    return {**workspace.environ, "BACKUPD_BACKUPS_DIR": str(other)}


def parts(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.database.parent.glob(".tasks.db.*.part") if path.stat().st_size]


def test_second_of_two_restores_is_refused_and_first_succeeds(workspace: Workspace, runner: BackupdRunner) -> None:
    theirs, ours = stranger(workspace), Backupd(workspace.environ, workspace.root).environment()
    with stopped(ours, workspace.root, lambda: bool(parts(workspace)), "restore") as first:
        (part,) = parts(workspace)
        for command in (["restore"], ["restore", "--online"], ["restore", "--undo"]):
            refused = runner.run(command, theirs)
            assert refused.code == BUSY, refused
            assert f"another backupd is restoring in {workspace.database.parent}" in refused.err
            assert part.exists()
        assert runner.run(["backup"], theirs).code in {0, 3}
    assert first.returncode == 0
    assert [transfers(path) for path in (workspace.database, *kept_databases(workspace.database))] == [NEW, OLD]
    assert runner.run(["restore"], theirs).code == 0


def test_backup_recovers_swap_of_another_backupd_only_after_its_death(
    workspace: Workspace, runner: BackupdRunner
) -> None:
    database = workspace.database
    part = database.with_name(new_part_name(database.name))
    kept = f"{database.name}.pre-restore-20261125T120000Z"
    shutil.copy(database, part)
    with restore_lock(database), DatabasePlace.open(database) as place:
        known = FileMark.of(place, part.name)
        assert known is not None
        old = FileMark.of(place, database.name)
        swap = journal_written(place, SwapJournal(database.name, part.name, known, kept, old, (), ()))
        swap.__enter__()  # and never left: it is killed
        os.link(database, database.with_name(kept))
        assert runner.run(["backup"], workspace.environ).code == BUSY
        assert (database.with_name(swap_journal_name(database.name)).exists(), part.exists()) == (True, True)
    assert runner.run(["backup"], workspace.environ).code == 0
    assert Event.RESTORE_RECOVERED in events(workspace)
    assert (transfers(database), kept_databases(database), parts(workspace)) == (OLD, (), [])


def test_restore_into_directory_without_locks_succeeds(workspace: Workspace, tmp_path: Path) -> None:
    environ = Backupd(workspace.environ, workspace.root).environment()
    ended, calls = traced(
        environ, tmp_path, "flock", "flock:error=EBADF", arguments=("restore",), path=workspace.database.parent
    )
    assert [call.text for call in calls if "(INJECTED)" in call.text]
    assert (ended.code, transfers(workspace.database)) == (0, NEW)


def test_restore_that_waited_for_lock_chooses_from_current_generations(large: Workspace) -> None:
    oldest, *_ = sorted(large.generations(), key=large.taken_at)
    environ = Backupd(large.environ, large.root).environment()
    with large.stopped("copy/archive.part", "backup") as first, ExitStack() as stack:
        latest, gone = (
            stack.enter_context(subprocess.Popen([*COMMAND, *which], env=environ, stderr=PIPE, stdout=PIPE, text=True))
            for which in (["--json"], [oldest])
        )
        wait_until(lambda: events(large).count(Event.LOCK_WAITING) == 2)
        first.send_signal(signal.SIGCONT)
        out, err = latest.communicate()
        assert latest.returncode == 0, err
        assert json.loads(out)["generation"] == max(large.generations(), key=large.taken_at)
        assert f"there is no generation {oldest}" in gone.communicate()[1]
    assert (first.returncode, gone.returncode) == (0, 1)
    assert is_balanced(large.database, large.rows)
