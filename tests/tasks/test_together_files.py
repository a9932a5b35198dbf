"""Databases and sets of files in one run: no row of the copy lacks its file, and a restore point holds both."""

import gzip
import os
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from backupd.model import NoProgress
from backupd.report import BackupDetails, RunReport
from backupd.sqlite.target import restore_lock
from backupd.tasks.backup import Backups, back_up_together
from backupd.tasks.files.backup import SetsOfRun
from backupd.tasks.requests import AnyBackupRequest, BackupRequest
from support.bank import make_bank
from support.command import Backupd
from support.file_sets import FileSet
from support.processes import children_of, command_line
from support.uploading_app import uploading_app

ROUNDS = 5
QUERY = "SELECT path FROM uploads"
Looking = Callable[[int, sqlite3.Connection], None]

pytestmark = pytest.mark.cover_processes  # a child walks the directory, and looks again


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    return FileSet(tmp_path / "app")


def database(files: FileSet) -> BackupRequest:
    return BackupRequest("app", files.root / "app.db", reserve_bytes=0, retention=None)


def run(files: FileSet, *orders: AnyBackupRequest) -> Backups:
    return back_up_together(orders, files.context, tuple(order.source for order in orders))


def make_app(files: FileSet, *names: str) -> None:
    """Make an app that names files in its database."""
    with closing(sqlite3.connect(files.root / "app.db")) as app, app:
        app.execute("CREATE TABLE uploads(path TEXT)")
        app.executemany("INSERT INTO uploads VALUES (?)", [(name,) for name in names])


def lacking(files: FileSet, report: RunReport[BackupDetails], listed: RunReport[BackupDetails], to: Path) -> set[str]:
    """Return the files that the archive of a database names, and that the set does not have as the app wrote them."""
    assert report.details.archive_path is not None
    to.write_bytes(gzip.decompress(Path(report.details.archive_path).read_bytes()))
    with closing(sqlite3.connect(to)) as copy:
        rows = {path for (path,) in copy.execute(QUERY)}
    assert len(rows) >= 100
    contents = files.restored(listed.generation or "")
    return {path for path in rows if contents.get(path) != (path * 50).encode()}


@pytest.mark.no_cover
def test_no_row_lacks_its_file_in_points_of_an_app_that_writes_all_the_time(files: FileSet, tmp_path: Path) -> None:
    with uploading_app(files.root):
        for _ in range(ROUNDS):
            asking = replace(files.request, database="app", query=QUERY, retention=None)
            done = run(files, database(files), asking)
            rows, listed = done.reports
            assert [rows.outcome, listed.outcome] == ["published", "published"], done.reports
            assert listed.warnings == ()
            assert done.point is not None
            assert {part.kind for part in done.point.parts} == {"database", "files"}
            assert lacking(files, rows, listed, tmp_path / "restored.db") == set()


@contextmanager
def looking(files: FileSet, before: Looking, after: Looking) -> Iterator[sqlite3.Connection]:
    """Let an app do something `before` and `after` each look at its files, whose number it gets."""
    looks, look = count(1), SetsOfRun.rescan
    with closing(sqlite3.connect(files.root / "app.db")) as app, pytest.MonkeyPatch.context() as patch:
        app.execute("PRAGMA journal_mode = wal")

        def watched(sets: SetsOfRun) -> None:
            number = next(looks)
            before(number, app)
            look(sets)
            after(number, app)

        patch.setattr(SetsOfRun, "rescan", watched)
        yield app


def copied_rows(report: RunReport[BackupDetails], to: Path) -> set[str]:
    assert report.details.archive_path is not None
    to.write_bytes(gzip.decompress(Path(report.details.archive_path).read_bytes()))
    with closing(sqlite3.connect(to)) as copy:
        return {path for (path,) in copy.execute(QUERY)}


def test_file_that_comes_just_before_the_pin_and_goes_just_after_is_not_missed(files: FileSet, tmp_path: Path) -> None:
    files.write("stays")
    make_app(files, "stays")

    def upload(look: int, app: sqlite3.Connection) -> None:
        if look == 1:
            files.write("short")
            with app:
                app.execute("INSERT INTO uploads VALUES ('short')")

    def delete(look: int, app: sqlite3.Connection) -> None:
        if look == 2:
            with app:
                app.execute("DELETE FROM uploads WHERE path = 'short'")
            (files.path / "short").unlink()

    with looking(files, delete, upload):
        rows, listed = run(files, database(files), files.request).reports
    assert (rows.outcome, listed.outcome) == ("published", "published")
    assert copied_rows(rows, tmp_path / "copy.db") == {"stays"}
    assert set(files.restored(listed.generation or "")) == {"stays"}
    assert not [note for note in listed.notes if "written to" in note]


