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
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from backupd.tasks.verify import choose_generation_to_scrub, scrub
from support.command import log_lines
from support.generations import backdated, flip_byte

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def generation(days_old: int, *, damaged: bool = False) -> Generation:
    taken_at = NOON - timedelta(days=days_old)
    return Generation(f"app-{taken_at:%Y%m%d-%H%M}", "app", taken_at, 1, 1, "full", damaged=damaged)


def test_what_was_never_checked_is_as_old_as_the_day_it_was_made() -> None:
    old, new = generation(9), generation(1)
    assert choose_generation_to_scrub([new, old], {}) == old
    assert choose_generation_to_scrub([new, old], {old.id: NOON}) == new
    assert choose_generation_to_scrub([new, old], {old.id: NOON, new.id: NOON - timedelta(hours=1)}) == new


def test_damage_that_is_known_is_not_looked_for_again() -> None:
    assert choose_generation_to_scrub([generation(9, damaged=True), generation(1)], {}) == generation(1)
    assert choose_generation_to_scrub([generation(9, damaged=True)], {}) is None


def test_a_store_without_generations_is_scrubbed_in_no_time(context: TaskContext) -> None:
    report = scrub("tasks", context)
    assert (report.outcome, report.generation, report.exit_code) == ("done", None, 0)


def test_each_generation_gets_its_turn_before_any_gets_a_second(order: BackupRequest, context: TaskContext) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    older = [backdated(context.store.directory, newest, days=days) for days in (3, 2, 1)]
    turns = [scrub("tasks", ticking(context, day)).generation for day in range(1, 6)]
    assert turns == [*older, newest, older[0]]


def test_a_flipped_byte_is_found_marked_and_told(order: BackupRequest, context: TaskContext) -> None:
    report = backup(order, context)
    assert report.generation is not None
    flip_byte(context.store.archive_path(report.generation))
    found = scrub("tasks", context)
    assert (found.outcome, found.exit_code, found.generation) == ("failed", 1, report.generation)
    assert found.error is not None
    assert "SHA-256" in found.error
    assert local_inventory(context).generations[0].damaged
    events = [line["event.action"] for line in log_lines(context.store.directory)]
    assert Event.GENERATION_DAMAGED in events
    assert scrub("tasks", context).generation is None


def test_what_cannot_be_read_just_now_is_not_taken_for_damaged(
    order: BackupRequest, context: TaskContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = backup(order, context)
    assert report.generation is not None

    def refuse(_store: DirectoryStore, _key: str) -> BinaryIO:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "open", refuse)  # root, who runs the tests, is refused nothing
        found = scrub("tasks", context)
    assert (found.outcome, found.error) == (
        "failed",
        f"{report.generation}: its archive cannot be read: Permission denied",
    )
    assert not local_inventory(context).generations[0].damaged
    assert scrub("tasks", context).outcome == "done"


def test_a_generation_that_is_pruned_just_now_is_passed_over_for_the_next(
    order: BackupRequest, context: TaskContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    older = backdated(context.store.directory, newest, days=1)
    really_open = DirectoryStore.open

    def prune_first(store: DirectoryStore, key: str) -> BinaryIO:
        store.remove(older)
        return really_open(store, key)

    monkeypatch.setattr(DirectoryStore, "open", prune_first)
    assert scrub("tasks", context).generation == newest
    assert context.marks.ids() == frozenset()


def test_an_archive_that_went_away_is_no_reason_to_stumble(order: BackupRequest, context: TaskContext) -> None:
    report = backup(order, context)
    assert report.generation is not None
    context.store.archive_path(report.generation).unlink()
    assert scrub("tasks", context).outcome == "done"


def ticking(context: TaskContext, day: int) -> TaskContext:
    """Return the site with a clock that is so many days ahead."""
    return replace(context, clock=lambda: datetime.now(UTC) + timedelta(days=day))
