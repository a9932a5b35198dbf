"""A generation a day is read back from the disk, the one first that was left unchecked for longest."""

import errno
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import pytest

from backupd.log import Event
from backupd.model import Generation
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import Site, local_inventory
from backupd.tasks.options import BackupOrder
from backupd.tasks.verify import choose_for_scrub, scrub
from support.command import log_lines
from support.generations import backdated, flip_byte

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def generation(days_old: int, *, damaged: bool = False) -> Generation:
    taken_at = NOON - timedelta(days=days_old)
    return Generation(f"app-{taken_at:%Y%m%d-%H%M}", "app", taken_at, 1, 1, "full", damaged=damaged)


def test_what_was_never_checked_is_as_old_as_the_day_it_was_made() -> None:
    old, new = generation(9), generation(1)
    assert choose_for_scrub([new, old], {}) == old
    assert choose_for_scrub([new, old], {old.id: NOON}) == new
    assert choose_for_scrub([new, old], {old.id: NOON, new.id: NOON - timedelta(hours=1)}) == new


def test_damage_that_is_known_is_not_looked_for_again() -> None:
    assert choose_for_scrub([generation(9, damaged=True), generation(1)], {}) == generation(1)
    assert choose_for_scrub([generation(9, damaged=True)], {}) is None


def test_a_store_without_generations_is_scrubbed_in_no_time(site: Site) -> None:
    report = scrub("tasks", site)
    assert (report.outcome, report.generation, report.exit_code) == ("done", None, 0)


def test_each_generation_gets_its_turn_before_any_gets_a_second(order: BackupOrder, site: Site) -> None:
    newest = backup(order, site).generation
    assert newest is not None
    older = [backdated(site.store.directory, newest, days=days) for days in (3, 2, 1)]
    turns = [scrub("tasks", ticking(site, day)).generation for day in range(1, 6)]
    assert turns == [*older, newest, older[0]]


def test_a_flipped_byte_is_found_marked_and_told(order: BackupOrder, site: Site) -> None:
    report = backup(order, site)
    assert report.generation is not None
    flip_byte(site.store.archive_path(report.generation))
    found = scrub("tasks", site)
    assert (found.outcome, found.exit_code, found.generation) == ("failed", 1, report.generation)
    assert found.error is not None
    assert "SHA-256" in found.error
    assert local_inventory(site).generations[0].damaged
    events = [line["event.action"] for line in log_lines(site.store.directory)]
    assert Event.GENERATION_DAMAGED in events
    assert scrub("tasks", site).generation is None


def test_what_cannot_be_read_just_now_is_not_taken_for_damaged(
    order: BackupOrder, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = backup(order, site)
    assert report.generation is not None

    def refuse(_store: DirectoryStore, _key: str) -> BinaryIO:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr(DirectoryStore, "open", refuse)  # root, who runs the tests, is refused nothing
        found = scrub("tasks", site)
    assert (found.outcome, found.error) == (
        "failed",
        f"{report.generation}: its archive cannot be read: Permission denied",
    )
    assert not local_inventory(site).generations[0].damaged
    assert scrub("tasks", site).outcome == "done"


def test_a_generation_that_is_pruned_just_now_is_passed_over_for_the_next(
    order: BackupOrder, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = backup(order, site).generation
    assert newest is not None
    older = backdated(site.store.directory, newest, days=1)
    really_open = DirectoryStore.open

    def prune_first(store: DirectoryStore, key: str) -> BinaryIO:
        store.remove(older)
        return really_open(store, key)

    monkeypatch.setattr(DirectoryStore, "open", prune_first)
    assert scrub("tasks", site).generation == newest
    assert site.marks.ids() == frozenset()


def test_an_archive_that_went_away_is_no_reason_to_stumble(order: BackupOrder, site: Site) -> None:
    report = backup(order, site)
    assert report.generation is not None
    site.store.archive_path(report.generation).unlink()
    assert scrub("tasks", site).outcome == "done"


def ticking(site: Site, day: int) -> Site:
    """Return the site with a clock that is so many days ahead."""
    return replace(site, clock=lambda: datetime.now(UTC) + timedelta(days=day))
