"""Pins in the course of runs: they end by the time of the newest backup, and none that fails costs a generation."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.archive.manifest import decode_manifest
from backupd.model import Pin, RetentionPolicy, RunReport
from backupd.tasks.backup import backup
from backupd.tasks.context import Site, read_inventory
from backupd.tasks.options import BackupOrder, Expiry, PinRequest
from backupd.tasks.pin import pin_generation
from backupd.tasks.prune import plan_for, prune
from backupd.tasks.remove import remove_here
from support.bank import spend
from support.generations import backdated

DAY = timedelta(days=1)
BY_HAND = PinRequest("made by hand", 30 * DAY)
ONE = Expiry(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))


def published(order: BackupOrder, site: Site) -> str:
    report = backup(order, site)
    assert report.outcome == "published", report
    assert report.generation is not None
    return report.generation


def ids(site: Site) -> set[str]:
    return {stored.id for stored in site.store.list()}


def test_a_pin_that_is_over_is_swept_with_its_generation_and_none_while_backups_fail(
    order: BackupOrder, site: Site
) -> None:
    newest = published(order, site)
    old = backdated(site.store.directory, newest, days=40)
    made_at = site.clock() - 40 * DAY
    pin_generation(old, BY_HAND, replace(site, clock=lambda: made_at))
    site.pins.set(Pin("other-20200101-0400", made_at, made_at + DAY, "of a source that nothing is known of"))
    report, _ = prune("tasks", ONE, site)
    assert report.removed == (old,)
    assert [*site.pins.all()] == ["other-20200101-0400"]
    kept = backdated(site.store.directory, newest, days=20)
    pin_generation(kept, BY_HAND, replace(site, clock=lambda: made_at + 20 * DAY))
    much_later = replace(site, clock=lambda: made_at + 440 * DAY)
    assert prune("tasks", ONE, much_later)[0].removed == ()
    assert kept in site.pins.all()


def test_a_pin_that_a_clock_ahead_seems_to_end_holds_again_when_the_clock_is_right(
    order: BackupOrder, site: Site
) -> None:
    pinned = published(order, site)
    pin_generation(pinned, BY_HAND, site)
    spend(order.path)
    now = site.clock()
    ahead = replace(site, clock=lambda: now + 730 * DAY)
    both = replace(ONE, policy=replace(ONE.policy, last=2))
    assert backup(replace(order, expiry=both), ahead).outcome == "published"
    plan = plan_for("tasks", ONE, read_inventory(site), site)
    assert any(reason.startswith("pinned until") for reason in plan.reasons()[pinned])


@pytest.mark.parametrize("first", ["prune", "backup", "replicate"])
def test_what_is_found_where_the_hidden_directory_was_lost_is_pinned_for_a_month(
    order: BackupOrder, site: Site, first: str
) -> None:
    newest = published(order, site)
    old = backdated(site.store.directory, newest, days=40)
    pin_generation(old, PinRequest("by an operator"), site)
    identity = site.identity()
    shutil.rmtree(site.store.hidden)
    if first == "backup":
        spend(order.path, 5)
        published(replace(order, expiry=ONE), site)
    elif first == "replicate":
        with site.locked_for("replicate-nas"):
            pass
    assert prune("tasks", ONE, site)[0].removed == ()
    pin = site.pins.all()[old]
    assert pin.until == pin.since + 30 * DAY
    assert (site.identity(), newest in site.pins.all()) == (identity, True)
    assert prune("tasks", ONE, replace(site, clock=lambda: pin.since + 31 * DAY))[0].removed == ()  # no newer backup


def spoilt_by_a_file(pins: Path) -> None:
    pins.write_text("no directory")


def spoilt_by_a_link(pins: Path) -> None:
    pins.symlink_to("/nowhere")


@pytest.mark.parametrize("spoil", [spoilt_by_a_file, spoilt_by_a_link])
def test_a_backup_whose_pin_cannot_be_written_is_published_degraded_and_prunes_nothing(
    order: BackupOrder, site: Site, spoil: Callable[[Path], None]
) -> None:
    first = published(order, site)
    spoil(site.store.hidden / "pins")
    spend(order.path, 5)
    report: RunReport = backup(replace(order, expiry=ONE, pin=BY_HAND), site)
    assert (report.outcome, report.exit_code) == ("degraded", 3)
    assert any(f"{report.generation} could not be pinned" in warning for warning in report.warnings)
    assert {first, report.generation} == ids(site)


def test_a_name_that_a_removal_has_freed_is_not_given_again_while_a_replica_may_hold_it(
    order: BackupOrder, site: Site
) -> None:
    noon = site.clock().replace(second=0)
    at_noon = replace(site, clock=lambda: noon)
    first = published(order, at_noon)
    spend(order.path, 5)
    second = published(order, at_noon)
    assert second == f"{first}-2"
    manifest = decode_manifest(site.store.manifest(second), second)
    site.tell_catalog(lambda catalog: catalog.add_generation(manifest, "nas"))
    remove_here([second], site, force=False)
    spend(order.path, 5)
    assert published(order, at_noon) == f"{first}-3"