def test_app_that_writes_at_each_pin_is_named_with_the_time_that_a_file_must_have_been_there(files: FileSet) -> None:
    make_app(files)
    looks = list[int]()

    def write(look: int, app: sqlite3.Connection) -> None:
        looks.append(look)
        with app:
            app.execute("INSERT INTO uploads VALUES (?)", (str(look),))

    with looking(files, write, lambda _look, _app: None):
        rows, listed = run(files, database(files), replace(files.request, database="app")).reports
    assert (rows.outcome, listed.outcome) == ("published", "published")
    assert 3 <= len(looks) <= 6
    (note,) = (note for note in listed.notes if "written to" in note)
    assert re.match(r"app was written to whenever it was pinned: .* deleted within \d+ ms at that moment", note)


def test_point_holds_database_and_files_and_unchanged_ones_make_no_other(files: FileSet) -> None:
    files.write("cat.jpg")
    make_app(files, "cat.jpg")
    first = run(files, database(files), files.request)
    assert first.point is not None
    assert first.point.generations == {report.generation for report in first.reports}
    database_part, files_part = first.point.parts
    assert (database_part.kind, files_part.kind) == ("database", "files")
    assert files_part.since <= database_part.since <= database_part.until <= files_part.until
    again = run(files, database(files), files.request)
    assert [report.outcome for report in again.reports] == ["unchanged", "unchanged"]
    assert again.point == first.point
    files.write("dog.jpg")
    changed = run(files, database(files), files.request)
    assert [report.outcome for report in changed.reports] == ["unchanged", "published"]
    assert changed.point is not None
    assert changed.point != first.point


def test_file_that_database_names_and_copy_lacks_degrades_the_files_and_is_named(files: FileSet) -> None:
    files.write("cat.jpg")
    there = ("cat.jpg", str(files.path / "cat.jpg"), "./cat.jpg")
    make_app(files, *there, "lost-1", "lost-2", "lost-3", "lost-4", "/outside/of/it")
    asking = replace(files.request, database="app", query=QUERY)
    done = run(files, database(files), asking)
    assert [report.outcome for report in done.reports] == ["published", "degraded"]
    missing = "/outside/of/it, lost-1, lost-2 and 2 more"
    assert done.reports[1].warnings == (f"app names 5 files that uploads does not have: {missing}",)
    assert done.point is not None, "what there is, is a restore point all the same"


def test_row_without_a_file_names_none(files: FileSet) -> None:
    files.write("cat.jpg")
    make_app(files, "cat.jpg", "")
    done = run(files, database(files), replace(files.request, database="app", query=f"{QUERY} UNION SELECT NULL"))
    assert [(report.outcome, report.warnings) for report in done.reports] == [("published", ())] * 2


def test_query_that_no_database_answers_degrades_backup_and_drill(tmp_path: Path) -> None:
    data, config = tmp_path / "data", tmp_path / "backupd.toml"
    (data / "uploads").mkdir(parents=True)
    for name in ("one.db", "two.db"):
        make_bank(data / name, rows=2)
    config.write_text(
        f'backups_dir = "{tmp_path}/backups"\n[sources.app]\npath = "{data}"\nexclude = ["uploads/"]\n'
        f'[files.uploads]\npath = "{data}/uploads"\nquery = "{QUERY}"\n[space]\nreserve = "0"\n'
    )
    backupd = Backupd({"BACKUPD_CONFIG": str(config)}, tmp_path)
    why = "files.uploads.query was not run: set files.uploads.with to the source whose database it reads"
    for command in ("backup", "drill"):
        done = backupd(command)
        assert (done.code, why in done.err) == (3, True), done


def test_query_that_fails_degrades_the_files_and_database_is_published(files: FileSet) -> None:
    files.write("cat.jpg")
    make_app(files)
    asking = replace(files.request, database="app", query="SELECT path FROM elsewhere")
    done = run(files, database(files), asking)
    assert [report.outcome for report in done.reports] == ["published", "degraded"]
    assert done.reports[1].warnings[0].startswith("files.uploads.query failed: the copy cannot be queried")
    assert "no such table: elsewhere" in done.reports[1].warnings[0]
    assert done.point is not None


