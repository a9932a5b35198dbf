"""Pins during runs: they end by the time of the newest backup, and a failed one costs no generation."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.archive.manifest import decode_manifest
from backupd.catalog import open_catalog
from backupd.model import Pin
from backupd.retention import RetentionPolicy
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.prune import pin_generation, prune
from backupd.tasks.pruning_plan import PruningPlans
from backupd.tasks.remove import remove_local
from backupd.tasks.requests import BackupRequest, PinRequest, RetentionRule
from support.bank import spend
from support.generations import backdated

DAY = timedelta(days=1)
BY_HAND = PinRequest("made by hand", 30 * DAY)
ONE = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))


def published(order: BackupRequest, context: TaskContext) -> str:
    report = backup(order, context)
    assert report.outcome == "published", report
    assert report.generation is not None
    return report.generation


def ids(context: TaskContext) -> set[str]:
    return {stored.id for stored in context.store.list()}


def test_expired_pin_is_swept_with_generation_unless_backups_fail(order: BackupRequest, context: TaskContext) -> None:
    newest = published(order, context)
    old = backdated(context.store.directory, newest, days=40)
    made_at = context.clock() - 40 * DAY
    pin_generation(old, BY_HAND, replace(context, clock=lambda: made_at))
    context.pins.set(Pin("other-20200101-0400", made_at, made_at + DAY, "of a source that nothing is known of"))
    report, _ = prune("tasks", ONE, context)
    assert report.details.removed == (old,)
    assert [*context.pins.all()] == ["other-20200101-0400"]
    kept = backdated(context.store.directory, newest, days=20)
    pin_generation(kept, BY_HAND, replace(context, clock=lambda: made_at + 20 * DAY))
    much_later = replace(context, clock=lambda: made_at + 440 * DAY)
    assert prune("tasks", ONE, much_later)[0].details.removed == ()
    assert kept in context.pins.all()


def test_pin_ended_by_clock_ahead_holds_again_with_correct_clock(order: BackupRequest, context: TaskContext) -> None:
    pinned = published(order, context)
    pin_generation(pinned, BY_HAND, context)
    spend(order.path)
    now = context.clock()
    ahead = replace(context, clock=lambda: now + 730 * DAY)
    both = replace(ONE, policy=replace(ONE.policy, last=2))
    assert backup(replace(order, retention=both), ahead).outcome == "published"
    plan = PruningPlans(ONE, read_inventory(context), context).of("tasks")
    assert any(reason.startswith("pinned until") for reason in plan.reasons()[pinned])


@pytest.mark.parametrize("first", ["prune", "backup", "replicate"])
def test_generations_of_store_with_lost_hidden_directory_are_pinned_for_a_month(
    order: BackupRequest, context: TaskContext, first: str
) -> None:
    newest = published(order, context)
    old = backdated(context.store.directory, newest, days=40)
    pin_generation(old, PinRequest("by an operator"), context)
    identity = context.identity()
    shutil.rmtree(context.store.hidden)
    if first == "backup":
        spend(order.path, 5)
        published(replace(order, retention=ONE), context)
    elif first == "replicate":
        with context.task_lock("replicate-nas"):
            pass
    assert prune("tasks", ONE, context)[0].details.removed == ()
    pin = context.pins.all()[old]
    assert pin.until == pin.since + 30 * DAY
    assert (context.identity(), newest in context.pins.all()) == (identity, True)
    later = replace(context, clock=lambda: pin.since + 31 * DAY)
    assert prune("tasks", ONE, later)[0].details.removed == ()  # no newer backup


def spoilt_by_a_file(pins: Path) -> None:
    pins.write_text("no directory")


def spoilt_by_a_link(pins: Path) -> None:
    pins.symlink_to("/nowhere")


@pytest.mark.parametrize("spoil", [spoilt_by_a_file, spoilt_by_a_link])
def test_backup_with_unwritable_pin_is_published_degraded_and_prunes_nothing(
    order: BackupRequest, context: TaskContext, spoil: Callable[[Path], None]
) -> None:
    first = published(order, context)
    spoil(context.store.hidden / "pins")
    spend(order.path, 5)
    report = backup(replace(order, retention=ONE, pin=BY_HAND), context)
    assert (report.outcome, report.exit_code) == ("degraded", 3)
    assert any(f"{report.generation} could not be pinned" in warning for warning in report.warnings)
    assert {first, report.generation} == ids(context)


def test_id_of_removed_generation_is_not_reused_while_replica_may_hold_it(
    order: BackupRequest, context: TaskContext
) -> None:
    noon = context.clock().replace(second=0)
    at_noon = replace(context, clock=lambda: noon)
    first = published(order, at_noon)
    spend(order.path, 5)
    second = published(order, at_noon)
    assert second == f"{first}-2"
    manifest = decode_manifest(context.store.manifest(second), second)
    with open_catalog(context.catalog_path) as catalog:
        catalog.add_generation(manifest, "nas")
    remove_local([second], context, force=False)
    spend(order.path, 5)
    assert published(order, at_noon) == f"{first}-3"
