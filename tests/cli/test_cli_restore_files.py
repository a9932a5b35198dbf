"""`backupd restore --point` with a set of files: database and files come back as one, and go back as one."""

import gzip
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.log import null_log
from backupd.masking import Mask
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import FilesRequest
from support.bank import make_bank, spend, transfers
from support.directories import kept_databases
from support.points import publish_point
from support.put_back import facts


@dataclass(frozen=True)
class App:
    """An app of a database and its uploads, with a restore point of both; both were written to since."""

    root: Path
    point: str
    typed: Keyboard

    @property
    def uploads(self) -> Path:
        return self.root / "data" / "uploads"

    @property
    def database(self) -> Path:
        return self.root / "data" / "tasks.db"

    @property
    def kept(self) -> list[Path]:
        return sorted(self.uploads.glob(".backupd-kept-*"))


@pytest.fixture
def app(tmp_path: Path) -> App:
    data, config = tmp_path / "data", tmp_path / "backupd.toml"
    data.mkdir()
    make_bank(data / "tasks.db", rows=50)
    (data / "uploads" / "2026").mkdir(parents=True)
    (data / "uploads" / "2026" / "cat.jpg").write_bytes(b"cat" * 9999)
    (data / "uploads" / "dog.jpg").write_bytes(os.urandom(2_000_000))
    (data / "uploads" / "latest").symlink_to("dog.jpg")
    config.write_text(
        f'backups_dir = "{tmp_path}/backups"\n[sources.tasks]\npath = "{data}/tasks.db"\n'
        f'[files.uploads]\npath = "{data}/uploads"\nexclude = ["*.tmp"]\n[space]\nreserve = "0"\n'
    )
    typed = Keyboard({"BACKUPD_CONFIG": str(config)})
    database = typed("backup", "--source", "tasks", "--json").json["generation"]
    generation = back_up(tmp_path)
    return App(tmp_path, publish_point(tmp_path / "backups", [database, generation]), typed)


def back_up(root: Path) -> str:
    """Back up the uploads; return the generation."""
    request = FilesRequest("uploads", root / "data" / "uploads", exclude=("*.tmp",), reserve_bytes=0)
    report = backup(request, TaskContext(DirectoryStore("local", root / "backups"), null_log(Mask([]))))
    assert report.generation is not None, report
    return report.generation


def change(app: App) -> None:
    spend(app.database, 2)
    (app.uploads / "2026" / "cat.jpg").unlink()
    (app.uploads / "dog.jpg").write_bytes(b"dog")
    (app.uploads / "new.jpg").write_bytes(b"new")
    (app.uploads / "half.tmp").write_bytes(b"half")


def test_point_puts_database_and_files_back_and_undo_takes_both_back(app: App) -> None:
    before = facts(app.uploads)
    change(app)
    changed, rows = facts(app.uploads, inodes=True), transfers(app.database)
    done = app.typed("restore", "--point", "latest", "--json")
    assert done.code == 0, done
    assert [part["source"] for part in done.json["parts"]] == ["tasks", "uploads"]
    assert done.json["parts"][1]["kept"] == str(*app.kept)
    now = facts(app.uploads)
    assert {name: now[name] for name in before} == before
    assert set(now) - set(before) == {b"new.jpg", b"half.tmp"}
    assert transfers(app.database) == 0
    assert app.typed("restore", "--undo").code == 0
    assert (facts(app.uploads, inodes=True), transfers(app.database)) == (changed, rows)
    assert app.typed("restore", "--redo").code == 0
    assert facts(app.uploads)[b"dog.jpg"] == before[b"dog.jpg"]
    assert transfers(app.database) == 0


def test_exact_removes_what_is_not_in_the_copy_but_not_what_is_excluded(app: App) -> None:
    before = facts(app.uploads)
    change(app)
    (app.uploads / "lost+found").mkdir(mode=0o700)
    done = app.typed("restore", "--point", app.point, "--exact")
    assert done.code == 0, done
    assert "1 missing, 1 differing, 1 not in the copy: 2 files" in done.out
    assert set(facts(app.uploads)) == {*before, b"half.tmp", b"lost+found"}
    (kept,) = app.kept
    assert (kept / "old" / "new.jpg").read_bytes() == b"new"


