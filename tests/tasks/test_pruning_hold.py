"""A suspicious source: what is published, what is quarantined, and what must not be pruned."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.retention import RetentionPolicy
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.prune import prune, release_hold
from backupd.tasks.requests import BackupRequest, RetentionRule, ShrinkGuard
from support.command import log_lines

ONE = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))


def change(database: Path, *statements: str) -> None:
    """Let the app do something, and close."""
    connection = sqlite3.connect(database)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


# An app whose documents are in a full text table, and nowhere else.
NOTES = (
    "CREATE VIRTUAL TABLE note USING fts5(body)",
    "INSERT INTO note SELECT 'word ' || id FROM account LIMIT 100",
)


def touch(database: Path) -> None:
    """Make the next snapshot differ."""
    change(database, "INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")


def damage(database: Path) -> None:
    """Flip bits in the header of an index's root page, as a failing disk would."""
    connection = sqlite3.connect(database)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'account_owner'").fetchone()
    connection.close()
    with database.open("r+b") as stream:
        stream.seek((root - 1) * 4096)
        stream.write(b"\x55" * 64)


def ids(context: TaskContext) -> list[str]:
    return [g.id for g in local_inventory(context).generations]


@pytest.fixture
def one_kept(order: BackupRequest) -> BackupRequest:
    return replace(order, retention=ONE)


def test_corrupt_copy_is_quarantined_fails_run_and_holds_pruning(one_kept: BackupRequest, context: TaskContext) -> None:
    good = backup(one_kept, context)
    damage(one_kept.path)
    report = backup(one_kept, context)
    assert (report.outcome, report.exit_code, report.generation) == ("failed", 1, None)
    assert report.error is not None
    assert f"the last good generation is {good.generation}" in report.error
    assert ids(context) == [good.generation]
    (copy,) = (context.store.hidden / "quarantine" / "tasks").glob("*/snapshot.sqlite3")
    assert (
        "account_owner" in (copy.parent / "findings.txt").read_text()
        or "Tree" in (copy.parent / "findings.txt").read_text()
    )
    hold = context.holds.get("tasks")
    assert hold is not None
    assert (hold.kind, hold.reference) == ("corrupt", good.generation)


def test_corrupt_copy_is_copied_again_before_verdict(order: BackupRequest, context: TaskContext) -> None:
    damage(order.path)
    backup(order, context)
    events = [line["event.action"] for line in log_lines(context.store.directory)]
    assert events.count("snapshot.retried") == 1
    assert events.index("snapshot.retried") < events.index("snapshot.quarantined")


def test_held_source_is_not_pruned_until_sound_backup(one_kept: BackupRequest, context: TaskContext) -> None:
    sound = one_kept.path.read_bytes()
    first = backup(replace(one_kept, retention=RetentionRule()), context)
    touch(one_kept.path)
    second = backup(replace(one_kept, retention=RetentionRule(RetentionPolicy(last=5))), context)
    damage(one_kept.path)
    backup(one_kept, context)
    assert prune("tasks", ONE, context)[0].details.removed == ()
    assert ids(context) == [second.generation, first.generation]
    one_kept.path.write_bytes(sound)
    touch(one_kept.path)
    touch(one_kept.path)
    repaired = backup(one_kept, context)
    assert repaired.outcome == "published"
    assert context.holds.get("tasks") is None
    assert ids(context) == [repaired.generation]


def test_source_too_damaged_to_copy_holds_pruning(one_kept: BackupRequest, context: TaskContext) -> None:
    backup(one_kept, context)
    with one_kept.path.open("r+b") as stream:
        stream.truncate(5000)
    report = backup(one_kept, context)
    assert report.outcome == "failed"
    hold = context.holds.get("tasks")
    assert hold is not None
    assert hold.kind == "corrupt"


def test_database_without_any_former_table_fails_backup(one_kept: BackupRequest, context: TaskContext) -> None:
    good = backup(one_kept, context)
    change(one_kept.path, "DROP TABLE account", "DROP TABLE ledger")
    report = backup(one_kept, context)
    assert report.outcome == "failed"
    assert report.error is not None
    assert "no tables are left" in report.error
    assert ids(context) == [good.generation]
    assert backup(replace(one_kept, allow_empty=True), context).outcome == "degraded"


