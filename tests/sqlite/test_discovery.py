"""The databases below a directory are found beside any planted files, by their header, a pattern and excludes."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backupd.errors import SourceMissing, SourceUnusable
from backupd.sqlite import discovery
from backupd.sqlite.discovery import Search, is_directory
from backupd.system import mounts
from support.directories import through_fuse
from support.processes import serving, stopped, wait_until


def make_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE task(id)")
    return path


def found(directory: Path, pattern: str = "", *exclude: str) -> list[str] | None:
    contents = Search("app", directory, pattern, exclude).contents()
    return contents.databases if contents else None


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("name", ["tasks.db", "gitea/gitea.db", "a/b/c/d/e/app.sqlite", "noname"])
def test_database_is_found_by_its_header(data: Path, name: str) -> None:
    make_database(data / name)
    (data / "other.db").write_bytes(b"not SQLite at all")
    (data / "empty.db").touch()
    assert found(data) == [name]


def test_side_files_copies_and_hidden_directories_are_left_out(data: Path) -> None:
    make_database(data / "tasks.db")
    for name in (
        *(".hidden.db", ".cache/x.db", "backups/tasks.db", "files/backup/tasks.db", "tasks.db-wal"),
        *("tasks.db.pre-restore-20261125T031500Z", "backups/.backupd/catalog.sqlite3"),
    ):
        make_database(data / name)
    assert found(data) == ["tasks.db"]


def test_directory_without_database_is_reported_missing_with_hint(data: Path) -> None:
    assert found(data) == []
    error = Search("app", data).failure()
    assert isinstance(error, SourceMissing)
    assert error.message == f"{data} is a directory without a SQLite database, 5 directories deep"
    assert f"{data}/FILE" in error.hint


def test_pattern_without_database_is_reported_missing_with_it(data: Path) -> None:
    make_database(data / "a.db")
    error = Search("app", data, "*/*.sqlite3").failure()
    assert isinstance(error, SourceMissing)
    assert error.message == f"no SQLite database matches {data}/*/*.sqlite3"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.db", ["a.db"]),
        ("**/*.db", ["a.db", "b/c.db", "b/d/e.db"]),
        ("b/**", ["b/c.db", "b/d/e.db", "b/f.sqlite3"]),
        ("*/?.db", ["b/c.db"]),
        ("[ab]/[!c]*", ["b/f.sqlite3"]),
        ("**/d/*", ["b/d/e.db"]),
        ("**", ["a.db", "b/c.db", "b/d/e.db", "b/f.sqlite3"]),
        ("nothing*", []),
    ],
)
def test_pattern_selects_databases_by_relative_path(data: Path, pattern: str, expected: list[str]) -> None:
    for name in ("a.db", "b/c.db", "b/d/e.db", "b/f.sqlite3"):
        make_database(data / name)
    assert found(data, pattern) == expected
    search = Search("app", data, pattern)
    assert [name for name in ("a.db", "b/c.db", "b/d/e.db", "b/f.sqlite3") if search.covers(name)] == expected


def test_excluded_databases_and_directories_are_left_out(data: Path) -> None:
    names = ("a.db", "b/a.db", "b/cache.db", "cache.db", "tmp/x.db", "tenants/1/main.db", "tenants/1/old/main.db")
    for name in names:
        make_database(data / name)
    exclude = ("cache.db", "/a.db", "tmp/", "tenants/*/old")
    assert found(data, "", *exclude) == ["b/a.db", "tenants/1/main.db"]
    search = Search("app", data, "", exclude)
    assert [name for name in names if search.covers(name)] == ["b/a.db", "tenants/1/main.db"]


def test_directories_where_nothing_can_match_or_all_is_excluded_are_not_looked_at(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_NAMES", 10)
    make_database(data / "tenants" / "main.db")
    (data / "uploads").mkdir()
    for number in range(20):
        (data / "uploads" / f"{number}.jpg").touch()
    for search in (Search("app", data, "tenants/*.db"), Search("app", data, exclude=("uploads",))):
        contents = search.contents()
        assert contents is not None
        assert contents.databases == ["tenants/main.db"]
        assert contents.complete


def test_backups_and_files_that_are_elsewhere_are_not_searched(data: Path) -> None:
    for name in ("a.db", "store/x.db", "uploads/y.db", "drill/tasks.db"):
        make_database(data / name)
    without = (data / "store", data / "uploads", data / "drill" / "tasks.db", data, data.parent)
    search = Search("app", data, without=without)
    contents = search.contents()
    assert contents is not None
    assert contents.databases == ["a.db"]
    assert [name for name in ("a.db", "store/x.db", "uploads/y.db", "drill/tasks.db") if search.covers(name)] == [
        "a.db"
    ]


def test_database_deeper_than_five_directories_is_not_found(data: Path) -> None:
    make_database(data / "1/2/3/4/5/6/app.db")
    assert found(data) == []


def test_links_pipes_and_sockets_of_a_neighbour_are_not_opened(data: Path, tmp_path: Path) -> None:
    make_database(data / "tasks.db")
    other = make_database(tmp_path / "other" / "app.db")
    (data / "link.db").symlink_to(other)
    (data / "links").symlink_to(other.parent)
    (data / "loop").symlink_to(data)
    os.mkfifo(data / "pipe.db")
    assert found(data) == ["tasks.db"]


def test_directory_with_more_names_than_limit_reports_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MAX_NAMES", 10)
    make_database(data / "0.db")
    (data / "uploads").mkdir()
    for number in range(20):
        (data / "uploads" / f"{number}.jpg").touch()
    contents = Search("app", data).contents()
    assert contents is not None
    assert contents.databases == ["0.db"]
    assert contents.too_many
    error = Search("app", data).failure()
    assert "more than 10 files and directories" in error.message
    assert "exclude" in error.hint


def test_more_databases_than_limit_are_refused_with_the_way_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MAX_DATABASES", 2)
    for name in "abc":
        make_database(data / name)
    error = Search("app", data).failure()
    assert isinstance(error, SourceUnusable)
    assert error.message == f"3 databases at {data}, more than 2"
    assert "exclude" in error.hint


def test_missing_directory_cannot_be_searched(data: Path) -> None:
    assert found(data / "missing") is None
    assert "cannot be searched: I/O error: No such file" in Search("app", data / "missing").failure().message


def test_name_that_would_control_a_terminal_is_escaped(data: Path) -> None:
    for name in ("a\x1b[2J.db", "b.db"):
        make_database(data / name)
    error = Search("", data).failure()
    assert "2 databases" in error.message
    assert error.message.isprintable()


@pytest.mark.root
def test_unresponsive_mount_is_not_waited_for_and_is_no_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_database(data / "tasks.db")
    monkeypatch.setattr(mounts, "RESPONDS_S", 0.5)
    monkeypatch.setattr(discovery, "_LOOK_S", 1.0)
    with through_fuse(data) as mount:
        assert found(mount) == ["tasks.db"]
        with stopped(serving(mount)):
            assert is_directory(mount) is None
            assert found(mount) is None
            assert "does not respond" in Search("app", mount).failure().message
        wait_until(lambda: bool(is_directory(mount)))


@pytest.mark.root
def test_private_directory_of_app_is_searched_with_rights_of_owner(data: Path) -> None:
    database = make_database(data / "app" / "tasks.db")
    for path in (data, data / "app", database):
        os.chown(path, 4711, 4711)
        path.chmod(0o600 if path == database else 0o700)
    assert found(data) == ["app/tasks.db"]
    assert os.geteuid() == 0
