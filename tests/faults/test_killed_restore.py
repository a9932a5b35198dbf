"""A restore in place killed at each step: the database is entirely the old or entirely the new one.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from states import SeenStates
from workspaces import InitialState, Workspace, assert_no_processes, assert_nothing_lost, events

from backupd.log import Event
from support.bank import is_balanced
from support.directories import kept_databases
from support.faults import BackupdRunner, on_both_cores
from support.fork_server import CommandResult
from support.processes import die_in_a_transaction

SHORT_WAITS = {"BACKUPD_SOURCES__TASKS__HOT_JOURNAL_WAIT_S": "0"}
NEW, OLD = 3, 4  # rows in the ledger of the newest generation, and of the database that it replaces


def rows(database: Path, scratch: Path) -> int:
    """Return how many transfers an app would find that starts now, and that no money was lost; nothing is touched."""
    scratch.mkdir()
    for suffix in ("", "-wal", "-journal"):
        if Path(f"{database}{suffix}").exists():
            shutil.copy2(f"{database}{suffix}", scratch / f"tasks.db{suffix}")
    with closing(sqlite3.connect(scratch / "tasks.db")) as app:
        (found,) = app.execute("SELECT count(*) FROM ledger").fetchone()
    assert is_balanced(scratch / "tasks.db")
    shutil.rmtree(scratch)
    return int(found)


def killed_at_each(
    arguments: Sequence[str],
    template: Workspace,
    runner: BackupdRunner,
    tmp_path: Path,
    check: Callable[[Workspace], None],
    about: str = "tasks.db",
) -> None:
    """Kill `backupd ARGUMENTS` before each step beside the database and between those; `check` what that left.

    With `about`, from the first step that is about that name to the one after the last.
    """
    states = SeenStates(template)

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(arguments, workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        try:
            assert_no_processes(workspace)
            if states.is_new(workspace):
                check(workspace)
        except BaseException as error:
            error.add_note(f"before step {at}: {ended.steps[-1:]}")
            raise
        shutil.rmtree(workspace.root)
        return ended

    steps = kill(None).steps
    beside = [at for at, step in enumerate(steps) if about in step]
    on_both_cores(kill, states.kill_points(range(beside[0], beside[-1] + 2)))


def assert_old_or_new(workspace: Workspace, runner: BackupdRunner, before: InitialState) -> None:
    """Assert that all is the old or the new, that a backup puts right what is left, and that a restore still works."""
    now = rows(workspace.database, workspace.root / "scratch")
    assert now in {OLD, NEW}
    if now == NEW:
        (kept,) = kept_databases(workspace.database)
        assert rows(kept, workspace.root / "scratch") == OLD
    assert_nothing_lost(workspace, before)
    intent, known = workspace.database.with_name(".tasks.db.restore"), len(events(workspace))
    there = intent.exists()
    assert runner.run(["backup"], {**workspace.environ, **SHORT_WAITS}).code in {0, 3}
    assert (Event.RESTORE_RECOVERED in events(workspace)[known:]) == there
    assert rows(workspace.database, workspace.root / "scratch") == now
    assert not intent.exists()


def assert_works_again(workspace: Workspace, runner: BackupdRunner, before: InitialState) -> None:
    """Assert that a restore does what it should, and sweeps what a killed one was unpacking."""
    now = rows(workspace.database, workspace.root / "scratch")
    done = runner.run(["restore", [*before.generations][-1], "--json"], workspace.environ)
    assert done.code == 0, done
    assert rows(workspace.database, workspace.root / "scratch") == NEW
    assert rows(Path(done.json["kept"]), workspace.root / "scratch") == now
    assert not [path for path in workspace.database.parent.iterdir() if path.name.startswith(".")]


def test_killed_restore_over_database_with_wal_of_dead_app_recovers(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template, app_runs=True)

    def check(workspace: Workspace) -> None:
        assert_old_or_new(workspace, runner, before)
        assert_works_again(workspace, runner, before)

    killed_at_each(["restore"], template, runner, tmp_path, check)


def test_killed_restore_over_database_with_hot_journal_recovers(
    workspace: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(workspace.database)) as app:
        app.execute("PRAGMA journal_mode=delete")
    die_in_a_transaction(workspace.database)
    assert Path(f"{workspace.database}-journal").exists()
    before = InitialState.of(workspace, app_runs=True)
    killed_at_each(
        ["restore"], workspace, runner, tmp_path, lambda workspace: assert_old_or_new(workspace, runner, before)
    )


def test_killed_undo_recovers(workspace: Workspace, runner: BackupdRunner, tmp_path: Path) -> None:
    before = InitialState.of(workspace, app_runs=True)
    assert runner.run(["restore"], workspace.environ).code == 0
    undo = ["restore", "--undo"]

    def check(killed: Workspace) -> None:
        now = rows(killed.database, killed.root / "scratch")
        kept = {rows(path, killed.root / "scratch") for path in kept_databases(killed.database)}
        assert {now, *kept} == {OLD, NEW}
        assert_nothing_lost(killed, before)
        assert runner.run(["backup"], killed.environ).code in {0, 3}
        assert rows(killed.database, killed.root / "scratch") == now
        assert not killed.database.with_name(".tasks.db.restore").exists()
        assert runner.run(undo, killed.environ).code == 0
        assert {now, rows(killed.database, killed.root / "scratch")} == {OLD, NEW}

    killed_at_each(undo, workspace, runner, tmp_path, check)


def test_killed_online_restore_is_recorded_only_if_it_took_effect(
    workspace: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(workspace, app_runs=True)
    online, seen = ["restore", [*before.generations][-1], "--online"], set[int]()

    def check(killed: Workspace) -> None:
        now = rows(killed.database, killed.root / "scratch")
        seen.add(now)
        assert_nothing_lost(killed, before)
        assert runner.run(["backup"], killed.environ).code in {0, 3}
        assert not killed.database.with_name(".tasks.db.restore-online").exists()
        undone = runner.run(["restore", "--undo"], killed.environ)
        assert undone.code == (0 if now == NEW else 1), undone
        assert rows(killed.database, killed.root / "scratch") == OLD

    killed_at_each(online, workspace, runner, tmp_path, check, about=".restore-online")
    assert seen == {OLD, NEW}


def test_killed_restore_if_missing_is_completed_at_next_start(
    workspace: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{workspace.database}{suffix}").unlink(missing_ok=True)
    before, at_start = InitialState.of(workspace, app_runs=True), ["restore", "--if-missing"]

    def check(killed: Workspace) -> None:
        assert runner.run(at_start, killed.environ).code == 0
        assert rows(killed.database, killed.root / "scratch") == NEW
        assert {path.name for path in killed.database.parent.iterdir()} <= {"tasks.db", "backups"}
        assert_nothing_lost(killed, before)

    killed_at_each(at_start, workspace, runner, tmp_path, check, about=".tasks.db.restore")
