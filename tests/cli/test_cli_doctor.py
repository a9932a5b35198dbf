"""`backupd doctor` finds each problem before the first night, with a hint."""

import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.catalog import NotificationState, OutboxMessage, open_catalog
from backupd.model import Hold
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.local import check_local
from backupd.tasks.requests import BackupRequest
from support.app import running_app
from support.bank import make_bank
from support.command import Backupd, CommandResult
from support.generations import backdated, flip_byte
from support.held import held


def wrong(answer: CommandResult) -> dict[str, dict[str, str]]:
    """Return the findings that are wrong, by what was checked."""
    return {finding["check"]: finding for finding in answer.json if not finding["ok"]}


def test_doctor_with_sound_setup_succeeds_and_changes_nothing(backupd: Backupd, backups: Path, database: Path) -> None:
    before = database.read_bytes()
    answer = backupd("doctor", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert {"check", "ok", "detail", "hint", "warning"} == set(answer.json[0])
    details = {finding["check"]: finding["detail"] for finding in answer.json}
    assert list(details) == [
        "configuration",
        "clock",
        "time zone",
        "backups directory",
        "backups",
        "source tasks",
        "space for tasks",
        "catalog",
        "log",
        "generations",
    ]
    assert re.search(r"on \w+, uid \d+, wal, written by SQLite 3\.\d+\.\d+, readable with", details["source tasks"])
    assert "free" in details["space for tasks"]
    assert database.read_bytes() == before
    beside = {path.name for path in database.parent.iterdir()} - {database.name}
    assert beside <= {f"{database.name}-wal", f"{database.name}-shm"}, "SQLite's own, as any reader leaves them"
    assert {path.name for path in backups.iterdir()} == {".backupd"}
    assert {path.name for path in (backups / ".backupd").iterdir()} == {"staging", "removing"}


def test_doctor_prints_one_line_per_check_with_hint_below(typed: Keyboard, database: Path) -> None:
    database.unlink()
    answer = typed("doctor")
    lines = answer.out.splitlines()
    assert answer.code == 1
    assert lines[0] == "ok     configuration: from environment"
    at = lines.index(f"wrong  source tasks: no database at {database}")
    assert re.match(r" {9}check the path", lines[at + 1])


@dataclass
class Patient:
    """A set-up with one published generation, to spoil."""

    database: Path
    backups: Path
    context: TaskContext
    generation: str


Spoil = Callable[[Patient], dict[str, str] | None]


def no_database(patient: Patient) -> None:
    patient.database.unlink()


def a_directory_for_a_database(patient: Patient) -> None:
    patient.database.unlink()
    patient.database.mkdir()


def no_sqlite(patient: Patient) -> None:
    patient.database.write_bytes(b"encrypted" * 1000)


def an_empty_database(patient: Patient) -> None:
    patient.database.write_bytes(b"")


def no_mount(patient: Patient) -> dict[str, str]:
    return {"BACKUPD_BACKUPS_DIR": str(patient.backups.parent / "mnt" / "backups")}


def a_dangling_link(patient: Patient) -> dict[str, str]:
    link = patient.backups.parent / "link"
    link.symlink_to("/nowhere/backups")
    return {"BACKUPD_BACKUPS_DIR": str(link)}


def a_file_for_a_directory(patient: Patient) -> dict[str, str]:
    return {"BACKUPD_BACKUPS_DIR": str(patient.database.parent / "notes.txt")}


def no_room(_patient: Patient) -> dict[str, str]:
    return {"BACKUPD_SPACE__RESERVE": str(1 << 50)}


def a_damaged_catalog(patient: Patient) -> None:
    patient.context.catalog_path.write_bytes(b"garbage" * 1000)


def no_catalog(patient: Patient) -> None:
    for path in patient.context.store.hidden.glob("catalog.sqlite3*"):
        path.unlink()


def an_unfinished_catalog(patient: Patient) -> None:
    no_catalog(patient)
    patient.context.catalog_path.touch()


def a_hot_journal(patient: Patient) -> None:
    patient.database.unlink()
    make_bank(patient.database, "delete")
    with running_app(patient.database) as app:
        app.sql("PRAGMA cache_size=2")
        app.sql("BEGIN")
        app.sql("UPDATE account SET balance = 0, owner = owner || 'y'")
        app.kill()


def a_quarantined_copy(patient: Patient) -> None:
    copy = patient.backups / "copy"
    copy.write_bytes(bytes(3 << 20))
    patient.context.quarantine.add("retired", "retired-20261101-040000", held(copy), ["row 1 missing from index a"])
    place = patient.context.store.hidden / "quarantine" / "retired" / "retired-20261101-040000"
    days_ago = time.time() - 12.2 * 86400
    os.utime(place, (days_ago, days_ago))


def a_stray_archive(patient: Patient) -> None:
    (patient.backups / "tasks-20260101-0400.sqlite3.gz").write_bytes(b"")


def a_hold(patient: Patient) -> None:
    patient.context.holds.set(Hold("tasks", "shrink", datetime(2026, 11, 20, tzinfo=UTC), "900 rows are 3", None))


def a_refused_manifest(patient: Patient) -> None:
    flip_byte(patient.backups / f"{patient.generation}.manifest.json")


def a_damaged_archive(patient: Patient) -> None:
    with (patient.backups / f"{patient.generation}.sqlite3.gz").open("ab") as stream:
        stream.write(b"x")


def a_generation_of_tomorrow(patient: Patient) -> None:
    backdated(patient.backups, patient.generation, days=-1)


def an_undelivered_message(patient: Patient) -> dict[str, str]:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    waiting = OutboxMessage("ref", at, "failure", "title", "body", frozenset({"key"}), 1, at)
    with open_catalog(patient.backups / ".backupd" / "catalog.sqlite3") as catalog:
        catalog.write_notification_state("tasks", NotificationState(outbox=(waiting,)))
    return {"BACKUPD_NOTIFY__URLS": "ntfy://topic"}


TROUBLES: list[tuple[Spoil, str, str, str]] = [
    (no_database, "source tasks", r"no database at /", "mounted"),
    (a_directory_for_a_database, "source tasks", "is a directory", "path of the database file"),
    (no_sqlite, "source tasks", "is not a SQLite database", "check the path"),
    (an_empty_database, "source tasks", r"is empty \(0 bytes\)", "restore the database"),
    (no_mount, "backups directory", r"the directory .*/mnt does not exist", "mount the volume"),
    (
        a_dangling_link,
        "backups directory",
        r"link is a symbolic link to /nowhere/backups",
        "mount what the link leads to",
    ),
    (a_file_for_a_directory, "backups directory", r"notes\.txt", "."),
    (no_room, "space for tasks", r"a backup of tasks needs .* are free", "free space"),
    (
        a_hot_journal,
        "source tasks",
        r"tasks\.db-journal is hot: the app died",
        r"start the app.* 60 s .*degraded",
    ),
    (a_damaged_catalog, "catalog", r"cannot use the catalog .*: file is not a database", "backupd catalog rebuild"),
    (no_catalog, "catalog", r"there is no catalog .*catalog\.sqlite3", "backupd catalog rebuild"),
    (an_unfinished_catalog, "catalog", "unfinished", "the next backup migrates it"),
    (
        a_quarantined_copy,
        "quarantine",
        r"^retired-20261101-040000 is a damaged copy, 12 d old, 3\.0 MiB$",
        r"findings\.txt in .*/quarantine/retired/retired-20261101-040000; backupd clean removes it after 30 days",
    ),
    (a_stray_archive, "stray files", r"tasks-20260101-0400\.sqlite3\.gz", "delete them"),
    (a_hold, "pruning", "on hold since 2026-11-20: 900 rows are 3", "backupd prune --unfreeze --source tasks"),
    (a_refused_manifest, "generations", "its own digest", "gunzip -t"),
    (a_damaged_archive, "generations", r"tasks-\d+-\d+ failed a check", "backupd remove tasks-"),
    (a_generation_of_tomorrow, "generations", "are dated in the future", "set the clock"),
    (
        an_undelivered_message,
        "messages",
        "1 message could not be sent yet, the oldest since 2026-11-20",
        "notify --test",
    ),
]


@pytest.mark.parametrize(("spoil", "check", "detail", "hint"), TROUBLES, ids=[spoil.__name__ for spoil, *_ in TROUBLES])
def test_doctor_reports_each_problem_alone_with_hint(
    typed: Keyboard,
    context: TaskContext,
    database: Path,
    generation: str,
    spoil: Spoil,
    check: str,
    detail: str,
    hint: str,
) -> None:
    (database.parent / "notes.txt").touch()
    environ = spoil(Patient(database, context.store.directory, context, generation)) or {}
    answer = typed("doctor", "--json", **environ)
    found = wrong(answer)
    assert answer.code == 1
    assert re.search(detail, found[check]["detail"])
    assert re.search(hint, found[check]["hint"])
    assert set(found) <= {check, "space for tasks"}, "one trouble is one finding; only the space needs the source"


@pytest.mark.parametrize("whose", ["a newer backupd's", "a link's"])
def test_backup_beside_foreign_catalog_succeeds_and_hint_works(
    typed: Keyboard, context: TaskContext, database: Path, generation: str, whose: str
) -> None:
    path = context.catalog_path
    if whose == "a link's":
        path.symlink_to(path.rename(path.with_name("elsewhere")))
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 999")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE news (text)")
    backup = typed("backup", "--json")
    assert (backup.code, backup.json["outcome"]) == (3, "degraded")
    assert backup.json["generation"] != generation
    (warning,) = backup.json["warnings"]
    (told,) = [finding for finding in typed("doctor", "--json").json if finding["check"] == "catalog"]
    assert told["hint"] in warning
    assert typed("status").out.splitlines()[-1].endswith("catalog DOES NOT WORK")
    if whose == "a link's":
        path.unlink()
    else:
        assert typed("catalog", "rebuild").code == 0
    assert typed("backup").code == 0
    assert "catalog works" in typed("status").out


