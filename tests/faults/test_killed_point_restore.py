"""The restore of a point killed at each step: the next command makes all of it old, or all of it new.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from pairs import NEW, OLD, Pair, make_pair
from states import SeenStates
from test_killed_restore import rows
from workspaces import Workspace, assert_no_processes, events

from backupd.log import Event, null_log
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.recovery import recover_before_backup
from support.directories import kept_databases
from support.faults import BackupdRunner, on_both_cores
from support.fork_server import CommandResult


@pytest.fixture
def pair(workspace: Workspace) -> Pair:
    return make_pair(workspace)


def killed_at_each(
    arguments: Sequence[str],
    pair: Pair,
    runner: BackupdRunner,
    tmp_path: Path,
    check: Callable[[Pair, int], None],
) -> Iterator[list[int]]:
    """Kill `backupd ARGUMENTS` from the first step that is about a journal to the one after the last; `check` each.

    At every second of those that leave another state. Yields the rows that each kill left.
    """
    states, left = SeenStates(pair), list[list[int]]()

    def kill(at: int | None) -> CommandResult:
        killed = Pair(pair.copy_to(tmp_path / f"killed-{at}").root)
        ended = runner.run(arguments, killed.environ, at=at, watch=states.survey(killed, at))
        assert ended.code == (0 if at is None else -9), ended
        try:
            assert_no_processes(killed)
            if at is not None and states.is_new(killed):
                left.append(killed.found())
                check(killed, at)
        except BaseException as error:
            error.add_note(f"before step {at}: {ended.steps[-1:]}")
            raise
        shutil.rmtree(killed.root)
        return ended

    steps = kill(None).steps
    about = [at for at, step in enumerate(steps) if ".restore" in step]
    on_both_cores(kill, states.kill_points(range(about[0], about[-1] + 2))[::2])
    yield from left


def recover(killed: Pair, runner: BackupdRunner, at: int) -> bool:
    """Recover as the next run would, by the one source or the other; returns whether that decided anything.

    Where it does, a backup recovers, else just what it begins with.
    """
    first, second = killed.found()
    path = killed.databases[at % 2]
    if first != second:
        ended = runner.run(["backup", "--source", path.stem], killed.environ)
        assert ended.code in {0, 3}, ended
        assert Event.RESTORE_RECOVERED in events(killed)
        return True
    assert recover_before_backup(path, TaskContext(killed.store, null_log())) == ""
    assert killed.found() == [first, second]
    journals = {f".{path.name}.restore", f".{path.name}.restore-point"}
    assert journals.isdisjoint(killed.pending())  # what lies beside the other one, decides nothing any more
    return False


def assert_whole(killed: Pair) -> None:
    """Assert that all databases are old or all new, and that what they were is kept."""
    now = killed.found()
    assert now in ([OLD, OLD], [NEW, NEW])
    kept = [[rows(one, killed.root / "scratch") for one in kept_databases(path)] for path in killed.databases]
    assert kept == ([[OLD], [OLD]] if now == [NEW, NEW] else [[], []])


def test_killed_restore_of_point_becomes_old_or_new_as_a_whole(
    pair: Pair, runner: BackupdRunner, tmp_path: Path
) -> None:
    def check(killed: Pair, at: int) -> None:
        was_mixed = recover(killed, runner, at)
        assert_whole(killed)
        if was_mixed:
            done = runner.run(["restore", "--point", killed.point, "--json"], killed.environ)
            assert (done.code, killed.found(), killed.pending()) == (0, [NEW, NEW], []), done

    left = [*killed_at_each(["restore", "--point", pair.point], pair, runner, tmp_path, check)]
    assert [OLD, OLD] in left
    assert [NEW, NEW] in left
    assert [NEW, OLD] in left  # else no kill hit the moment that all this is for


def test_killed_undo_of_point_becomes_old_or_new_as_a_whole(pair: Pair, runner: BackupdRunner, tmp_path: Path) -> None:
    assert runner.run(["restore", "--point", pair.point], pair.environ).code == 0
    undo = ["restore", "--undo"]

    def check(killed: Pair, at: int) -> None:
        was_mixed = recover(killed, runner, at)
        now = killed.found()
        assert now in ([OLD, OLD], [NEW, NEW])
        for path in killed.databases:
            (kept,) = kept_databases(path)
            assert {rows(kept, killed.root / "scratch"), now[0]} == {OLD, NEW}
        if was_mixed:
            again = runner.run(undo, killed.environ)
            assert again.code == 0, again
            assert {now[0], *killed.found()} == {OLD, NEW}
            assert [name for name in killed.pending() if not name.endswith(".part")] == []

    left = [*killed_at_each(undo, pair, runner, tmp_path, check)]
    assert any(first != second for first, second in left)


def test_killed_restore_of_point_on_empty_machine_is_completed_at_next_start(
    pair: Pair, runner: BackupdRunner, tmp_path: Path
) -> None:
    for path in pair.databases:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    at_start = ["restore", "--point", pair.point, "--if-missing"]
    states = SeenStates(pair)

    def kill(at: int | None) -> CommandResult:
        killed = Pair(pair.copy_to(tmp_path / f"killed-{at}").root)
        ended = runner.run(at_start, killed.environ, at=at, watch=states.survey(killed, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_no_processes(killed)
        if at is not None and states.is_new(killed):
            again = runner.run(at_start, killed.environ)
            assert again.code == 0, again
            assert killed.found() == [NEW, NEW]
            assert {path.name for path in killed.database.parent.iterdir()} == {"tasks.db", "notes.db"}
        shutil.rmtree(killed.root)
        return ended

    steps = kill(None).steps
    about = [at for at, step in enumerate(steps) if ".restore" in step]
    on_both_cores(kill, states.kill_points(range(about[0], about[-1] + 2))[::2])


def test_database_that_app_wrote_to_between_kill_and_recovery_is_kept(
    pair: Pair, runner: BackupdRunner, tmp_path: Path
) -> None:
    arguments = ["restore", "--point", pair.point]
    whole = Pair(pair.copy_to(tmp_path / "whole").root)
    done = runner.run(arguments, whole.environ, watch=lambda: None)
    assert done.code == 0, done
    steps = done.steps
    at = next(number for number, step in enumerate(steps) if ".notes.db.restore" in step and "point" not in step)
    assert runner.run(arguments, pair.environ, at=at).code == -9
    assert pair.found() == [NEW, OLD]
    with closing(sqlite3.connect(pair.database)) as app, app:
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (3, 4, 0)")
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (3, 4, 0)")
    assert runner.run(["backup", "--source", "notes"], pair.environ).code in {0, 3}
    assert pair.found() == [OLD, OLD]
    (kept,) = kept_databases(pair.database)
    assert rows(kept, pair.root / "scratch") == NEW + 2
    assert kept_databases(pair.notes) == ()
