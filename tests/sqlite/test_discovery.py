"""The only database below a directory is found beside any planted files."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backupd.errors import SourceMissing, SourceUnusable
from backupd.sqlite import discovery
from backupd.sqlite.discovery import find_database, is_directory, not_one_database
from backupd.system import mounts
from support.directories import through_fuse
from support.processes import serving, stopped, wait_until


def make_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE task(id)")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("name", ["tasks.db", "gitea/gitea.db", "a/b/c/d/e/app.sqlite", "noname"])
def test_only_database_is_found_by_its_header(data: Path, name: str) -> None:
    database = make_database(data / name)
    (data / "other.db").write_bytes(b"not SQLite at all")
    (data / "empty.db").touch()
    assert find_database(data) == database


def test_side_files_copies_and_hidden_directories_are_left_out(data: Path) -> None:
    database = make_database(data / "tasks.db")
    for name in (
        *(".hidden.db", ".cache/x.db", "backups/tasks.db", "files/backup/tasks.db", "tasks.db-wal"),
        *("tasks.db.pre-restore-20261125T031500Z", "backups/.backupd/catalog.sqlite3"),
    ):
        make_database(data / name)
    assert find_database(data) == database


def test_directory_without_database_is_reported_missing_with_hint(data: Path) -> None:
    assert find_database(data) is None
    error = not_one_database(data)
    assert isinstance(error, SourceMissing)
    assert error.message == f"{data} is a directory without a SQLite database, 5 directories deep"
    assert f"{data}/FILE" in error.hint


def test_several_databases_in_directory_are_refused_and_listed(data: Path) -> None:
    for name in ("a.db", "b/c.db"):
        make_database(data / name)
    assert find_database(data) is None
    error = not_one_database(data)
    assert isinstance(error, SourceUnusable)
    assert error.message == f"2 databases in the directory {data}: a.db, b/c.db"
    assert error.hint.startswith("set BACKUPD_DATABASE ")
    assert error.hint.endswith(f" {data}/a.db")


def test_database_deeper_than_five_directories_is_not_found(data: Path) -> None:
    make_database(data / "1/2/3/4/5/6/app.db")
    assert find_database(data) is None


def test_links_pipes_and_sockets_of_a_neighbour_are_not_opened(data: Path, tmp_path: Path) -> None:
    database = make_database(data / "tasks.db")
    other = make_database(tmp_path / "other" / "app.db")
    (data / "link.db").symlink_to(other)
    (data / "links").symlink_to(other.parent)
    (data / "loop").symlink_to(data)
    os.mkfifo(data / "pipe.db")
    assert find_database(data) == database


def test_directory_with_more_names_than_limit_has_no_certain_database(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_NAMES", 10)
    database = make_database(data / "0.db")
    (data / "uploads").mkdir()
    for number in range(20):
        (data / "uploads" / f"{number}.jpg").touch()
    assert find_database(data) is None
    error = not_one_database(data)
    assert "more than 10 files and directories" in error.message
    assert str(database) in error.hint


def test_missing_or_root_directory_has_no_certain_database(data: Path) -> None:
    assert find_database(data / "missing") is None
    assert "cannot be searched: I/O error: No such file" in not_one_database(data / "missing").message


def test_name_that_would_control_a_terminal_is_escaped(data: Path) -> None:
    for name in ("a\x1b[2J.db", "b.db"):
        make_database(data / name)
    assert "2 databases" in not_one_database(data).message
    assert not_one_database(data).message.isprintable()


@pytest.mark.root
def test_unresponsive_mount_is_not_waited_for_and_is_no_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_database(data / "tasks.db")
    monkeypatch.setattr(mounts, "RESPONDS_S", 0.5)
    monkeypatch.setattr(discovery, "_LOOK_S", 1.0)
    with through_fuse(data) as mount:
        assert find_database(mount) == mount / "tasks.db"
        with stopped(serving(mount)):
            assert is_directory(mount) is None
            assert find_database(mount) is None
            assert "does not respond" in not_one_database(mount).message
        wait_until(lambda: bool(is_directory(mount)))


@pytest.mark.root
def test_private_directory_of_app_is_searched_with_rights_of_owner(data: Path) -> None:
    database = make_database(data / "app" / "tasks.db")
    for path in (data, data / "app", database):
        os.chown(path, 4711, 4711)
        path.chmod(0o600 if path == database else 0o700)
    assert find_database(data) == database
    assert os.geteuid() == 0
