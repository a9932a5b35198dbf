"""A truncated database: SQLite reads zeros beyond its end, so that a copy may pass every check. It must be refused."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.app import running_app
from support.command import Backupd

PAGE = 4096


def make_long_rows(path: Path, journal_mode: str) -> None:
    """Make a table whose rows spill into overflow pages, the last of which ends the file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)")
        connection.executemany("INSERT INTO t(b) VALUES (?)", [(b"Q" * 9000,)] * 200)
        connection.commit()


@pytest.mark.parametrize("cut", [1, 100, PAGE - 1, PAGE, 3 * PAGE + 7])
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_truncated_database_is_not_published_and_nothing_is_pruned(
    tmp_path: Path, context: TaskContext, journal_mode: str, cut: int
) -> None:
    path = tmp_path / "tasks.db"
    make_long_rows(path, journal_mode)
    order = BackupRequest("tasks", path, reserve_bytes=0)
    good = backup(order, context)
    assert good.outcome == "published"
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - cut)
    bad = backup(order, context)
    assert (bad.outcome, bad.exit_code) == ("failed", 1)
    assert bad.error is not None
    assert re.search("is truncated|is damaged", bad.error)  # what lacks whole pages SQLite refuses by itself
    hold = context.holds.get("tasks")
    assert hold is not None
    assert hold.reference == good.generation


def test_doctor_reports_truncated_database(backupd: Backupd, database: Path) -> None:
    with database.open("r+b") as stream:
        stream.truncate(database.stat().st_size - 1)
    answer = backupd("doctor")
    assert answer.code == 1
    assert "is truncated" in answer.out


def test_pages_in_wal_only_are_not_missing(tmp_path: Path, context: TaskContext) -> None:
    path = tmp_path / "tasks.db"
    make_long_rows(path, "wal")
    with running_app(path) as app:
        app.sql("PRAGMA wal_autocheckpoint=0")
        before = path.stat().st_size
        app.sql("INSERT INTO t(b) SELECT randomblob(9000) FROM t")
        assert path.stat().st_size == before
        assert backup(BackupRequest("tasks", path, reserve_bytes=0), context).outcome == "published"
