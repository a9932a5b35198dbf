"""An app that died in the middle of a transaction: half of it must never be in a copy."""

import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.errors import SourceBusy, SourceUnusable
from backupd.jobs.backup import backup
from backupd.jobs.order import BackupOrder
from backupd.jobs.site import Site
from backupd.sqlite.child.hotjournal import copy_with_journal
from support.app import running_app
from support.bank import is_balanced, make_bank
from support.snapshots import HASTY, Take


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """A bank whose app was killed with half a transaction in the file, and the journal beside it."""
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    make_bank(path, "delete")
    with running_app(path) as app:
        app.sql("PRAGMA cache_size=2")
        app.sql("BEGIN")
        app.sql("UPDATE account SET balance = balance + 1000000, owner = owner || 'y'")
        app.kill()
    assert not is_balanced(path)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.parent.iterdir()}


def test_the_copy_is_the_state_before_the_transaction_and_the_source_is_not_touched(hot: Path, take: Take) -> None:
    before = files(hot)
    copy = take(hot)
    assert copy.hot_journal
    assert is_balanced(copy.path)
    assert files(hot) == before
    assert [p.name for p in copy.path.parent.iterdir()] == [copy.path.name]


def test_such_a_run_is_degraded_and_says_why(hot: Path, site: Site) -> None:
    report = backup(BackupOrder("tasks", hot, HASTY, reserve_bytes=0), site)
    assert (report.outcome, report.exit_code) == ("degraded", 3)
    assert "died in a transaction" in report.warnings[0]


def test_where_copying_a_journal_is_not_wanted_the_run_fails_with_the_way_out(hot: Path, take: Take) -> None:
    before = files(hot)
    with pytest.raises(SourceUnusable) as refused:
        take(hot, replace(HASTY, hot_journal="fail"))
    assert "start the app" in refused.value.hint
    assert files(hot) == before


def test_an_app_that_starts_again_meanwhile_rolls_back_and_is_copied_as_usual(hot: Path, take: Take) -> None:
    def start_again() -> None:
        with running_app(hot) as app:
            app.sql("SELECT count(*) FROM account")

    restart = threading.Thread(target=start_again)
    restart.start()
    copy = take(hot, replace(HASTY, hot_journal_wait_s=30))
    restart.join()
    assert not copy.hot_journal
    assert is_balanced(copy.path)


HOLD_AS_SQLITE_DOES = """
import fcntl, sys
database = open(sys.argv[1], "r+b")
fcntl.lockf(database, fcntl.LOCK_EX, int(sys.argv[2]), int(sys.argv[3], 16))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("size", "start", "said"),
    [("510", "0x40000002", "being recovered"), ("1", "0x40000001", "being written")],
    ids=["exclusive", "reserved"],
)
def test_a_database_at_which_its_app_is_at_work_is_left_to_it(
    hot: Path, tmp_path: Path, size: str, start: str, said: str
) -> None:
    command = [sys.executable, "-c", HOLD_AS_SQLITE_DOES, str(hot), size, start]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        directory = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(SourceBusy, match=said):
            copy_with_journal(str(hot), directory, "copy", lambda _done, _total: None)
        os.close(directory)
        holder.communicate("")


def test_a_journal_that_is_gone_when_it_is_to_be_copied_was_recovered(tmp_path: Path) -> None:
    make_bank(tmp_path / "tasks.db", "delete")
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SourceBusy, match="was recovered"):
        copy_with_journal(str(tmp_path / "tasks.db"), directory, "copy", lambda _done, _total: None)
    os.close(directory)
    assert sqlite3.connect(tmp_path / "tasks.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