def test_database_whose_pin_is_lost_after_the_files_were_looked_at_degrades_them(files: FileSet) -> None:
    files.write("cat.jpg")
    make_app(files, "cat.jpg")

    class Kill(NoProgress):
        """Kills the process that holds the pin before the copy."""

        def stage(self, name: str, _total_bytes: int) -> None:
            for pid in children_of(os.getpid()) if name == "copy" else ():
                if b"pinned_sources" in command_line(pid):
                    os.kill(pid, signal.SIGKILL)

    files.context = replace(files.context, progress=Kill())
    done = run(files, database(files), files.request)
    assert [report.outcome for report in done.reports] == ["published", "degraded"]
    assert done.reports[1].warnings == ("app was copied after uploads: its newest rows may lack their files",)


def test_what_a_killed_restore_unpacked_is_removed_and_not_taken_for_a_file(files: FileSet) -> None:
    make_app(files)
    whole = replace(files.request, path=files.root, databases=(files.root / "app.db",), exclude=("uploads/",))
    unpacked = files.root / ".app.db.0badf00d.part"
    unpacked.write_bytes((files.root / "app.db").read_bytes())
    with restore_lock(files.root / "app.db"):
        run(files, database(files))
        assert unpacked.exists(), "a restore is running"
    done = run(files, database(files), whole)
    assert [(report.outcome, report.warnings) for report in done.reports] == [("unchanged", ()), ("published", ())]
    assert not unpacked.exists()


def test_missing_directory_of_files_fails_alone(files: FileSet) -> None:
    make_app(files)
    files.path.rmdir()
    done = run(files, database(files), files.request)
    assert [report.outcome for report in done.reports] == ["published", "failed"]
    assert done.reports[1].error == f"no directory at {files.path}"
    assert done.point is None
    assert files.context.store.points() == ()
    assert done.reports[0].notes == ("there is no restore point of this run: it has nothing of uploads",)


def test_failed_database_leaves_files_published(files: FileSet) -> None:
    files.write("cat.jpg")
    done = run(files, database(files), files.request)
    assert [report.outcome for report in done.reports] == ["failed", "published"]


def test_command_backs_up_databases_and_files_as_one_point(tmp_path: Path) -> None:
    data, config = tmp_path / "data", tmp_path / "backupd.toml"
    (data / "uploads").mkdir(parents=True)
    (data / "uploads" / "cat.jpg").write_bytes(b"cat")
    make_bank(data / "tasks.db", rows=10)
    config.write_text(
        f'backups_dir = "{tmp_path}/backups"\n[sources.tasks]\npath = "{data}/tasks.db"\n'
        f'[files.uploads]\npath = "{data}/uploads"\n[space]\nreserve = "0"\n'
    )
    backupd = Backupd({"BACKUPD_CONFIG": str(config)}, tmp_path)
    done = backupd("backup")
    assert done.code == 0, done.err
    assert ": 2 sources, " in done.out
    assert "  size     3 B, nothing " not in done.out
    assert len([*(tmp_path / "backups").glob("point-*.point.json")]) == 1
    alone = backupd("backup", "--source", "uploads", "--json")
    assert (alone.json["source"], alone.json["outcome"]) == ("uploads", "unchanged")
    assert "  size     3 B, nothing added to the store\n" in backupd("backup", "--source", "uploads").out


def test_set_of_files_alone_makes_no_point_and_its_query_waits_for_the_database(files: FileSet) -> None:
    files.write("cat.jpg")
    make_app(files, "cat.jpg")
    config = files.root / "backupd.toml"
    config.write_text(
        f'backups_dir = "{files.root}/backups"\n[sources.app]\npath = "{files.root}/app.db"\n'
        f'[files.uploads]\npath = "{files.path}"\nquery = "{QUERY}"\n[space]\nreserve = "0"\n'
    )
    backupd = Backupd({"BACKUPD_CONFIG": str(config)}, files.root)
    alone = backupd("backup", "--source", "uploads", "--no-pin", "--json").json
    assert (alone["outcome"], alone["files"], alone["new_files"]) == ("published", 1, 1)
    assert files.context.store.points() == ()
    shown = backupd("backup", "--source", "uploads", "--no-pin").out
    assert "files    1 file" in shown
    assert "note     files.uploads.query is checked when its database is backed up in the same run" in shown
