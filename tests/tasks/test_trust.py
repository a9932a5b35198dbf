"""Which generation counts: never a damaged one or one dated in the future, after any other loss."""

import os
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.errors import CopyCorrupt, GenerationMissing
from backupd.retention import RetentionPolicy
from backupd.tasks.backup import backup
from backupd.tasks.choice import choose_database
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.prune import prune
from backupd.tasks.requests import BackupRequest, RetentionRule
from backupd.tasks.restore.to_path import restore_to_path
from backupd.tasks.verify import verify
from support.command import log_lines


def touch(database: Path) -> None:
    """Make the next snapshot differ."""
    connection = sqlite3.connect(database)
    connection.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
    connection.commit()
    connection.close()


def spoil(context: TaskContext, generation: str | None) -> None:
    """Flip a bit in the middle of an archive."""
    path = context.store.archive_path(str(generation))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.fixture
def two(order: BackupRequest, context: TaskContext) -> tuple[str, str]:
    """Two generations of one day, the older first."""
    keep = replace(order, retention=RetentionRule(RetentionPolicy(last=9)))
    first = backup(keep, context)
    touch(order.path)
    second = backup(keep, context)
    return str(first.generation), str(second.generation)


def test_damaged_generation_does_not_count_after_loss_of_catalog(two: tuple[str, str], context: TaskContext) -> None:
    sound, damaged = two
    spoil(context, damaged)
    assert not verify(damaged, local_inventory(context), 1, context).sound
    for path in context.store.hidden.glob("catalog*"):
        path.unlink()
    _, plan = prune("tasks", RetentionRule(RetentionPolicy(daily=1)), context)
    assert {kept.generation.id for kept in plan.keep} == {sound, damaged}
    assert plan.remove == ()


def test_missing_archive_alone_is_damage_and_missing_generation_is_none(
    two: tuple[str, str], context: TaskContext
) -> None:
    lost, pruned = two
    inventory = local_inventory(context)
    context.store.archive_path(lost).unlink()
    context.store.remove(pruned)
    assert verify(lost, inventory, 1, context).detail == "its archive is gone"
    with pytest.raises(GenerationMissing):
        verify(pruned, inventory, 1, context)
    assert context.marks.ids() == {lost}


def test_repaired_generation_counts_again(two: tuple[str, str], context: TaskContext) -> None:
    _, newest = two
    path = context.store.archive_path(newest)
    sound = path.read_bytes()
    spoil(context, newest)
    verify(newest, local_inventory(context), 1, context)
    assert local_inventory(context).generations[0].damaged
    path.write_bytes(sound)
    verify(newest, local_inventory(context), 1, context)
    assert not local_inventory(context).generations[0].damaged


def test_restore_of_damaged_generation_names_and_marks_it(
    two: tuple[str, str], context: TaskContext, tmp_path: Path
) -> None:
    older, newest = two
    spoil(context, newest)
    manifest = choose_database(local_inventory(context), "latest", None, None)
    with pytest.raises(CopyCorrupt, match=newest):
        restore_to_path(manifest, tmp_path / "restored.db", 1, context)
    assert not (tmp_path / "restored.db").exists()
    assert choose_database(local_inventory(context), "latest", None, None).id == older


def test_generation_dated_in_future_is_never_latest(order: BackupRequest, context: TaskContext) -> None:
    ahead = replace(context, clock=lambda: datetime(2031, 1, 1, tzinfo=UTC))
    future = backup(order, ahead)
    touch(order.path)
    today = backup(order, context)
    inventory = local_inventory(context)
    assert choose_database(inventory, "latest", None, None).id == today.generation
    assert choose_database(inventory, str(future.generation), None, None).id == future.generation
    last = inventory.last_verified("tasks")
    assert last is not None
    assert last.id == today.generation


def test_damage_found_by_backup_degrades_it(order: BackupRequest, context: TaskContext) -> None:
    first = backup(order, context)
    spoil(context, first.generation)
    report = backup(order, context)
    assert (report.outcome, report.exit_code) == ("degraded", 3)
    assert str(first.generation) in report.warnings[0]
    (line,) = [x for x in log_lines(context.store.directory) if x.get("backupd.exit_code") == 3]
    assert line["log.level"] == "WARNING"


def test_code_in_directory_of_restore_is_not_run(two: tuple[str, str], context: TaskContext, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for module in ("json", "apsw", "random"):
        (trap / f"{module}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    manifest = choose_database(local_inventory(context), two[0], None, None)
    restore_to_path(manifest, trap / "restored.db", 1, context)
    assert (trap / "restored.db").exists()
    assert not (tmp_path / "sprung").exists()


def test_schema_outside_utf8_is_backed_up(tmp_path: Path, context: TaskContext) -> None:
    path = tmp_path / "latin.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(a /* caf@ */)")
    connection.commit()
    connection.close()
    path.write_bytes(path.read_bytes().replace(b"caf@", b"caf\xe9"))
    report = backup(BackupRequest("latin", path, reserve_bytes=0), context)
    assert report.outcome == "published", report.error


@pytest.mark.real_clock
def test_leftovers_of_killed_restores_are_swept_after_a_day(
    two: tuple[str, str], context: TaskContext, tmp_path: Path
) -> None:
    old, young = tmp_path / ".x.db.00000000.part", tmp_path / ".x.db.11111111.part"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    restore_to_path(choose_database(local_inventory(context), two[0], None, None), tmp_path / "x.db", 1, context)
    assert (old.exists(), young.exists()) == (False, True)
