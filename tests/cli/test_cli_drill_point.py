"""`backupd drill` and `doctor` of a whole app: two databases, and the files that one of them names."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from keyboard import Keyboard

from support.bank import make_bank


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of an app that was backed up as a restore point."""
    for name in ("tasks", "notes"):
        make_bank(tmp_path / f"{name}.db", rows=10)
    uploads = tmp_path / "uploads"
    (uploads / "2026").mkdir(parents=True)
    (uploads / "2026" / "cat.jpg").write_bytes(b"cat" * 1000)
    (uploads / "note.txt").write_bytes(b"note")
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as app, app:
        app.execute("CREATE TABLE attachments(path)")
        app.executemany("INSERT INTO attachments VALUES (?)", [("2026/cat.jpg",), (str(uploads / "note.txt"),)])
    path = tmp_path / "backupd.toml"
    path.write_text(
        f"backups_dir = '{tmp_path}/backups'\n[space]\nreserve = 0\n"
        f"[sources.tasks]\npath = '{tmp_path}/tasks.db'\n[sources.notes]\npath = '{tmp_path}/notes.db'\n"
        f"[files.uploads]\npath = '{uploads}'\nwith = 'tasks'\nquery = 'SELECT path FROM attachments'\n"
    )
    done = Keyboard({"BACKUPD_CONFIG": str(path)})("backup")
    assert done.code == 0, done
    return path


def remove_note(place: Path) -> None:
    """Remove the content of note.txt from the store."""
    for path in (place / "backups" / "files").rglob("*"):
        if path.is_file() and path.stat().st_size < 100 and path.suffix != ".gz":
            path.unlink()


def test_doctor_looks_at_directory_of_each_set_of_files(config: Path, tmp_path: Path) -> None:
    typed = Keyboard({"BACKUPD_CONFIG": str(config)})
    assert f"ok     files uploads: {tmp_path}/uploads: uid " in typed("doctor").out
    (tmp_path / "uploads").rename(tmp_path / "elsewhere")
    found = typed("doctor")
    assert found.code == 1
    assert f"wrong  files uploads: no directory at {tmp_path}/uploads" in found.out


def test_whole_app_is_drilled_and_files_that_it_lacks_are_named(config: Path, tmp_path: Path) -> None:
    typed = Keyboard({"BACKUPD_CONFIG": str(config)})
    done = typed("drill", "--json")
    assert (done.code, [report["source"] for report in done.json]) == (0, ["tasks", "notes", "uploads"]), done
    (point,) = {report["drill"]["point"] for report in done.json}
    assert point.startswith("point-")
    uploads = done.json[2]["drill"]
    assert (uploads["files"], uploads["files_missing"]) == (2, 0)
    assert uploads["proven"] == ["digests", "contents", "references"]
    plain = typed("drill")
    assert f"  point    {point}" in plain.out
    assert "  files    2 files, 2.9 KiB" in plain.out
    assert plain.out.count("  note  ") == 1, "what is true of all sources is said once"
    remove_note(tmp_path)
    failed = typed("drill")
    assert failed.code == 1
    assert "1 of 2 files cannot be restored from local: 'note.txt': " in failed.err
    assert "tasks: tasks-" in failed.out, "the others can be restored"


def test_set_of_files_alone_is_drilled_with_database_that_names_its_files(config: Path) -> None:
    typed = Keyboard({"BACKUPD_CONFIG": str(config)})
    both = typed("drill", "--source", "uploads", "--json")
    assert (both.code, [report["source"] for report in both.json]) == (0, ["tasks", "uploads"]), both
    assert "references" in both.json[1]["drill"]["proven"]
    (one,) = typed("drill", "--source", "notes", "--json").json
    assert (one["source"], one["drill"]["point"]) == ("notes", None)
    assert typed("drill", "--source", "nothing").code == 2
