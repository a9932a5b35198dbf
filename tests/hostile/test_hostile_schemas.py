"""A database with a hostile schema costs bounded time and memory, and is backed up if it is sound."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from backupd.sqlite import worker_process
from support.command import Backupd
from support.fork_server import CommandResult
from support.processes import children_of
from support.sqlite_checks import NUMBERS, inspect, make, rewrite, verdict

LIMIT_S = 1.5
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
# One call of a function that needs more steps than there is time, and asks nobody whether it may go on.
HANGING = "instr(printf('%.9000000c', 'a'), printf('%.4000000c', 'a') || 'b')"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each check a short limit."""
    monkeypatch.setattr(worker_process, "_SHORTEST_LIMIT_S", LIMIT_S)


def hanging(path: Path) -> Path:
    """Make a database whose check calls a function that does not return."""
    make(path, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    rewrite(path, "CREATE TABLE t(a)", f"CREATE TABLE t(a, b AS ({HANGING}) NOT NULL)")
    return path


@pytest.mark.usefixtures("impatient")
def test_endless_function_is_left_out_of_check(tmp_path: Path) -> None:
    path, began = hanging(tmp_path / "t.db"), time.monotonic()
    found = inspect(path)
    assert time.monotonic() - began < 10 * LIMIT_S
    assert (found.verdict.level, found.verdict.damage) == ("structural", ())
    assert found.verdict.checks == ("quick_check without functions",)
    assert "did not end in time" in found.verdict.notes[0]
    assert found.contents is not None
    assert found.contents.tables == {"t": 1}


@pytest.mark.usefixtures("impatient")
def test_damage_beside_endless_function_is_found(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE z(a)", f"INSERT INTO z {NUMBERS} SELECT hex(randomblob(200)) FROM n")
    hanging(path)
    with path.open("r+b") as stream:
        stream.seek(4096 * 3)
        stream.write(b"\xff" * 24)
    assert verdict(path).level == "corrupt"


@pytest.mark.usefixtures("impatient")
def test_abandoned_check_leaves_no_process(tmp_path: Path) -> None:
    others = children_of(os.getpid())
    inspect(hanging(tmp_path / "t.db"))
    assert children_of(os.getpid()) == others


def test_expression_that_uses_all_memory_is_left_out_of_check(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    rewrite(path, "CREATE TABLE t(a)", "CREATE TABLE t(a, b AS (length(hex(zeroblob(490000000)))) NOT NULL)")
    found = inspect(path).verdict
    assert (found.level, found.damage) == ("structural", ())
    assert "takes more memory than it may have" in found.notes[0]


HOSTILE = {
    "a trigger": ("CREATE TRIGGER i AFTER INSERT ON t BEGIN SELECT load_extension('/tmp/x'); END",),
    "a view without end": (f"CREATE VIEW v AS {ENDLESS}",),
    "views on views": (
        "CREATE VIEW v0 AS SELECT a FROM t",
        *(f"CREATE VIEW v{n} AS SELECT a.a FROM v{n - 1} a, v{n - 1} b" for n in range(1, 12)),
    ),
    "a deep expression": (f"CREATE TABLE d(a, b AS ({'abs(' * 24}a{')' * 24}))",),
    "a long expression": (f"CREATE TABLE d(a, b AS ({'+'.join(['a'] * 900)}))", "INSERT INTO d(a) VALUES (1)"),
    "many columns": (f"CREATE TABLE d({', '.join(f'c{n}' for n in range(2000))})", "INSERT INTO d(c0) VALUES (1)"),
    "a full-text table over a view without end": (
        f"CREATE VIEW v AS SELECT i AS rowid, i AS x FROM ({ENDLESS})",
        "CREATE VIRTUAL TABLE f USING fts5(x, content='v')",
    ),
    "an expression index": ("CREATE INDEX i ON t(hex(zeroblob(1000000)))",),
    "unreadable comments": ("CREATE VIRTUAL TABLE f " + "/**/" * 60 + " USING fts5(x)",),
}


@pytest.mark.parametrize("statements", HOSTILE.values(), ids=HOSTILE)
def test_sound_database_with_hostile_schema_is_fully_backed_up(
    database: Path, backupd: Backupd, statements: tuple[str, ...]
) -> None:
    database.unlink()
    make(database, "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)", *statements)
    began = time.monotonic()
    answer = backupd("backup", "--json")
    assert time.monotonic() - began < 30
    assert (answer.code, answer.json["outcome"], answer.json["verification"]) == (0, "published", "full")


def test_unterminated_comments_in_schema_are_read_in_bounded_time(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE VIRTUAL TABLE f USING fts5(x)")
    rewrite(path, "USING fts5(x)", "/**/" * 60 + "(")
    began = time.monotonic()
    inspect(path)
    assert time.monotonic() - began < 10


def test_table_names_beyond_manifest_limit_are_left_out(database: Path, backupd: Backupd) -> None:
    database.unlink()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("BEGIN")
        for name in ("n" * 5000, *(f"{number}{'x' * 4000}" for number in range(800))):
            connection.execute(f'CREATE TABLE "{name}"(a)')
    assert backupd("backup").code == 0
    assert backupd("verify", "--all").code == 0
    assert backupd("list", "--json").json[0]["verification"] == "full"


def test_columns_beyond_sqlite_limit_leave_pages_checked(tmp_path: Path) -> None:
    path = make(tmp_path / "t.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES (1)")
    rewrite(path, "CREATE TABLE t(a)", f"CREATE TABLE t({', '.join(f'c{n}' for n in range(32_000))})")
    found = verdict(path)
    assert (found.level, found.damage) == ("structural", ())


def query(backupd: Backupd, query: str, **more: str) -> CommandResult:
    """Back up, and run a drill with this query, which is to return 1."""
    assert backupd("backup").code == 0
    return backupd("drill", "--from", "local", BACKUPD_DRILL__QUERY=query, BACKUPD_DRILL__ANSWER="1", **more)


@pytest.mark.parametrize("endless", [f"SELECT {HANGING}", f"SELECT max(i) FROM ({ENDLESS})"])
def test_drill_query_ends_at_time_limit_with_reason(backupd: Backupd, endless: str) -> None:
    began = time.monotonic()
    answer = query(backupd, endless, BACKUPD_DRILL__TIMEOUT_S="1")
    assert time.monotonic() - began < 20
    assert answer.code == 1
    assert "took longer than 1 s" in answer.out + answer.err


def test_drill_query_with_misspelt_column_fails(backupd: Backupd) -> None:
    answer = query(backupd, 'SELECT "1"')
    assert answer.code == 1
    assert "single quotes" in answer.out + answer.err


def test_long_result_of_drill_query_is_truncated(backupd: Backupd) -> None:
    answer = query(backupd, "SELECT hex(zeroblob(100000000))")
    assert answer.code == 1
    assert len(answer.out + answer.err) < 5000