def test_directory_that_is_missing_is_said_to_count_once(app: App) -> None:
    (app.uploads / "2026" / "kitten.jpg").write_bytes(b"kitten")
    assert app.typed("backup").code == 0
    shutil.rmtree(app.uploads / "2026")
    done = app.typed("restore", "--point", "latest")
    assert done.code == 0, done
    assert "  changes  1 missing (a directory counts once), 0 differing: 2 files " in done.out


def test_dry_run_shows_the_changes_and_makes_none(app: App) -> None:
    change(app)
    before = facts(app.uploads, inodes=True)
    done = app.typed("restore", "--point", "latest", "--dry-run", "--json")
    files = done.json["parts"][1]
    assert (files["missing"], files["differing"], files["unchanged"]) == (1, 1, 1)
    assert facts(app.uploads, inodes=True) == before
    assert app.kept == []


def test_restore_that_changes_no_file_leaves_nothing_behind_and_is_taken_back_with_its_database(app: App) -> None:
    before = facts(app.uploads, inodes=True)
    spend(app.database, 2)
    rows = transfers(app.database)
    done = app.typed("restore", "--point", "latest")
    assert done.code == 0, done
    assert "  changes  0 missing, 0 differing" in done.out
    assert "undo of all: backupd restore --undo" in done.out
    assert (facts(app.uploads, inodes=True), app.kept, transfers(app.database)) == (before, [], 0)
    alone = app.typed("restore", "--point", "latest", "--only", "uploads", "--json")
    assert (alone.code, alone.json["parts"][0]["kept"], alone.json["undo"]) == (0, None, None)
    back = app.typed("restore", "--undo")
    assert (back.code, transfers(app.database)) == (0, rows), back
    assert (facts(app.uploads, inodes=True), app.kept) == (before, [])


def test_size_of_set_is_that_of_its_files(app: App) -> None:
    listed = {line.split()[0].split("-")[0]: line for line in app.typed("list").out.splitlines()[1:]}
    assert " 1.9 MiB  full " in listed["uploads"]
    assert ", 2 files (1.9 MiB)\n" in app.typed("status").out


def test_set_of_files_is_restored_with_the_command_of_the_hint(app: App) -> None:
    change(app)
    refused = app.typed("restore", "latest", "--source", "uploads")
    assert (refused.code, "error: uploads is a set of files, not a database" in refused.err) == (2, True)
    assert "backupd restore --point latest --only uploads" in refused.err
    assert app.typed("restore", "--point", "latest", "--only", "uploads").code == 0


def test_set_that_was_never_backed_up_is_no_database_in_status_and_doctor(app: App) -> None:
    shutil.rmtree(app.uploads)
    shutil.rmtree(app.root / "backups")
    assert app.typed("backup").code == 1
    said = app.typed("status").out
    assert "the directory of uploads is missing: no backup can be made" in said
    assert "database of" not in said


def test_doctor_names_set_of_files_whose_pruning_is_on_hold(app: App) -> None:
    for number in range(40):
        (app.uploads / f"{number}.txt").write_text(str(number))
    assert app.typed("backup").code == 0
    for number in range(40):
        (app.uploads / f"{number}.txt").unlink()
    app.typed("backup", BACKUPD_SHRINK_GUARD__MIN_ROWS="9")
    (held,) = [one for one in app.typed("doctor", "--json").json if one["check"] == "pruning"]
    assert held["hint"] == "check the directory, then: backupd prune --unfreeze --source uploads"
    assert "the directory of uploads has shrunk" in app.typed("status").out


def test_only_files_leaves_the_database_alone(app: App) -> None:
    before = facts(app.uploads)
    change(app)
    rows = transfers(app.database)
    assert app.typed("restore", "--point", "latest", "--only", "uploads").code == 0
    assert facts(app.uploads)[b"dog.jpg"] == before[b"dog.jpg"]
    assert transfers(app.database) == rows
    assert app.typed("restore", "--undo").code == 0
    assert (app.uploads / "dog.jpg").read_bytes() == b"dog"


