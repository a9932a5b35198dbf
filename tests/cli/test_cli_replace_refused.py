"""`backupd restore` in place: what is refused, before any download and without any change."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from support.app import running_app
from support.backup_runs import NO_CAPABILITIES
from support.bank import spend, transfers
from support.command import Backupd, log_lines
from support.directories import beside, read_only, sha256, small_disk, through_fuse
from support.faults import Call, traced
from support.fork_server import CommandResult
from support.generations import flip_byte, rewritten


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_restore_over_idle_open_database_is_refused(
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


def test_disk_filled_beside_database_is_named(
    backupd: Backupd, database: Path, generation: str, tmp_path: Path
) -> None:
    def restored(*inject: str) -> tuple[CommandResult, list[Call]]:
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


def test_database_with_second_hard_link_is_refused(typed: Keyboard, database: Path, newer: str) -> None:
    os.link(database, database.with_name("other.db"))
    answer = typed("restore")
    assert (answer.code, sha256(database)) == (1, newer)
    assert "hard links" in answer.err


@pytest.mark.root
def test_read_only_mount_is_refused_before_download(typed: Keyboard, database: Path, newer: str) -> None:
    with read_only(database.parent) as seen:
        answer = typed("restore", BACKUPD_DATABASE=str(seen / database.name))
    assert (answer.code, sha256(database)) == (1, newer)
    assert "read-only" in answer.err


@pytest.mark.root
def test_insufficient_space_is_refused_with_sizes(typed: Keyboard, database: Path, newer: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "300k") as place:
        moved = place / "tasks.db"
        shutil.copy(database, moved)
        answer = typed("restore", BACKUPD_DATABASE=str(moved))
        assert (answer.code, sha256(moved)) == (1, newer)
        assert {path.name for path in place.iterdir()} <= {"tasks.db", "lost+found"}
    assert "needs" in answer.err


def test_damaged_archive_changes_nothing_and_is_marked(
    typed: Keyboard, database: Path, backups: Path, generation: str, newer: str
) -> None:
    flip_byte(backups / f"{generation}.sqlite3.gz")
    answer = typed("restore", generation)
    assert (answer.code, sha256(database)) == (1, newer)
    assert beside(database) == set()
    assert any(line["event.action"] == "generation.damaged" for line in log_lines(backups))


def test_restore_with_several_sources_needs_source_name(backupd: Backupd, pair: Pair) -> None:
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
    assert transfers(pair.notes) == 0


def test_generation_of_unconfigured_source_is_restored_only_to_path(
    backupd: Backupd, database: Path, generation: str
) -> None:
    answer = backupd("restore", generation, BACKUPD_DATABASE=str(database.with_name("other.db")))
    assert answer.code == 2
    assert "--to" in answer.err


def test_contradictory_options_are_usage_error(typed: Keyboard, generation: str) -> None:
    for arguments in (
        ["--online", "--to", "/x"],
        ["--undo", "--redo"],
        [generation, "--undo"],
        ["--undo", "--at", "2026-11-20"],
    ):
        answer = typed("restore", *arguments)
        assert answer.code == 2, arguments


@pytest.mark.root
def test_restore_where_kernel_cannot_see_users_needs_confirmation(
    typed: Keyboard, database: Path, newer: str, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    shutil.copy(database, real)
    with through_fuse(real) as shared:
        _assert_needs_confirmation(typed, shared / "tasks.db", newer)


def _assert_needs_confirmation(typed: Keyboard, moved: Path, newer: str) -> None:
    answer = typed("restore", BACKUPD_DATABASE=str(moved))
    assert (answer.code, sha256(moved)) == (1, newer)
    assert "--app-is-stopped" in answer.err
    assert typed("restore", "--app-is-stopped", BACKUPD_DATABASE=str(moved)).code == 0
    assert sha256(moved) != newer


def test_damaged_swap_journal_stops_restore_and_only_warns_backup(typed: Keyboard, database: Path, newer: str) -> None:
    intent = database.with_name(".tasks.db.restore")
    intent.write_text(json.dumps({"target": "tasks.db", "part": "../../etc/passwd"}))
    answer = typed("restore")
    assert (answer.code, sha256(database)) == (1, newer)
    assert "cannot determine how far" in answer.err
    report = typed("backup", "--json")
    assert (report.code, report.json["outcome"]) == (3, "degraded")
    assert "cannot determine how far" in report.json["warnings"][0]
    assert intent.exists()


@pytest.mark.root
@pytest.mark.parametrize("there", [True, False], ids=["there", "gone"])
def test_owner_that_cannot_be_set_is_reported_before_download(
    backupd: Backupd, database: Path, backups: Path, generation: str, there: bool
) -> None:
    rewritten(backups, generation, lambda known: replace(known, origin=replace(known.origin, uid=1234, gid=4321)))
    flip_byte(backups / f"{generation}.sqlite3.gz")  # who fetches it would tell of that
    os.chown(database, 1234, 4321)
    if not there:
        database.unlink()
    before = beside(database)
    for dry_run in ([], ["--dry-run"]):
        done = replace(backupd, rights=NO_CAPABILITIES)("restore", "--app-is-stopped", *dry_run)
        assert (done.code, beside(database)) == (1, before)
        assert "cannot be given to 1234:4321" in done.err
        assert "PUID=1234" in done.err