def test_empty_file_in_place_of_database_removes_nothing(one_kept: BackupRequest, context: TaskContext) -> None:
    good = backup(one_kept, context)
    one_kept.path.write_bytes(b"")
    report = backup(one_kept, context)
    assert report.outcome == "failed"
    assert report.error is not None
    assert "is empty" in report.error
    assert ids(context) == [good.generation]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("DROP TABLE ledger", "tables gone: ledger"),
        ("DELETE FROM account WHERE id > 400", "account went from 1000 to 400 rows"),
        ("DROP TABLE note", "tables gone: note"),
        ("DELETE FROM note WHERE rowid > 40", "note went from 100 to 40 rows"),
    ],
)
def test_shrunken_source_is_published_degraded_and_holds_pruning(
    one_kept: BackupRequest, context: TaskContext, loss: str, said: str
) -> None:
    change(one_kept.path, *NOTES, "INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
    before = backup(one_kept, context)
    change(one_kept.path, loss)
    report = backup(one_kept, context)
    assert (report.outcome, report.exit_code, report.details.removed) == ("degraded", 3, ())
    assert said in report.warnings[0]
    assert ids(context) == [report.generation, before.generation]


def test_shrunken_file_is_detected_by_size(one_kept: BackupRequest, context: TaskContext) -> None:
    change(one_kept.path, "CREATE TABLE attachment AS SELECT randomblob(900000) AS content")
    backup(one_kept, context)
    change(one_kept.path, "UPDATE attachment SET content = NULL")
    connection = sqlite3.connect(one_kept.path, isolation_level=None)
    connection.execute("VACUUM")
    connection.close()
    report = backup(one_kept, context)
    assert "the database went from" in report.warnings[0]


def test_alarm_about_loss_lasts_until_operator_accepts_it(one_kept: BackupRequest, context: TaskContext) -> None:
    before = backup(one_kept, context)
    change(one_kept.path, "DELETE FROM account WHERE id > 400")
    backup(one_kept, context)
    touch(one_kept.path)
    next_day = backup(one_kept, context)
    assert next_day.outcome == "degraded"
    assert before.generation in ids(context)
    assert release_hold("tasks", context)
    assert not release_hold("tasks", context)
    touch(one_kept.path)
    accepted = backup(one_kept, context)
    assert accepted.outcome == "published"
    assert ids(context) == [accepted.generation]


def test_hold_of_regrown_source_is_released(one_kept: BackupRequest, context: TaskContext) -> None:
    backup(one_kept, context)
    change(
        one_kept.path,
        "CREATE TABLE aside AS SELECT * FROM account WHERE id > 400",
        "DELETE FROM account WHERE id > 400",
    )
    assert backup(one_kept, context).outcome == "degraded"
    change(one_kept.path, "INSERT INTO account SELECT * FROM aside")
    repaired = backup(one_kept, context)
    assert repaired.outcome == "published"
    assert context.holds.get("tasks") is None


def test_disabled_guard_and_small_tables_raise_no_alarm(one_kept: BackupRequest, context: TaskContext) -> None:
    change(one_kept.path, "CREATE TABLE note AS SELECT id FROM account LIMIT 50")
    backup(one_kept, context)
    change(one_kept.path, "DELETE FROM note")
    assert backup(one_kept, context).outcome == "published"
    change(one_kept.path, "DELETE FROM account")
    assert backup(replace(one_kept, guard=ShrinkGuard(enabled=False)), context).outcome == "published"


def test_empty_renamed_or_optimised_tables_raise_no_alarm(one_kept: BackupRequest, context: TaskContext) -> None:
    change(one_kept.path, *NOTES, "CREATE TABLE draft(body)")
    for _ in range(20):  # each transaction adds a segment to the index
        change(one_kept.path, "UPDATE note SET body = body || ' more'")
    backup(one_kept, context)
    change(
        one_kept.path,
        "DROP TABLE draft",
        "ALTER TABLE account RENAME TO customer",
        "INSERT INTO note(note) VALUES ('optimize')",
        "ALTER TABLE note RENAME TO page",
    )
    report = backup(one_kept, context)
    assert (report.outcome, report.warnings) == ("published", ())


def test_generations_dated_in_future_do_not_prune_todays(one_kept: BackupRequest, context: TaskContext) -> None:
    ahead = replace(context, clock=lambda: datetime(2031, 1, 1, tzinfo=UTC))
    future = backup(one_kept, ahead)
    touch(one_kept.path)
    today = backup(one_kept, context)
    assert sorted(ids(context)) == sorted([future.generation, today.generation])
