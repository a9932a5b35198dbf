"""`doctor` names databases and files beside the sources that no backup covers."""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backupd.sqlite.discovery import Search
from backupd.tasks.doctor.local import find_uncovered


def make_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE task(id)")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The volume of an app: a database with backups beside it."""
    make_database(tmp_path / "data" / "tasks.db")
    make_database(tmp_path / "data" / "backups" / ".backupd" / "catalog.sqlite3")
    (tmp_path / "data" / "backups" / "tasks-20261123-0400.sqlite3.gz").write_bytes(b"archive")
    return tmp_path / "data"


def findings(data: Path, *others: Path) -> list[str]:
    return [finding.detail for finding in find_uncovered([data / "tasks.db", *others], data / "backups")]


def test_database_alone_with_its_backups_and_side_files_has_no_finding(data: Path) -> None:
    for name in ("tasks.db-wal", "tasks.db-shm", "tasks.db.pre-restore-20261125T031500Z", ".tasks.db.restore"):
        (data / name).write_bytes(b"x")
    assert findings(data) == []


def test_other_databases_and_files_are_counted_and_named(data: Path) -> None:
    for name in ("cache.db", "a/queue.db", "b/1.db", "b/2.db"):
        make_database(data / name)
    (data / "uploads").mkdir()
    for number in range(5):
        (data / "uploads" / f"{number}.jpg").write_bytes(b"x" * 1000)
    named, files = findings(data)
    assert named == f"4 databases in {data} without a backup: a/queue.db, b/1.db, b/2.db and 1 more"
    assert files == f"5 other files in {data}, 4.9 KiB: uploads/ 5"


def test_database_that_is_a_source_itself_is_not_named(data: Path) -> None:
    assert findings(data, make_database(data / "other" / "notes.db")) == []


@pytest.mark.parametrize("name", ["rsa_key.pem", "master.key", ".env", "config/secret_key_base"])
def test_key_beside_a_database_is_named_and_is_no_other_file(data: Path, name: str) -> None:
    (data / name).parent.mkdir(exist_ok=True)
    (data / name).write_bytes(b"x")
    (data / ".hidden").write_bytes(b"x")
    assert findings(data) == [f"{name} in {data} may be a key of the app, and has no backup"]


def test_certificates_deep_in_a_tree_are_other_files(data: Path) -> None:
    (data / "gems" / "openssl").mkdir(parents=True)
    (data / "gems" / "openssl" / "ca.pem").write_bytes(b"x")
    assert findings(data) == [f"1 other file in {data}, 1 B: gems/ 1"]


def test_all_that_has_no_backup_is_a_warning_and_names_the_largest_directories(data: Path) -> None:
    for directory, files in (("a", 1), ("b", 3), ("c", 2), ("d", 1), ("", 2)):
        (data / directory).mkdir(exist_ok=True)
        for number in range(files):
            (data / directory / f"{number}.jpg").write_bytes(b"x")
    (found,) = find_uncovered([data / "tasks.db"], data / "backups")
    assert found.detail == f"9 other files in {data}, 9 B: b/ 3, c/ 2, a/ 1"
    assert (found.ok, found.warning) == (True, True)
    assert f"[files.NAME] path = {data}/b" in found.hint


def test_what_a_search_excludes_or_files_cover_has_no_finding(data: Path) -> None:
    make_database(data / "storage" / "main.db")
    make_database(data / "tmp" / "x.db")
    (data / "uploads").mkdir()
    (data / "uploads" / "1.jpg").write_bytes(b"x")
    search = Search("app", data, exclude=("tmp/", "tasks.db"))

    def details(*covered: Path) -> list[str]:
        found = find_uncovered([data / "storage" / "main.db"], data / "backups", [search], covered)
        return [finding.detail for finding in found]

    assert details(data / "uploads") == []
    assert details() == [f"1 other file in {data}, 1 B: uploads/ 1"]


def test_links_pipes_and_unreadable_directories_are_skipped(data: Path, tmp_path: Path) -> None:
    make_database(tmp_path / "elsewhere" / "secret.db")
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (data / "link.db").symlink_to(tmp_path / "elsewhere" / "secret.db")
    os.mkfifo(data / "pipe")
    assert findings(data) == []
    assert findings(tmp_path / "missing") == []


def test_files_below_depth_limit_are_not_counted_and_count_is_at_least(data: Path) -> None:
    make_database(data.joinpath(*"123456", "deep.db"))
    (data / "near.txt").touch()
    assert findings(data) == [f"at least 1 other file in {data}"]


def test_directory_with_more_files_than_limit_is_counted_as_at_least(data: Path) -> None:
    (data / "uploads").mkdir()
    for number in range(10_001):
        (data / "uploads" / str(number)).touch()
    (found,) = findings(data)
    assert re.fullmatch(rf"at least (10000|99\d\d) other files in {data}", found)


def test_link_loop_in_place_of_databases_has_no_finding(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").symlink_to("other.db")
    (tmp_path / "other.db").symlink_to("tasks.db")
    assert [*find_uncovered([tmp_path / "tasks.db"], tmp_path / "tasks.db")] == []
