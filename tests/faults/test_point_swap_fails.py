"""A restore of a point whose second swap fails: the first one is undone, or it is said that it has to be."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pairs import NEW, OLD, Pair, make_pair
from test_killed_point_files import NEW as NEW_TRANSFERS
from test_killed_point_files import OLD as OLD_TRANSFERS
from test_killed_point_files import App
from workspaces import Workspace

from backupd.log import Event
from support.app import running_app
from support.command import log_lines
from support.directories import kept_databases
from support.faults import BackupdRunner
from support.fork_server import CommandResult
from support.processes import wait_until

STARTS = """
import json, os, sqlite3, sys
open(sys.argv[1], "rb").close()  # waits for a lease; sqlite3 itself asks with O_RDWR
rows = sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM ledger").fetchone()[0]
names = sorted(name for name in os.listdir(sys.argv[2]) if not name.startswith("."))
print(json.dumps([rows, names]), flush=True)
input()
"""
OPENS = "import sys; file = open(sys.argv[1], 'rb'); print(len(file.read()), flush=True); input()"


@dataclass
class Moment:
    """Calls `act` once, before the first step of a run at which `has_come` holds."""

    has_come: Callable[[], bool]
    act: Callable[[], object]
    came: bool = field(default=False)

    def __call__(self) -> None:
        if not self.came and self.has_come():
            self.came = True
            self.act()


@pytest.fixture
def pair(workspace: Workspace) -> Pair:
    return make_pair(workspace)


def restored(pair: Pair, runner: BackupdRunner, moment: Moment) -> CommandResult:
    ended = runner.run(["restore", "--point", pair.point], pair.environ, watch=moment)
    assert moment.came
    return ended


def journal(database: Path) -> Path:
    return database.with_name(f".{database.name}.restore-point")


def swapped(database: Path) -> Callable[[], bool]:
    inode = database.stat().st_ino
    return lambda: database.stat().st_ino != inode


def break_part(database: Path) -> None:
    for part in database.parent.glob(f".{database.name}.*.part"):
        part.unlink()


def is_waiting(process: int) -> bool:
    """Tell whether a process waits for the end of a lease: the kernel function that breaks leases has it."""
    return "break_lease" in Path(f"/proc/{process}/wchan").read_text() or "BREAKING" in Path("/proc/locks").read_text()


def assert_unchanged(pair: Pair) -> None:
    assert pair.found() == [OLD, OLD]
    assert pair.pending() == []
    assert [kept_databases(path) for path in pair.databases] == [(), ()]


def test_failing_swap_undoes_the_one_before(pair: Pair, runner: BackupdRunner) -> None:
    moment = Moment(swapped(pair.database), lambda: break_part(pair.notes))
    ended = restored(pair, runner, moment)
    assert ended.code == 1, ended
    assert "another file was put in the place" in ended.err
    assert_unchanged(pair)
    assert runner.run(["restore", "--point", pair.point], pair.environ).code == 0
    assert pair.found() == [NEW, NEW]


def test_app_that_opens_second_database_in_between_gets_old_one_and_first_is_undone(
    pair: Pair, runner: BackupdRunner
) -> None:
    openers: list[subprocess.Popen[str]] = []

    def open_notes() -> None:
        command = [sys.executable, "-c", OPENS, str(pair.notes)]
        openers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        wait_until(lambda: is_waiting(openers[0].pid))

    size = pair.notes.stat().st_size
    ended = restored(pair, runner, Moment(journal(pair.database).exists, open_notes))
    assert ended.code == 75, ended
    assert (
        f"{pair.notes} was opened during the swap: nothing was changed; all other parts are as they were" in ended.err
    )
    (opener,) = openers
    assert opener.stdout is not None
    assert int(opener.stdout.readline()) >= size
    opener.communicate("\n")
    assert_unchanged(pair)


def test_database_that_app_creates_in_between_stays_and_first_is_undone(pair: Pair, runner: BackupdRunner) -> None:
    created = pair.notes.read_bytes()
    for suffix in ("", "-wal"):
        Path(f"{pair.notes}{suffix}").unlink()
    moment = Moment(swapped(pair.database), lambda: pair.notes.write_bytes(created))
    ended = restored(pair, runner, moment)
    assert (ended.code, f"{pair.notes} was written to during the restore" in ended.err) == (75, True), ended
    assert pair.notes.read_bytes() == created
    assert pair.found()[0] == OLD
    assert (pair.pending(), kept_databases(pair.database), kept_databases(pair.notes)) == ([], (), ())


def test_first_database_that_app_uses_already_stays_until_app_is_stopped(pair: Pair, runner: BackupdRunner) -> None:
    apps = []

    def start_app_and_break() -> None:
        app = running_app(pair.database)
        apps.append((app, app.__enter__()))
        break_part(pair.notes)

    ended = restored(pair, runner, Moment(swapped(pair.database), start_app_and_break))
    assert ended.code == 1, ended
    assert "some parts are restored, others are not" in ended.err
    assert "keep the app stopped, and run backupd restore again" in ended.err
    assert pair.found() == [NEW, OLD]
    assert all(journal(path).exists() for path in pair.databases)
    refused = runner.run(["restore", "--point", pair.point], pair.environ)
    assert (refused.code, "has to be undone" in refused.err) == (75, True), refused
    noted = runner.run(["backup", "--source", "notes"], pair.environ)
    assert (noted.code, f"{pair.database} is in use" in noted.err) == (3, True), noted
    apps[0][0].__exit__(None, None, None)
    again = runner.run(["backup", "--source", "notes"], pair.environ)
    assert again.code in {0, 3}, again
    assert pair.found() == [OLD, OLD]
    assert pair.pending() == []
    (recovered,) = [line for line in log_lines(pair.backups) if line["event.action"] == Event.RESTORE_RECOVERED]
    assert f"a restore of {pair.point} was killed: undone" in recovered["message"]


def test_journal_that_another_process_removes_is_reported(pair: Pair, runner: BackupdRunner) -> None:
    ended = restored(pair, runner, Moment(swapped(pair.database), journal(pair.notes).unlink))
    assert ended.code == 1, ended
    assert f"another process removed one of {journal(pair.database)}, {journal(pair.notes)}" in ended.err
    assert (pair.found(), pair.pending()) == ([NEW, NEW], [])
    for source in ("tasks", "notes"):
        assert runner.run(["restore", "--undo", "--source", source], pair.environ).code == 0
    assert pair.found() == [OLD, OLD]


def test_app_that_starts_while_files_are_put_in_place_waits_and_finds_all_as_it_was(
    runner: BackupdRunner, tmp_path: Path
) -> None:
    app, openers = App(tmp_path / "app"), list[subprocess.Popen[str]]()
    app.make(runner)
    before = app.state()

    def start() -> None:
        command = [sys.executable, "-c", STARTS, str(app.database), str(app.uploads)]
        openers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        wait_until(lambda: is_waiting(openers[0].pid))

    moment = Moment((app.uploads / "2026" / "cat").exists, start)
    ended = runner.run(["restore", "--point", "latest"], app.environ, watch=moment)
    assert moment.came
    assert ended.code == 75, ended
    assert f"{app.database} was opened during the swap" in ended.err
    (started,) = openers
    assert json.loads(started.communicate("\n")[0]) == [OLD_TRANSFERS, ["dog", "stays"]]
    assert app.state() == before
    assert runner.run(["restore", "--point", "latest"], app.environ).code == 0
    assert app.state() != before


def test_app_that_starts_after_the_files_finds_the_new_database_with_them_as_soon_as_it_is_there(
    runner: BackupdRunner, tmp_path: Path
) -> None:
    app, openers = App(tmp_path / "app"), list[subprocess.Popen[str]]()
    app.make(runner)
    command = [sys.executable, "-c", STARTS, str(app.database), str(app.uploads)]

    def start() -> None:
        openers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    moment = Moment(swapped(app.database), start)
    ended = runner.run(["restore", "--point", "latest"], app.environ, watch=moment)
    assert ended.code == 0, ended
    assert json.loads(openers[0].communicate("\n")[0]) == [NEW_TRANSFERS, ["2026", "dog", "stays"]]
