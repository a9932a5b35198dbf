"""A generation a day is read back from disk, the one with the oldest check first."""

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


def test_unchecked_generation_is_as_old_as_its_snapshot() -> None:
    old, new = generation(9), generation(1)
    assert choose_generation_to_scrub([new, old], {}) == old
    assert choose_generation_to_scrub([new, old], {old.id: NOON}) == new
    assert choose_generation_to_scrub([new, old], {old.id: NOON, new.id: NOON - timedelta(hours=1)}) == new


def test_known_damage_is_not_scrubbed_again() -> None:
    assert choose_generation_to_scrub([generation(9, damaged=True), generation(1)], {}) == generation(1)
    assert choose_generation_to_scrub([generation(9, damaged=True)], {}) is None


def test_scrub_of_empty_store_is_done(context: TaskContext) -> None:
    report = scrub("tasks", context)
    assert (report.outcome, report.generation, report.exit_code) == ("done", None, 0)


def test_each_generation_is_scrubbed_before_any_is_repeated(order: BackupRequest, context: TaskContext) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    older = [backdated(context.store.directory, newest, days=days) for days in (3, 2, 1)]
    turns = [scrub("tasks", ticking(context, day)).generation for day in range(1, 6)]
    assert turns == [*older, newest, older[0]]


def test_flipped_byte_is_found_marked_and_reported(order: BackupRequest, context: TaskContext) -> None:
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


def test_read_error_during_scrub_is_no_damage(
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


def test_generation_pruned_during_scrub_is_skipped(
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


def test_missing_archive_does_not_fail_scrub(order: BackupRequest, context: TaskContext) -> None:
    report = backup(order, context)
    assert report.generation is not None
    context.store.archive_path(report.generation).unlink()
    assert scrub("tasks", context).outcome == "done"


def ticking(context: TaskContext, day: int) -> TaskContext:
    """Return the site with a clock that is so many days ahead."""
    return replace(context, clock=lambda: datetime.now(UTC) + timedelta(days=day))
