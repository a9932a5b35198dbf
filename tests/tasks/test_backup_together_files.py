"""Databases and sets of files in one run: what a restore point holds of them, and what is said of each."""

import gzip
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from backupd.archive.file_list import decode_entries
from support.command import Backupd
from support.uploading_app import uploading_app

CONFIG = """
backups_dir = "{0}/backups"
[space]
reserve = 0
[sources.tasks]
path = "{0}/app.db"
[files.uploads]
path = "{0}/uploads"
query = "SELECT path FROM uploads"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "config.toml").write_text(CONFIG.format(tmp_path))
    return tmp_path


def backupd(place: Path) -> Backupd:
    return Backupd({"BACKUPD_CONFIG": str(place / "config.toml")}, place)


def make_database(place: Path, *paths: str) -> None:
    with closing(sqlite3.connect(place / "app.db")) as app, app:
        app.execute("CREATE TABLE uploads(path TEXT)")
        app.executemany("INSERT INTO uploads VALUES (?)", [(path,) for path in paths])


def reports(place: Path, *arguments: str) -> list[dict[str, object]]:
    found = json.loads(backupd(place)("backup", "--json", "--no-pin", *arguments).out)
    return found if isinstance(found, list) else [found]


def point_parts(place: Path) -> dict[str, dict[str, str]]:
    """Return the parts of the newest restore point by their sources."""
    newest = max((place / "backups").glob("*.point.json"))
    return {part["source"]: part for part in json.loads(newest.read_text())["parts"]}


def test_run_of_all_makes_a_point_of_database_and_files(place: Path) -> None:
    (place / "uploads" / "a").write_text("content")
    make_database(place, "a", str(place / "uploads" / "a"), "./a")
    database, files = reports(place)
    assert (database["outcome"], files["outcome"]) == ("published", "published")
    parts = point_parts(place)
    assert {name: part["kind"] for name, part in parts.items()} == {"tasks": "database", "uploads": "files"}
    assert parts["uploads"]["generation"] == files["generation"]
    assert parts["uploads"]["since"] <= parts["tasks"]["since"] <= parts["tasks"]["until"] <= parts["uploads"]["until"]
    again = reports(place)
    assert [report["outcome"] for report in again] == ["unchanged", "unchanged"]
    assert len([*(place / "backups").glob("*.point.json")]) == 1


def test_files_that_the_database_names_and_nobody_has_degrade_the_run_and_are_named(place: Path) -> None:
    (place / "uploads" / "a").write_text("content")
    make_database(place, "a", "lost-1", "lost-2", "lost-3", "lost-4", "/outside/of/it")
    database, files = reports(place)
    assert database["outcome"] == "published"
    assert files["outcome"] == "degraded"
    expected = "tasks names 5 files that uploads does not have: /outside/of/it, lost-1, lost-2 and 2 more"
    assert files["warnings"] == [expected]
    assert set(point_parts(place)) == {"tasks", "uploads"}, "what there is, is a restore point all the same"


def test_query_that_cannot_run_is_said_and_the_files_are_published(place: Path) -> None:
    (place / "uploads" / "a").write_text("content")
    with closing(sqlite3.connect(place / "app.db")) as app, app:
        app.execute("CREATE TABLE other(path TEXT)")
    _, files = reports(place)
    assert files["outcome"] == "degraded"
    assert "no such table: uploads" in str(files["warnings"])


def test_set_of_files_that_is_missing_ends_no_backup_of_its_database_and_leaves_no_point(place: Path) -> None:
    make_database(place)
    (place / "uploads").rmdir()
    database, files = reports(place)
    assert database["outcome"] == "published"
    assert files["outcome"] == "failed"
    assert files["error"] == f"no directory at {place / 'uploads'}"
    assert not [*(place / "backups").glob("*.point.json")]


def test_set_of_files_can_be_backed_up_alone_and_makes_no_point(place: Path) -> None:
    (place / "uploads" / "a").write_text("content")
    make_database(place, "a")
    (files,) = reports(place, "--source", "uploads")
    assert files["outcome"] == "published"
    assert (files["files"], files["new_files"]) == (1, 1)
    assert not [*(place / "backups").glob("*.point.json")]
    shown = backupd(place)("backup", "--source", "uploads", "--no-pin").out
    assert "files    1 file" in shown
    assert "note     files.uploads.query is checked when its database is backed up in the same run" in shown


def test_no_row_of_a_point_lacks_its_file_while_the_app_writes_on(place: Path) -> None:
    with uploading_app(place):
        for _ in range(4):
            database, files = reports(place)
            assert (database["error"], files["error"]) == (None, None)
            assert files["warnings"] == []
            assert lacking(place) == set()


def lacking(place: Path) -> set[str]:
    """Return the rows of the newest point whose file it has not, or whose content is not that of the app."""
    parts = point_parts(place)
    archive = place / "backups" / f"{parts['tasks']['generation']}.sqlite3.gz"
    with tempfile.NamedTemporaryFile(dir=place) as copy:
        copy.write(gzip.decompress(archive.read_bytes()))
        copy.flush()
        with closing(sqlite3.connect(copy.name)) as restored:
            rows = {path for (path,) in restored.execute("SELECT path FROM uploads")}
    assert len(rows) >= 100
    packed = (place / "backups" / f"{parts['uploads']['generation']}.files.gz").read_bytes()
    digests = {
        entry.path.decode(): entry.digest
        for entry in decode_entries(gzip.decompress(packed).splitlines(keepends=True), "uploads")
        if entry.type == "f"
    }
    whole = set()
    for path in rows & digests.keys():
        (stored,) = (place / "backups" / "files").glob(f"*/{digests[path]}*")
        content = gzip.decompress(stored.read_bytes()) if stored.suffix else stored.read_bytes()
        if content == (path * 50).encode():
            whole.add(path)
    return rows - whole
