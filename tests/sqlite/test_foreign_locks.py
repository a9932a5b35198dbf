"""An app that locks its database in another way than SQLite here, or not at all: a copy could be inconsistent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.sqlite.snapshot import probe_source
from backupd.sqlite.source import Source
from support.app import App, running_app
from support.backup_runs import BackUp
from support.bank import is_balanced, make_bank
from support.directories import contents
from support.processes import CopyObserver
from support.snapshots import SHORT_WAITS, Take

HALF = ("PRAGMA cache_size=2", "BEGIN", "UPDATE account SET balance = balance + 1000000, owner = owner || 'y'")
FOREIGN = pytest.mark.parametrize("foreign", ["nolock=1", "vfs=unix-none"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bank with a rollback journal, in a directory of its own."""
    directory = tmp_path / "data"
    directory.mkdir()
    make_bank(directory / "tasks.db", "delete")
    return directory / "tasks.db"


@contextmanager
def in_a_transaction(path: Path, foreign: str) -> Iterator[App]:
    """Run an app with these parameters in its URI, half of whose transaction is in the file."""
    with running_app(f"file:{path}?{foreign}") as app:
        for statement in HALF:
            app.sql(statement)
        yield app


@FOREIGN
def test_journal_of_living_app_with_foreign_locks_is_not_hot(
    path: Path, tmp_path: Path, back_up: BackUp, foreign: str
) -> None:
    with in_a_transaction(path, foreign) as app:
        before = contents(path.parent)
        result = back_up(path)
        assert result.outcome == ("failed", 1)
        assert f"{path}-journal is in use by a process that holds no lock" in result.error
        assert "nolock=1" in result.hint
        assert "in use by a process" in back_up(path, SHORT_WAITS._replace(hot_journal="fail")).error
        with pytest.raises(Exception, match="in use by a process"):
            probe_source(Source.inspect(path), SHORT_WAITS, tmp_path)
        assert (result.generations, result.staged, contents(path.parent)) == ({}, [], before)
        app.sql("ROLLBACK")
    assert back_up(path).outcome == ("published", 0)


def test_lock_directory_of_dotfile_app_is_named_while_app_runs_and_after_its_death(path: Path, back_up: BackUp) -> None:
    with in_a_transaction(path, "vfs=unix-dotfile") as app:
        result = back_up(path)
        assert result.outcome == ("failed", 1)
        assert f"is locked by the directory {path}.lock" in result.error
        assert "unix-dotfile" in result.hint
        app.kill()
    assert f"is locked by the directory {path}.lock" in back_up(path).error
    Path(f"{path}.lock").rmdir()
    assert back_up(path).outcome == ("degraded", 3)


def test_lock_file_of_app_and_lock_directory_beside_held_locks_are_ignored(path: Path, take: Take) -> None:
    Path(f"{path}.lock").touch()
    assert is_balanced(take(path).file.path)
    Path(f"{path}.lock").unlink()
    Path(f"{path}.lock").mkdir()
    with running_app(path) as app:
        app.sql("BEGIN")
        app.sql("SELECT count(*) FROM account")
        assert is_balanced(take(path).file.path)


@FOREIGN
def test_commit_during_copy_under_foreign_locks_is_detected(
    path: Path, asleep: Callable[[int], None], back_up: BackUp, foreign: str
) -> None:
    path.unlink()
    make_bank(path, "delete", rows=60_000)
    asleep(1500)
    with running_app(f"file:{path}?{foreign}") as app:
        commit = lambda: app.sql("UPDATE account SET balance = balance + 1 WHERE id < 9")  # noqa: E731
        result = back_up(path, progress=CopyObserver(commit, commit))
    assert result.outcome == ("failed", 1)
    assert f"{path} was written to while a shared lock was held on it" in result.error
    assert result.events.count("snapshot.retried") == 1
    assert (result.generations, result.staged, result.quarantined) == ({}, [], [])
