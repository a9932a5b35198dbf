"""`backupd restore` in place: proven first, refused while anybody has the database open, the old one kept, undoable."""

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from keyboard import Keyboard, Pair

from backupd.jobs import replace
from backupd.jobs.site import Site
from support.app import running_app
from support.bank import is_balanced
from support.command import Backupd, log_lines
from support.faults import Call, traced
from support.generations import flip_byte, manifest_of
from support.sqlite_places import read_only, small_disk, through_fuse
from support.sqlite_processes import die_in_a_transaction
from support.template import Ended


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM ledger").fetchone()[0])


def spend(path: Path, times: int = 1) -> None:
    with closing(sqlite3.connect(path)) as app, app:
        app.executemany("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)", [()] * times)


def beside(database: Path) -> set[str]:
    return {path.name for path in database.parent.iterdir()} - {database.name}


@pytest.fixture
def newer(database: Path, generation: str) -> str:
    """The digest of the database once its app has written on after the backup."""
    assert generation
    spend(database, 5)
    return sha256(database)


def test_the_generation_takes_the_place_of_the_database_and_undo_takes_it_back(
    backupd: Backupd, site: Site, database: Path, generation: str, newer: str
) -> None:
    answer = backupd("restore", "latest", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    kept = Path(facts["kept"])
    assert sha256(database) == facts["snapshot_sha256"] == manifest_of(site, generation).snapshot.sha256
    assert sha256(kept) == newer
    assert beside(database) == {kept.name}
    assert (database.stat().st_nlink, kept.stat().st_nlink) == (1, 1)
    undone = backupd(*facts["undo"].split()[1:], "--json")
    assert undone.code == 0
    assert sha256(database) == newer
    assert beside(database) == {Path(undone.json["kept"]).name}
    assert sha256(Path(undone.json["kept"])) == facts["snapshot_sha256"]


def test_people_are_told_what_was_kept_and_how_to_take_it_back(
    typed: Keyboard, database: Path, generation: str, newer: str
) -> None:
    assert newer
    said = typed("restore").out
    assert f"restored {generation} to {database}" in said
    assert f"kept     {database}.pre-restore-" in said
    assert "undo     backupd restore --undo --source tasks" in said


def test_log_and_catalog_know_of_it(typed: Keyboard, backups: Path, generation: str, newer: str) -> None:
    facts = typed("restore", "--json").json
    (line,) = [line for line in log_lines(backups) if line["event.action"] == "generation.restored"]
    assert (line["backupd.snapshot_sha256"], line["backupd.kept"]) == (facts["snapshot_sha256"], facts["kept"])
    assert sha256(Path(facts["kept"])) == newer
    assert line["backupd.undo"] == facts["undo"]
    assert f"restore of tasks: done {generation}" in log_lines(backups)[-1]["message"]
    assert any(run["task"] == "restore" for run in typed("show", generation, "--json").json["history"]["runs"])


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_an_app_that_only_has_it_open_is_reason_enough_to_refuse(
    typed: Keyboard, database: Path, newer: str, journal_mode: str
) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
    before = sha256(database)
    assert newer
    with running_app(database) as app:
        app.sql("SELECT count(*) FROM ledger")
        answer = typed("restore")
        assert answer.code == 75
        assert "is in use" in answer.err
        assert "Instance Count 0" in answer.err
        assert "docker stop" in answer.err
        assert sha256(database) == before
        assert not [name for name in beside(database) if "restore" in name or name.endswith(".part")]
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
    assert typed("restore").code == 0


def test_what_only_the_wal_of_a_dead_app_holds_is_in_the_database_that_is_kept(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    with running_app(database) as app:
        app.sql("PRAGMA wal_autocheckpoint=0")
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        app.kill()
        assert Path(f"{database}-wal").stat().st_size > 0
        facts = typed("restore", "--json").json
    assert count(Path(facts["kept"])) == 1
    assert count(database) == 0
    assert is_balanced(database)
    assert not {name for name in beside(database) if name.startswith("tasks.db-")}


def test_a_transaction_that_its_app_died_in_is_rolled_back_in_the_database_that_is_kept(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=delete")
    die_in_a_transaction(database)
    assert Path(f"{database}-journal").exists()
    facts = typed("restore", "--json").json
    assert not Path(f"{database}-journal").exists()
    assert is_balanced(database)
    with closing(sqlite3.connect(facts["kept"])) as kept:
        assert kept.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("damage", ["garbage", "cut off", "empty"])
def test_a_damaged_database_is_replaced_and_kept_as_it_was_with_its_side_files(
    typed: Keyboard, database: Path, generation: str, damage: str
) -> None:
    assert generation
    raw = {"garbage": b"no database " * 1000, "cut off": database.read_bytes()[:5000], "empty": b""}[damage]
    database.write_bytes(raw)
    Path(f"{database}-wal").write_bytes(b"what nobody can read")
    facts = typed("restore", "--json").json
    assert sha256(database) == facts["snapshot_sha256"]
    assert Path(facts["kept"]).read_bytes() == raw
    assert facts["old_damage"]
    assert not Path(f"{database}-wal").exists()
    assert typed("restore", "--undo").code == 0
    assert database.read_bytes() == raw
    if damage != "cut off":  # what SQLite can open it puts right itself
        assert Path(f"{database}-wal").read_bytes() == b"what nobody can read"


@pytest.mark.parametrize("first", ["1", "2"])
def test_a_database_that_its_disk_cannot_read_is_replaced_and_kept(
    backupd: Backupd, database: Path, generation: str, tmp_path: Path, first: str
) -> None:
    before = database.read_bytes()
    ended, calls = traced(
        backupd.environment(),
        tmp_path,
        "read,pread64",
        f"read,pread64:error=EIO:when={first}+",
        arguments=("restore", generation, "--json"),
        path=database,
    )
    assert any("(INJECTED)" in call.text for call in calls)
    assert ended.code == 0, ended
    assert ended.json["old_damage"]
    assert Path(ended.json["kept"]).read_bytes() == before
    assert sha256(database) == ended.json["snapshot_sha256"]


def test_a_disk_that_fills_up_beside_the_database_is_the_one_that_is_named(
    backupd: Backupd, database: Path, generation: str, tmp_path: Path
) -> None:
    def restored(*inject: str) -> tuple[Ended, list[Call]]:
        environ = backupd.environment()
        return traced(environ, tmp_path, "write", *inject, arguments=("restore", generation))

    restored()
    calls = restored()[1]
    number = next(call.number for call in calls if call.path.endswith(".part"))
    before = {*database.parent.iterdir()}
    ended, calls = restored(f"write:error=ENOSPC:when={number}")
    assert any("(INJECTED)" in call.text for call in calls)
    assert ended.code == 1
    assert f"the file system of {database.parent} is full" in ended.err
    assert {*database.parent.iterdir()} == before


def test_a_schema_newer_than_our_sqlite_is_no_damage(typed: Keyboard, database: Path, generation: str) -> None:
    assert generation
    with closing(sqlite3.connect(database, isolation_level=None)) as app:
        app.execute("PRAGMA writable_schema=on")
        app.execute("INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x(a) OF THE FUTURE')")
    answer = typed("restore", "--json")
    assert (answer.code, answer.json["old_damage"]) == (0, ""), answer


def test_an_old_database_that_somebody_looks_into_is_not_put_back_under_their_hands(
    typed: Keyboard, database: Path, newer: str
) -> None:
    assert newer
    kept = Path(typed("restore", "--json").json["kept"])
    restored = sha256(database)
    with running_app(kept) as looker:
        looker.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        answer = typed("restore", "--undo")
        assert (answer.code, sha256(database)) == (75, restored)
        assert f"{kept.name} is in use" in answer.err
        looker.kill()
    assert typed("restore", "--undo").code == 0
    assert count(database) == 6
    assert not [name for name in beside(database) if name.endswith(("-wal", "-shm"))]


def test_an_old_database_that_is_a_link_is_not_put_back(typed: Keyboard, database: Path, newer: str) -> None:
    database.with_name(f"{database.name}.pre-restore-99991231T235959Z").symlink_to("/etc/passwd")
    answer = typed("restore", "--undo")
    assert (answer.code, sha256(database), database.is_symlink()) == (1, newer, False)
    assert "no restore has kept it" in answer.err


def test_a_database_that_a_starting_app_makes_while_the_generation_is_unpacked_is_kept_and_told(
    typed: Keyboard, database: Path, generation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generation
    raw = database.read_bytes()
    database.unlink()
    dress = replace.dress

    def late(*arguments: Any) -> tuple[str, str]:
        database.write_bytes(raw)
        return dress(*arguments)

    monkeypatch.setattr(replace, "dress", late)
    facts = typed("restore", "--json").json
    assert Path(facts["kept"]).read_bytes() == raw
    assert facts["undo"]


def test_a_database_that_is_gone_comes_back_and_what_its_dead_app_left_is_set_aside(
    typed: Keyboard, database: Path, generation: str
) -> None:
    assert generation
    database.unlink()
    Path(f"{database}-wal").write_bytes(b"stale")
    facts = typed("restore", "--json").json
    assert (sha256(database), facts["kept"], facts["undo"]) == (facts["snapshot_sha256"], None, None)
    (aside,) = database.parent.glob("tasks.db.pre-restore-*-wal")
    assert aside.read_bytes() == b"stale"
    assert not {name for name in beside(database) if name.startswith("tasks.db-")}


@pytest.mark.root
def test_owner_mode_and_attributes_are_as_they_were(typed: Keyboard, newer: str, database: Path) -> None:
    assert newer
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # where its owner can reach it
        Path(name).chmod(0o755)
        moved = Path(shutil.copy(database, name))
        os.chown(moved, 12345, 54321)
        os.chown(name, 12345, 54321)
        moved.chmod(0o664)
        os.setxattr(moved, "user.note", b"mine")
        facts = typed("restore", "--json", BACKUPD_DATABASE=str(moved)).json
        for path in (moved, Path(facts["kept"])):
            state = path.stat()
            assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (12345, 54321, 0o664)
            assert os.getxattr(path, "user.note") == b"mine"
        assert typed("restore", "--undo", BACKUPD_DATABASE=str(moved)).code == 0
        assert sha256(moved) == newer


def test_a_generation_that_was_vacuumed_comes_back_in_the_journal_mode_of_its_app(
    typed: Keyboard, database: Path
) -> None:
    facts = typed("backup", "--json", BACKUPD_SOURCES__TASKS__METHOD="vacuum")
    assert facts.code == 0, facts.err
    spend(database)
    assert typed("restore").code == 0
    assert database.read_bytes()[18] == 2
    assert is_balanced(database)


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(
    typed: Keyboard, database: Path, newer: str, tmp_path: Path
) -> None:
    real = tmp_path / "elsewhere" / "real.db"
    real.parent.mkdir()
    shutil.move(database, real)
    database.symlink_to(real)
    facts = typed("restore", "--json").json
    assert database.is_symlink()
    assert facts["target"] == str(real)
    assert sha256(real) == facts["snapshot_sha256"] != newer
    assert sha256(Path(facts["kept"])) == newer


def test_a_second_name_of_the_database_is_refused(typed: Keyboard, database: Path, newer: str) -> None:
    os.link(database, database.with_name("other.db"))
    answer = typed("restore")
    assert (answer.code, sha256(database)) == (1, newer)
    assert "hard links" in answer.err


@pytest.mark.root
def test_a_read_only_mount_is_refused_before_anything_is_fetched(typed: Keyboard, database: Path, newer: str) -> None:
    with read_only(database.parent) as seen:
        answer = typed("restore", BACKUPD_DATABASE=str(seen / database.name))
    assert (answer.code, sha256(database)) == (1, newer)
    assert "read-only" in answer.err


@pytest.mark.root
def test_too_little_room_is_refused_with_figures(typed: Keyboard, database: Path, newer: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "300k") as place:
        moved = place / "tasks.db"
        shutil.copy(database, moved)
        answer = typed("restore", BACKUPD_DATABASE=str(moved))
        assert (answer.code, sha256(moved)) == (1, newer)
        assert {path.name for path in place.iterdir()} <= {"tasks.db", "lost+found"}
    assert "needs" in answer.err


def test_a_damaged_archive_changes_nothing_and_is_marked(
    typed: Keyboard, database: Path, backups: Path, generation: str, newer: str
) -> None:
    flip_byte(backups / f"{generation}.sqlite3.gz")
    answer = typed("restore", generation)
    assert (answer.code, sha256(database)) == (1, newer)
    assert beside(database) == set()
    assert any(line["event.action"] == "generation.damaged" for line in log_lines(backups))


def test_a_dry_run_tells_all_and_changes_nothing(typed: Keyboard, database: Path, backups: Path, newer: str) -> None:
    log = (backups / "backup.log").read_bytes()
    answer = typed("restore", "--dry-run")
    assert answer.code == 0
    assert "would restore" in answer.out
    assert (sha256(database), beside(database)) == (newer, set())
    assert (backups / "backup.log").read_bytes() == log
    with running_app(database) as app:
        app.sql("SELECT 1 FROM ledger")
        assert typed("restore", "--dry-run").code == 75
    assert typed("restore", "--undo", "--dry-run").code == 1


def test_of_several_sources_the_one_that_is_meant_must_be_named(backupd: Backupd, pair: Pair) -> None:
    configured = ("--config", pair.config)
    assert backupd("backup", *configured).code == 0
    before = sha256(pair.tasks)
    for arguments in (["restore"], ["restore", "--undo"]):
        answer = backupd(*arguments, *configured)
        assert answer.code == 2
        assert "which source" in answer.err
    spend(pair.notes)
    assert backupd("restore", "--source", "notes", *configured).code == 0
    assert sha256(pair.tasks) == before
    assert count(pair.notes) == 0


def test_a_generation_of_a_source_that_is_not_configured_is_restored_elsewhere_alone(
    backupd: Backupd, database: Path, generation: str
) -> None:
    answer = backupd("restore", generation, BACKUPD_DATABASE=str(database.with_name("other.db")))
    assert answer.code == 2
    assert "--to" in answer.err


def test_what_contradicts_itself_is_refused(typed: Keyboard, generation: str) -> None:
    for arguments in (
        ["--online", "--to", "/x"],
        ["--undo", "--online"],
        [generation, "--undo"],
        ["--undo", "--at", "2026-11-20"],
    ):
        answer = typed("restore", *arguments)
        assert answer.code == 2, arguments


def test_undo_without_a_restore_says_so(typed: Keyboard, newer: str, database: Path) -> None:
    answer = typed("restore", "--undo")
    assert (answer.code, sha256(database)) == (1, newer)
    assert "no restore has kept an old database" in answer.err


def test_the_doctor_names_old_databases_until_they_are_removed(typed: Keyboard, newer: str) -> None:
    assert newer
    kept = Path(typed("restore", "--json").json["kept"])
    said = typed("doctor").out
    assert kept.name in said
    kept.unlink()
    assert kept.name not in typed("doctor").out


@pytest.mark.root
def test_where_the_kernel_cannot_tell_who_uses_it_the_operator_has_to(
    typed: Keyboard, database: Path, newer: str, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    shutil.copy(database, real)
    with through_fuse(real) as shared:
        _only_by_word(typed, shared / "tasks.db", newer)


def _only_by_word(typed: Keyboard, moved: Path, newer: str) -> None:
    answer = typed("restore", BACKUPD_DATABASE=str(moved))
    assert (answer.code, sha256(moved)) == (1, newer)
    assert "--app-is-stopped" in answer.err
    assert typed("restore", "--app-is-stopped", BACKUPD_DATABASE=str(moved)).code == 0
    assert sha256(moved) != newer


def test_an_intent_that_is_damaged_stops_a_restore_and_only_warns_a_backup(
    typed: Keyboard, database: Path, newer: str
) -> None:
    intent = database.with_name(".tasks.db.restore")
    intent.write_text(json.dumps({"target": "tasks.db", "part": "../../etc/passwd"}))
    answer = typed("restore")
    assert (answer.code, sha256(database)) == (1, newer)
    assert "nobody can tell how far" in answer.err
    report = typed("backup", "--json")
    assert (report.code, report.json["outcome"]) == (3, "degraded")
    assert "nobody can tell how far" in report.json["warnings"][0]
    assert intent.exists()
