"""The app checked on a restored copy: placed, started and queried, with nothing left behind."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.errors import TargetRefused
from backupd.sqlite.source import Source
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.drill import drill
from backupd.tasks.drill.app_check import RESTORED, check_drill_setup, health_problem
from backupd.tasks.drill.app_database import AppDatabase
from backupd.tasks.replica import once
from backupd.tasks.requests import AppCheck, BackupRequest, DrillRequest
from support.daemon import free_port, wait_until
from support.directories import mounted
from support.drills import DAY_S, drilled, facts, has_ended, python, sample_database, second_instance, shell
from support.faults import processes_below
from support.generations import rewritten
from support.held import held as opened


@pytest.fixture
def order(tmp_path: Path) -> BackupRequest:
    """A backup of the sample app's database."""
    database = tmp_path / "data" / "tasks.db"
    database.parent.mkdir()
    sample_database(database)
    database.chmod(0o640)
    return BackupRequest("tasks", database, reserve_bytes=0)


@pytest.fixture
def drills(order: BackupRequest, context: TaskContext) -> TaskContext:
    """A site with a generation of the sample app's database."""
    assert backup(order, context).outcome == "published"
    return context


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a second instance expects its database: free, in a directory of its own."""
    directory = tmp_path / "drill"
    directory.mkdir()
    return directory / "tasks.db"


@pytest.fixture
def nothing_stays(place: Path, tmp_path: Path, drills: TaskContext) -> Iterator[None]:
    """Fails when something is left of a drill: files at the place or in staging, or processes."""
    yield
    assert list(place.parent.iterdir()) == []
    assert list((drills.store.hidden / "staging").iterdir()) == []
    wait_until(lambda: not processes_below(tmp_path), "the end of all processes")


pytestmark = pytest.mark.usefixtures("nothing_stays")

# --- The command ---


def test_command_gets_restored_copy_and_may_write_to_it(drills: TaskContext, order: BackupRequest) -> None:
    archives = {path: path.read_bytes() for path in drills.store.directory.glob("tasks-*")}
    before = order.path.read_bytes()
    program = (
        "import os, sqlite3\n"
        "c = sqlite3.connect(os.environ['BACKUPD_RESTORED_DATABASE'])\n"
        "c.execute('INSERT INTO tasks VALUES (2, \"two\", 0)'); c.execute('PRAGMA user_version = 7'); c.commit()\n"
        "print(c.execute('SELECT count(*) FROM tasks').fetchone()[0], 'tasks')"
    )
    report = drilled(drills, command=python(program), user_version=7)
    assert (report.outcome, facts(report).output) == ("done", "2 tasks\n")
    assert facts(report).proven[-2:] == ("command", "migrations")
    assert {"command", "migrations"} <= set(report.stages)
    assert {path: path.read_bytes() for path in archives} == archives
    assert order.path.read_bytes() == before


def test_environment_of_command_has_no_backupd_settings_or_secrets(
    drills: TaskContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPD_HTTP__TOKEN", "hunter2")
    monkeypatch.setenv("backupd_drill__query", "SELECT 1")
    monkeypatch.setenv("KEY_OF_THE_REPLICA", "hunter2")
    monkeypatch.setenv("THE_APPS_OWN", "kept")
    report = drilled(drills, command=("env",), secrets=frozenset({"hunter2"}))
    assert "hunter2" not in facts(report).output
    assert "THE_APPS_OWN=kept" in facts(report).output
    told = [line for line in facts(report).output.splitlines() if line.upper().startswith("BACKUPD_")]
    assert [line.partition("=")[0] for line in told] == [RESTORED]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (shell("echo first; echo the tables are gone >&2; exit 4"), r"(exit code 4): the tables are gone"),
        (shell("kill -SEGV $$"), "killed by signal 11"),
        (("/no/such/program",), "the command program cannot be run: No such file or directory"),
        (shell("printf '\\033[2J'; exit 1"), "\\x1b[2J"),
    ],
)
def test_failed_command_fails_drill_with_end_of_its_output(
    drills: TaskContext, command: tuple[str, ...], told: str
) -> None:
    report = drilled(drills, command=command)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert told in str(report.error)
    assert facts(report).recovery_s is None
    assert "command" not in facts(report).proven


def test_hanging_command_is_killed_with_all_its_processes(drills: TaskContext) -> None:
    report = drilled(drills, command=shell("echo begun; sleep 3600 & sleep 3600"), timeout_s=2.0)
    assert report.exit_code == 1
    assert "the command sh did not end within" in str(report.error)
    assert facts(report).output == "begun\n"


def test_long_output_of_command_is_cut_to_its_end(drills: TaskContext) -> None:
    report = drilled(drills, command=python("print('x' * 5_000_000); print('the end')"))
    assert report.outcome == "done"
    assert facts(report).output.endswith("x\nthe end\n")
    assert len(facts(report).output) == 4096


# --- The migrations ---


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"user_version": 2}, "PRAGMA user_version is 1, expected at least 2"),
        ({"query": "SELECT count(*) FROM tasks", "answer": "2"}, "drill.query returned '1', expected '2'"),
        (
            {"query": "SELECT title FROM tasks WHERE id = 9", "answer": "nine"},
            "returned None, expected 'nine'",
        ),
        ({"query": "SELECT * FROM missing", "answer": "1"}, "no such table: missing"),
        ({"query": "DELETE FROM tasks", "answer": "1"}, "attempt to write a readonly database"),
    ],
)
def test_missing_migrations_fail_drill(drills: TaskContext, asked: dict[str, object], told: str) -> None:
    report = drilled(drills, **asked)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert told in str(report.error)


@pytest.mark.cover_processes
def test_applied_migrations_are_verified(drills: TaskContext) -> None:
    report = drilled(drills, user_version=1, query="SELECT x'ff', 1", answer="ff")
    assert facts(report).proven[-1] == "migrations"


@pytest.mark.cover_processes
def test_endless_query_ends_at_time_limit(drills: TaskContext) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    report = drilled(drills, query=endless, answer="1", timeout_s=1.0)
    assert "the query on the restored copy took longer than 1 s" in str(report.error)


# --- The place, and the app's health ---


def test_second_instance_of_app_is_checked_on_placed_copy(drills: TaskContext, place: Path) -> None:
    with second_instance(place) as url:
        report = drilled(drills, place_at=place, health_url=url, user_version=1)
        assert report.outcome == "done", report.error
        assert facts(report).proven[-2:] == ("health", "migrations")
        wait_until(lambda: has_ended(url) and not place.exists(), "the instance ends with the drill")
        again = drilled(drills, place_at=place, health_url=url)
        assert again.outcome == "done", again.error


def test_unhealthy_reply_fails_drill_with_its_text(drills: TaskContext, place: Path) -> None:
    wrong = python(
        f"import sqlite3; c = sqlite3.connect({str(place)!r}); c.execute('UPDATE ledger SET amount = 5'); c.commit()"
    )
    with second_instance(place) as url:
        report = drilled(drills, place_at=place, command=wrong, health_url=url, timeout_s=3.0)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert 'did not answer 200 within 3 s: it answered 503: {"tasks": 1, "balance": 10' in str(report.error)


def test_app_healthy_before_copy_is_placed_fails_drill(drills: TaskContext, place: Path, tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    sample_database(live)
    live.with_name(".live.db.backupd-drill").touch()  # that is what the instance looks at
    with second_instance(live) as url:
        wait_until(lambda: not health_problem(url), "the live app")
        report = drilled(drills, place_at=place, health_url=url, timeout_s=1.0)
        (finding,) = check_drill_setup(DrillRequest("tasks", "local", 1, app=AppCheck(1, health_url=url)))
    assert "answers 200 though the restored copy is not in place yet" in str(report.error)
    assert (finding.ok, "already answers 200" in finding.detail) == (False, True)


SERVE = """
import http.server, sys

class AnswerHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 302)
        self.send_header("Location", "/health")
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), AnswerHandler).serve_forever()
"""


def test_app_started_by_command_lives_until_end_of_drill(drills: TaskContext) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    start = (*shell('"$0" -c "$1" "$2" > /dev/null 2>&1 &'), sys.executable, SERVE, str(port))
    report = drilled(drills, command=start, health_url=f"{url}/health")
    assert report.outcome == "done", report.error
    assert "no answer: " in health_problem(f"{url}/health")
    moved = drilled(drills, command=start, health_url=f"{url}/login", timeout_s=2.0)
    assert "it answered 302" in str(moved.error)


LOOK = """
import os, stat, sys
place = os.environ["BACKUPD_RESTORED_DATABASE"]
state = os.stat(place)
print(place, oct(stat.S_IMODE(state.st_mode)), state.st_nlink, state.st_uid, sorted(os.listdir(os.path.dirname(place))))
"""


def test_placed_copy_has_owner_and_mode_of_source_and_no_stale_side_files(drills: TaskContext, place: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        place.with_name(f"tasks.db{suffix}").write_text("of another database")
    report = drilled(drills, place_at=place, command=python(LOOK))
    there = "['.tasks.db.backupd-drill', 'tasks.db']"
    assert facts(report).output.strip() == f"{place} 0o640 1 {os.geteuid()} {there}"


def test_place_on_another_file_system_needs_own_free_space(drills: TaskContext) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        place = Path(name) / "tasks.db"
        report = drilled(drills, place_at=place, command=("test", "-f", str(place)))
        assert (report.outcome, list(Path(name).iterdir())) == ("done", []), report.error
        app = AppCheck(1, place_at=place)
        greedy = DrillRequest("tasks", "local", DAY_S, reserve_bytes=1 << 60, app=app)
        inventory = local_inventory(drills)
        (refused,) = drill([greedy], lambda: nullcontext((drills.store, inventory)), once, drills)
        assert f"at {name}, where" in str(refused.error)


@pytest.mark.cover_processes
@pytest.mark.root
def test_placed_copy_belongs_to_owner_of_source_and_is_queried_as_that_user(drills: TaskContext) -> None:
    (stored,) = drills.store.list()
    theirs = {"uid": 12345, "gid": 12346}
    rewritten(drills.store.directory, stored.id, lambda m: replace(m, origin=replace(m.origin, **theirs)))
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to other users
        os.chown(name, 12345, 12346)
        place = Path(name) / "tasks.db"
        report = drilled(drills, place_at=place, command=python(LOOK), query="SELECT count(*) FROM tasks", answer="1")
        assert "0o640 1 12345" in facts(report).output, report.error
        assert (report.outcome, list(Path(name).iterdir())) == ("done", [])


@pytest.mark.parametrize("what", ["file", "link", "directory", "no directory", "source", "mounted source", "hard link"])
def test_occupied_place_is_refused_unchanged(
    drills: TaskContext, order: BackupRequest, place: Path, tmp_path: Path, what: str
) -> None:
    other = tmp_path / "other.db"
    asked = {"place_at": place, "databases": (order.path,)}
    if what == "file":
        place.write_bytes(b"somebody's data")
    elif what == "link":
        place.symlink_to(other)
    elif what == "directory":
        place.mkdir()
    elif what == "no directory":
        asked["place_at"] = tmp_path / "missing" / "tasks.db"
    elif what == "source":
        asked["place_at"] = order.path.with_name("tasks.db-wal")
    elif what == "mounted source":
        (tmp_path / "mounted").symlink_to(order.path.parent)
        order.path.rename(other)  # the app's data is lost, and the drill must not put an old copy in its place
        asked["place_at"] = tmp_path / "mounted" / "tasks.db"
    else:
        os.link(order.path, place)
    before = sorted((path, path.lstat().st_ino) for path in tmp_path.rglob("*") if ".backupd" not in path.parts)
    report = drilled(drills, **asked)
    assert (report.outcome, report.exit_code, report.stages) == ("failed", 1, {})
    after = sorted((path, path.lstat().st_ino) for path in tmp_path.rglob("*") if ".backupd" not in path.parts)
    assert after == before
    (finding,) = check_drill_setup(DrillRequest("tasks", "local", 1, app=AppCheck(1, **asked)))
    assert not finding.ok
    place.rmdir() if what == "directory" else place.unlink(missing_ok=True)


def test_file_replacing_placed_copy_is_kept_and_reported(drills: TaskContext, place: Path) -> None:
    report = drilled(drills, place_at=place, command=(*shell('echo mine > "$0.new"; mv "$0.new" "$0"'), str(place)))
    assert (report.outcome, report.exit_code) == ("degraded", 3)
    assert "is not the file that the drill put there" in report.warnings[0]
    assert place.read_text() == "mine\n"
    assert drilled(drills, place_at=place).exit_code == 1
    place.unlink()


def test_leftovers_of_killed_drill_are_removed_by_next_drill(drills: TaskContext, place: Path) -> None:
    sample_database(place)
    place.with_name("tasks.db-wal").write_text("its WAL")
    place.with_name(".tasks.db.backupd-drill.part").write_text("half")
    state = place.stat()
    place.with_name(".tasks.db.backupd-drill").write_text(json.dumps([state.st_dev, state.st_ino]))
    AppDatabase(place, ()).require_usable()
    assert drilled(drills, place_at=place, command=("test", "-f", str(place))).outcome == "done"


@pytest.mark.parametrize("mark", ["", "[1", "{}", '"x"'])
def test_truncated_marker_permits_no_removal(drills: TaskContext, place: Path, mark: str) -> None:
    place.write_bytes(b"somebody's data")
    place.with_name(".tasks.db.backupd-drill").write_text(mark)
    assert drilled(drills, place_at=place).exit_code == 1
    assert place.read_bytes() == b"somebody's data"
    place.unlink()


def test_file_created_at_place_during_drill_is_not_replaced(order: BackupRequest, place: Path) -> None:
    held, origin = AppDatabase(place, ()), Source.inspect(order.path).facts
    held.prepare()
    place.write_bytes(b"just appeared")
    with pytest.raises(TargetRefused, match="was created by another process"), held.holding(opened(order.path), origin):
        raise AssertionError("it was placed")
    assert place.read_bytes() == b"just appeared"
    place.unlink()


# --- The doctor ---


def test_doctor_checks_place_command_and_url(place: Path) -> None:
    def look(**asked: object) -> list[bool]:
        app = AppCheck(timeout_s=1, **asked)  # type: ignore[arg-type] - the test says what
        return [finding.ok for finding in check_drill_setup(DrillRequest("tasks", "local", 1, app=app, path=place))]

    well = {"place_at": place, "command": ("sh",), "health_url": "http://127.0.0.1:1/health"}
    assert look(**well) == [True, True, True]
    assert look(command=("/no/such/program",)) == [False]
    assert look(query="SELECT 1", answer="1") == [True]
    assert list(check_drill_setup(DrillRequest("tasks", "local", 1))) == []


@pytest.mark.root
def test_place_mounted_without_directory_is_refused_by_doctor_and_drill(
    place: Path, tmp_path: Path, drills: TaskContext
) -> None:
    (tmp_path / "instance.db").touch()
    with mounted(tmp_path / "instance.db", place):
        order = DrillRequest("tasks", "local", DAY_S, app=AppCheck(5, place_at=place))
        (found,) = check_drill_setup(order)
        report = drilled(drills, place_at=place)
        assert not found.ok
        for said in (found.detail, report.error or ""):
            assert f"place_at: {place} is mounted without its directory" in said
    place.unlink()
