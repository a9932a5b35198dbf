"""An app that died in a transaction: a copy never contains half of it."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import SnapshotFailed, SourceBusy
from backupd.sqlite.snapshot import probe_source
from backupd.sqlite.source import Source
from backupd.sqlite.worker.hot_journal import copy_with_journal
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import is_balanced, make_bank
from support.directories import contents, identity_of, read_only, rows, two_files
from support.processes import die_in_a_transaction
from support.snapshots import SHORT_WAITS, Take


@pytest.fixture(params=["delete", "truncate", "persist"])
def hot(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A bank whose app was killed with half a transaction in the file, and the journal beside it."""
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    make_bank(path, "delete")
    die_in_a_transaction(path, journal_mode=request.param)
    return path


one_kind = pytest.mark.parametrize("hot", ["delete"], indirect=True)


def test_copy_with_hot_journal_is_state_before_transaction_and_source_is_unchanged(hot: Path, take: Take) -> None:
    before = contents(hot.parent)
    copy = take(hot)
    assert copy.hot_journal
    assert is_balanced(copy.file.path)
    assert contents(hot.parent) == before
    assert [p.name for p in copy.file.path.parent.iterdir()] == [copy.file.path.name]


@one_kind
@pytest.mark.root
def test_hot_journal_on_read_only_mount_is_copied(hot: Path, take: Take) -> None:
    before = contents(hot.parent)
    with read_only(hot.parent) as mount:
        copy = take(mount / hot.name)
    assert copy.hot_journal
    assert is_balanced(copy.file.path)
    assert contents(hot.parent) == before


@one_kind
def test_backup_with_hot_journal_is_degraded_with_reason(hot: Path, back_up: BackUp) -> None:
    result = back_up(hot)
    assert result.outcome == ("degraded", 3)
    assert "died in a transaction" in result.report.warnings[0]
    assert "snapshot.waiting" in result.events


@one_kind
def test_hot_journal_set_to_fail_fails_backup_with_hint(hot: Path, back_up: BackUp) -> None:
    before = contents(hot.parent)
    result = back_up(hot, SHORT_WAITS._replace(hot_journal="fail"))
    assert result.outcome == ("failed", 1)
    assert "its app died in a transaction and has not been started since" in result.error
    assert 'start the app, which rolls it back; or set hot_journal = "copy"' in result.hint
    assert (result.generations, result.staged) == ({}, [])
    assert contents(hot.parent) == before


@one_kind
def test_probe_reports_hot_journal_and_changes_nothing(hot: Path, tmp_path: Path) -> None:
    before = contents(hot.parent)
    assert probe_source(Source.inspect(hot), SHORT_WAITS, tmp_path)["hot"] is True
    assert contents(hot.parent) == before


@one_kind
def test_copy_with_hot_journal_ends_at_time_limit(hot: Path, take: Take) -> None:
    with pytest.raises(SnapshotFailed, match="was not copied within"):
        take(hot, SHORT_WAITS._replace(timeout_s=1e-6))


@one_kind
def test_app_restarted_during_wait_rolls_back_and_database_is_copied_as_usual(hot: Path, take: Take) -> None:
    def start_again() -> None:
        with running_app(hot) as app:
            app.sql("SELECT count(*) FROM account")

    restart = threading.Thread(target=start_again)
    restart.start()
    copy = take(hot, SHORT_WAITS._replace(hot_journal_wait_s=30))
    restart.join()
    assert not copy.hot_journal
    assert is_balanced(copy.file.path)


COPY_SLOWLY = """
import os, sys
from backupd.sqlite.worker.hot_journal import copy_with_journal

def wait(done, total):
    print("copying", flush=True)
    sys.stdin.readline()

source, *targets = sys.argv[1:]
state = os.stat(source)
opened = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in targets]
copy_with_journal(source, (state.st_dev, state.st_ino), *opened, wait)
"""


@one_kind
def test_app_restarted_during_copy_of_hot_journal_waits_and_then_works(hot: Path, tmp_path: Path) -> None:
    impatient = f"import sqlite3; sqlite3.connect({str(hot)!r}, timeout=0).execute('SELECT 1 FROM account')"
    answers: list[list[list[Any]]] = []
    command = [sys.executable, "-c", COPY_SLOWLY, hot, tmp_path / "copy", tmp_path / "copy-journal"]
    with (
        running_app(hot) as app,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as copier,
    ):
        assert copier.stdout is not None
        assert copier.stdout.readline() == "copying\n"
        refused = subprocess.run([sys.executable, "-c", impatient], capture_output=True, text=True, check=False)
        assert "database is locked" in refused.stderr
        patient = threading.Thread(target=lambda: answers.append(app.sql("SELECT sum(balance) FROM account")))
        patient.start()
        copier.communicate("go on\n" * 9)
        patient.join()
    assert copier.returncode == 0
    assert answers == [[[100_000]]]
    assert is_balanced(hot)
    assert rows(tmp_path / "copy", "SELECT count(*) FROM account") == [(1000,)]
    assert is_balanced(tmp_path / "copy")


HOLD_AS_SQLITE_DOES = """
import fcntl, sys
database = open(sys.argv[1], "r+b")
fcntl.lockf(database, fcntl.LOCK_EX, int(sys.argv[2]), int(sys.argv[3], 16))
print("held", flush=True)
sys.stdin.read()
"""


@one_kind
@pytest.mark.parametrize(
    ("size", "start", "said"),
    [("510", "0x40000002", "being recovered"), ("1", "0x40000001", "being written")],
    ids=["exclusive", "reserved"],
)
def test_journal_of_database_locked_by_app_is_not_copied(
    hot: Path, tmp_path: Path, size: str, start: str, said: str
) -> None:
    command = [sys.executable, "-c", HOLD_AS_SQLITE_DOES, str(hot), size, start]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with two_files(tmp_path) as (database, journal), pytest.raises(SourceBusy, match=said):
            copy_with_journal(str(hot), identity_of(hot), database, journal, lambda _done, _total: None)
        holder.communicate("")


def test_journal_missing_at_copy_counts_as_recovered(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, "delete")
    with two_files(tmp_path) as (database, journal), pytest.raises(SourceBusy, match="was recovered"):
        copy_with_journal(str(path), identity_of(path), database, journal, lambda _done, _total: None)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