def test_hint_about_damaged_catalog_works(typed: Keyboard, context: TaskContext, generation: str) -> None:
    assert generation
    context.catalog_path.write_bytes(b"garbage" * 1000)
    assert typed("doctor").code == 1
    assert typed("catalog", "rebuild").code == 0
    assert typed("doctor").code == 0


@pytest.mark.parametrize("command", ["list", "show ID", "doctor", "prune --dry-run", "restore --dry-run --to /tmp/x"])
def test_read_only_command_creates_no_catalog_and_finishes_no_run(
    typed: Keyboard, context: TaskContext, generation: str, command: str
) -> None:
    arguments = command.replace("ID", generation).split()
    for path in context.store.hidden.glob("catalog.sqlite3*"):
        path.unlink()
    expected = 1 if command == "doctor" else 0
    assert typed(*arguments).code == expected
    assert not [*context.store.hidden.glob("catalog*")]
    context.catalog_path.touch()
    assert typed(*arguments).code == expected
    assert [path.name for path in context.store.hidden.glob("catalog*")] == ["catalog.sqlite3"]
    assert context.catalog_path.stat().st_size == 0


def test_hint_about_held_source_works(typed: Keyboard, context: TaskContext, generation: str) -> None:
    assert generation
    context.holds.set(Hold("tasks", "corrupt", context.clock(), "malformed", None))
    advice = wrong(typed("doctor", "--json"))["pruning"]["hint"].partition("backupd ")[2].split()
    assert typed(*advice).code == 0
    assert typed("doctor").code == 0


def test_doctor_reports_clock_reset_to_past(order: BackupRequest, context: TaskContext) -> None:
    long_past = replace(context, clock=lambda: datetime(1970, 1, 1, 0, 3, tzinfo=UTC))
    (clock,) = [finding for finding in check_local((order,), long_past) if finding.check == "clock"]
    assert (clock.ok, clock.detail) == (False, "the system clock is wrong: it reads 1970-01-01 00:03:00 UTC")
    assert "NTP" in clock.hint


@pytest.mark.root
def test_doctor_reports_unwritable_directory(typed: Keyboard, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "disk", str(disk)], check=True)
    try:
        found = wrong(typed("doctor", "--json", BACKUPD_BACKUPS_DIR=str(disk)))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "Read-only file system" in found["backups directory"]["detail"]
    assert found["backups directory"]["hint"]


def test_doctor_with_invalid_configuration_stops(typed: Keyboard) -> None:
    answer = typed("doctor", "--json", BACKUPD_SCHEDULE__TIMEZONE="Mars/Olympus")
    assert (answer.code, answer.json["exit_code"]) == (78, 78)