def test_files_of_a_point_are_taken_back_alone(app: App) -> None:
    before = facts(app.uploads)
    change(app)
    changed = facts(app.uploads, inodes=True)
    assert app.typed("restore", "--point", "latest").code == 0
    back = app.typed("restore", "--undo", "--source", "uploads")
    assert back.code == 0, back
    assert (facts(app.uploads, inodes=True), transfers(app.database)) == (changed, 0)
    whole = app.typed("restore", "--undo")
    assert (whole.code, "uploads was restored or taken back since" in whole.err) == (1, True)
    assert app.typed("restore", "--redo", "--source", "uploads").code == 0
    assert facts(app.uploads)[b"dog.jpg"] == before[b"dog.jpg"]


def test_damaged_content_restores_nothing(app: App) -> None:
    change(app)
    for path in (app.root / "backups" / "files").rglob("*"):
        if path.is_file() and path.stat().st_size > 1_000_000:
            path.write_bytes(b"\0" + path.read_bytes()[1:])
    before, rows = facts(app.uploads, inodes=True), transfers(app.database)
    done = app.typed("restore", "--point", "latest")
    assert done.code == 1
    assert "'dog.jpg'" in done.err
    assert "use another restore point (backupd list --points), or this one from another store" in done.err
    assert (facts(app.uploads, inodes=True), transfers(app.database)) == (before, rows)
    assert kept_databases(app.database) == ()
    assert app.kept == []


def test_empty_machine_gets_database_and_files(app: App) -> None:
    before = facts(app.uploads)
    (app.root / "data").rename(app.root / "gone")
    (app.root / "data").mkdir()
    done = app.typed("restore", "--point", "latest", "--if-missing")
    assert done.code == 0, done
    assert facts(app.uploads) == before
    assert transfers(app.database) == 0
    assert app.kept == [], "nothing was there before"
    assert "--undo" not in done.out, "nothing was there that could come back"


def test_undo_is_not_offered_where_a_database_was_missing(app: App) -> None:
    app.database.rename(app.root / "gone.db")
    done = app.typed("restore", "--point", "latest")
    assert (done.code, "--undo" in done.out) == (0, False), done
    assert app.typed("restore", "--undo").code == 1


def test_exact_leaves_a_database_alone_whose_path_begins_with_dots(app: App) -> None:
    place = app.uploads / "..data" / "notes.db"
    place.parent.mkdir()
    make_bank(place, rows=5)
    config = app.root / "backupd.toml"
    config.write_text(f'{config.read_text()}[sources.notes]\npath = "{place}"\n')
    assert app.typed("restore", "--point", "latest", "--exact").code == 0
    assert transfers(place) == 0


def test_clean_removes_what_restores_replaced_once_it_is_old(app: App) -> None:
    change(app)
    for _ in range(2):
        assert app.typed("restore", "--point", "latest").code == 0
        (app.uploads / "dog.jpg").write_bytes(b"dog")
    older, newer = app.kept
    doctor = app.typed("doctor", "--json")
    assert sum("is what a restore replaced" in finding["detail"] for finding in doctor.json) == 4
    assert app.typed("clean", "--source", "uploads").code == 0
    assert app.kept == [older, newer]
    cleaned = app.typed("clean", "--source", "uploads", "--older-than", "0d", "--json")
    assert [(one["path"], one["action"]) for one in cleaned.json] == [(str(older), "remove"), (str(newer), "keep")]
    assert app.kept == [newer]


def test_backup_leaves_out_what_restores_kept(app: App) -> None:
    change(app)
    assert app.typed("restore", "--point", "latest").code == 0
    listed = app.root / "backups" / f"{back_up(app.root)}.files.gz"
    assert b".backupd" not in gzip.decompress(listed.read_bytes())


def test_point_comes_back_from_a_replica(app: App) -> None:
    offsite = app.root / "offsite"
    shutil.copytree(app.root / "backups", offsite, ignore=shutil.ignore_patterns(".backupd", "backup.log"))
    config = app.root / "backupd.toml"
    config.write_text(f'{config.read_text()}[replicas.offsite]\nurl = "file://{offsite}"\n')
    before = facts(app.uploads)
    change(app)
    done = app.typed("restore", "--point", "latest", "--from", "offsite", "--exact")
    assert done.code == 0, done
    assert set(facts(app.uploads).items()) >= set(before.items())
