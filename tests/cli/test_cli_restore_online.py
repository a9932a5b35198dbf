"""`backupd restore --online`: into the live database, in one transaction, after a safety backup."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.tasks.context import TaskContext
from support.app import running_app
from support.bank import spend
from support.command import Backupd, log_lines
from support.generations import backdated
from support.processes import wait_until
from support.sqlite_checks import rewrite

LIVE = ("restore", "--online", "--json")


@pytest.mark.cover_processes
@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("mode_of_the_generation", ["wal", "delete"])
def test_app_continues_with_restored_rows_in_same_file_and_journal_mode(
    typed: Keyboard, database: Path, mode: str, mode_of_the_generation: str
) -> None:
    with closing(sqlite3.connect(database)) as app:
        app.execute(f"PRAGMA journal_mode={mode_of_the_generation}")
    assert typed("backup").code == 0
    with closing(sqlite3.connect(database)) as app:
        app.execute(f"PRAGMA journal_mode={mode}")
    inode = database.stat().st_ino
    with running_app(database) as app:
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        answer = typed(*LIVE, "--at", "9999-01-01")
        assert answer.code == 0, answer.err
        assert app.sql("SELECT count(*) FROM ledger") == [[0]]
        assert app.sql("PRAGMA journal_mode") == [[mode]]
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        assert app.sql("PRAGMA integrity_check") == [["ok"]]
    assert database.stat().st_ino == inode
    assert answer.json["kept"] is None


def test_online_restore_backs_up_database_first_and_printed_command_reverts_it(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    with running_app(database) as app:
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        answer = typed(*LIVE)
        assert answer.code == 0, answer.err
        assert app.sql("SELECT count(*) FROM ledger") == [[0]]
        undone = typed(*answer.json["undo"].split()[1:])
        assert undone.code == 0, undone.err
        assert app.sql("SELECT count(*) FROM ledger") == [[1]]


def test_safety_backup_prunes_nothing(
    typed: Keyboard, context: TaskContext, database: Path, backups: Path, generation: str
) -> None:
    assert context
    oldest = backdated(backups, generation, days=400)
    spend(database)
    policy = {f"BACKUPD_RETENTION__{rule}": count for rule, count in (("WITHIN", "0"), ("DAILY", "1"), ("WEEKLY", "0"))}
    answer = typed("restore", oldest, "--online", "--json", **policy)
    assert answer.code == 0, answer.err
    with closing(sqlite3.connect(database)) as app:
        assert app.execute("SELECT count(*) FROM ledger").fetchone() == (0,)
    assert len(typed("list", "--json").json) == 3


def test_online_restore_without_safety_backup_is_refused(
    typed: Keyboard, database: Path, backups: Path, generation: str
) -> None:
    assert generation
    raw = database.read_bytes()
    database.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))
    damaged = database.read_bytes()
    answer = typed(*LIVE)
    assert answer.code == 1
    assert "the safety backup failed" in answer.json["error"]
    assert database.read_bytes() == damaged
    assert log_lines(backups)[-1]["backupd.task"] == "restore"


@pytest.mark.cover_processes
def test_online_restore_blocked_by_app_gives_up_unchanged(typed: Keyboard, database: Path, generation: str) -> None:
    assert generation
    spend(database)
    with running_app(database) as app:
        app.sql("BEGIN IMMEDIATE")
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        answer = typed(*LIVE, BACKUPD_SOURCES__TASKS__BUSY_TIMEOUT_S="0.2")
        assert answer.code == 75
        assert "stayed locked" in answer.json["error"]
        assert f"then name {generation}: the latest is now the safety backup" in answer.json["hint"]
        app.sql("COMMIT")
        assert app.sql("SELECT count(*) FROM ledger") == [[2]]


@pytest.mark.cover_processes
def test_generation_with_other_page_size_is_refused_in_wal_mode(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    with closing(sqlite3.connect(database, isolation_level=None)) as app:
        app.execute("PRAGMA journal_mode=delete")
        app.execute("PRAGMA page_size=8192")
        app.execute("VACUUM")
        app.execute("PRAGMA journal_mode=wal")
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
    answer = typed("restore", generation, "--online")
    assert answer.code == 1
    assert "pages of 8192 bytes" in answer.err
    with closing(sqlite3.connect(database)) as app:
        assert app.execute("SELECT count(*) FROM ledger").fetchone() == (1,)


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.cover_processes
def test_generation_with_other_encoding_is_refused_and_app_continues(
    typed: Keyboard, database: Path, mode: str
) -> None:
    generation = typed("backup", "--json").json["generation"]
    database.unlink()
    with running_app(database) as app:
        app.sql("PRAGMA encoding='UTF-16le'")
        app.sql(f"PRAGMA journal_mode={mode}")
        app.sql("CREATE TABLE word AS SELECT 'grün' AS text")
        answer = typed("restore", generation, "--online", "--json")
        assert answer.code == 1
        assert "holds text in UTF-16le, the generation in UTF-8" in answer.json["error"]
        assert "without --online" in answer.json["hint"]
        assert app.sql("SELECT text FROM word") == [["grün"]]
    assert typed("restore", generation, "--json").code == 0


def test_online_restore_of_missing_database_is_refused(typed: Keyboard, database: Path, generation: str) -> None:
    assert generation
    database.unlink()
    answer = typed("restore", "--online")
    assert answer.code == 1
    assert "without --online" in answer.err
    assert not database.exists()


def test_online_restore_dry_run_changes_nothing(
    typed: Keyboard, database: Path, backups: Path, generation: str
) -> None:
    before = database.read_bytes(), sorted(path.name for path in backups.iterdir())
    answer = typed("restore", generation, "--online", "--dry-run")
    assert answer.code == 0
    assert (database.read_bytes(), sorted(path.name for path in backups.iterdir())) == before


def test_online_restore_killed_midway_leaves_old_rows_to_app(typed: Keyboard, backupd: Backupd, database: Path) -> None:
    with closing(sqlite3.connect(database)) as app, app:
        app.execute("CREATE TABLE big AS SELECT randomblob(30000) AS data FROM account")
    generation = typed("backup", "--json").json["generation"]
    spend(database)
    wal = Path(f"{database}-wal")
    with running_app(database) as app:
        app.sql("SELECT count(*) FROM ledger")
        process = subprocess.Popen(
            [sys.executable, "-m", "backupd", "restore", generation, "--online"],
            env=backupd.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: wal.stat().st_size > 1 << 20, timeout_s=60)
        process.kill()
        _, said = process.communicate()
        assert app.sql("SELECT count(*) FROM ledger") == [[1]], said
        assert app.sql("PRAGMA integrity_check") == [["ok"]]
        answer = typed("restore", generation, "--online")
        assert answer.code == 0, answer.err
        assert app.sql("SELECT count(*) FROM ledger") == [[0]]


def test_notes_and_checks_that_need_app_are_no_damage_after_online_restore(typed: Keyboard, database: Path) -> None:
    with running_app(database) as app:
        app.sql("CREATE TABLE t(a, b)")
        app.sql("INSERT INTO t VALUES (1, NULL)")
        app.sql("CREATE INDEX odd ON t(app_function(a))")
    rewrite(database, "t(a, b)", "t(a, b NOT NULL)")
    generation = typed("backup", "--json").json["generation"]
    with running_app(database) as app:
        app.sql("DELETE FROM t")
        answer = typed("restore", generation, "--online", "--json")
        assert answer.code == 0, answer.err
        assert app.sql("SELECT count(*) FROM t NOT INDEXED") == [[1]]


@pytest.mark.cover_processes
def test_schema_of_another_engine_is_refused_online_with_hint(typed: Keyboard, database: Path) -> None:
    rewrite(database, "CREATE TABLE ledger(", "CREATE RANDOM TABLE ledger(")
    assert typed("backup").code == 3
    online = typed("restore", "--online")
    assert online.code == 1
    assert "cannot read the schema of" in online.err
    before = database.read_bytes()
    in_place = typed("restore", "--json")
    assert in_place.code == 0, in_place.err
    assert database.read_bytes()[100:] == before[100:]  # the header has counters
