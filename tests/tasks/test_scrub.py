"""A generation a day is read back from disk, the one with the oldest check first; of sets of files contents as well."""

import errno
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from backupd.bootstrap.tasks import planned_tasks
from backupd.config import load_config
from backupd.log import LOG_NAME, Event, open_log
from backupd.model import Generation
from backupd.report import RunDetails, RunReport
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from backupd.tasks.scrub import choose_generation_to_scrub, scrub, share_of, share_on
from support.command import log_lines
from support.file_sets import FileSet
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


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    """A set of files with two generations, of which the second one lacks `old` and has `new`."""
    made = FileSet(tmp_path / "app")
    for name in ("a", "b/c", "old"):
        made.write(name, f"what {name} contains")
    made.back_up()
    (made.path / "old").unlink()
    made.write("new", "what new contains")
    made.back_up()
    return made


def stored(files: FileSet, name: str) -> Path:
    """Return where the content of the file `name` is stored."""
    digest = hashlib.sha256(f"what {name} contains".encode()).hexdigest()
    (path,) = (files.root / "backups" / "files" / digest[:2]).iterdir()
    assert path.name.startswith(digest)
    return path


def scrub_on_day_of(name: str, files: FileSet, days_later: int = 0) -> RunReport[RunDetails]:
    """Scrub so many days after one on which the content of the file `name` has its turn."""
    share = share_of(hashlib.sha256(f"what {name} contains".encode()).digest())
    day = next(day for day in (NOON + timedelta(days=number) for number in range(29)) if share_on(day) == share)
    return scrub("uploads", replace(files.context, clock=lambda: day + timedelta(days=days_later)))


@pytest.mark.parametrize("every", [1, 2, 7])
def test_each_content_has_its_turn_in_29_scrubs_daily_or_weekly(every: int) -> None:
    days = [NOON + timedelta(days=every * number) for number in range(29)]
    shares = [share_on(day) for day in days]
    digests = (hashlib.sha256(bytes([number])).digest() for number in range(200))
    assert {shares.count(share_of(digest)) for digest in digests} == {1}


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_scrub_of_files_finds_content_on_its_day_names_files_and_marks_generations_that_need_it(
    files: FileSet, fault: str
) -> None:
    newest, oldest = (generation.id for generation in local_inventory(files.context).of("uploads"))
    path = stored(files, "b/c") if fault == "damaged" else stored(files, "old")
    flip_byte(path) if fault == "damaged" else path.unlink()
    name = "b/c" if fault == "damaged" else "old"
    assert scrub_on_day_of(name, files, days_later=1).outcome == "done"
    assert files.context.marks.ids() == frozenset()
    found = scrub_on_day_of(name, files)
    assert (found.outcome, found.exit_code) == ("failed", 1)
    assert found.error is not None
    assert f"{oldest}: 1 file cannot be restored: {name!r}: the content " in found.error
    assert files.context.marks.ids() == ({newest, oldest} if fault == "damaged" else {oldest})
    assert scrub_on_day_of(name, files).outcome == "done"


def test_scrub_of_files_reads_the_list_with_the_oldest_check(files: FileSet) -> None:
    newest, oldest = (generation.id for generation in local_inventory(files.context).of("uploads"))
    flip_byte(files.context.store.archive_path(newest))
    sound = scrub("uploads", files.context)
    assert (sound.generation, files.context.marks.ids()) == (oldest, {newest})
    assert sound.error is not None
    assert sound.error.startswith(f"{newest}: ")


def test_marks_go_in_the_scrub_after_a_backup_has_stored_the_contents_again_and_the_log_says_so(files: FileSet) -> None:
    ids = {generation.id for generation in local_inventory(files.context).of("uploads")}
    flip_byte(stored(files, "b/c"))
    stored(files, "a").unlink()
    scrub_on_day_of("b/c", files)
    assert files.context.marks.ids() == ids
    assert scrub_on_day_of("b/c", files, days_later=1).outcome != "failed"
    assert files.context.marks.ids() == ids, "nothing was stored again"
    assert files.back_up().exit_code in {0, 3}
    files.context = replace(files.context, log=open_log(files.context.store.directory / LOG_NAME))
    again = scrub_on_day_of("b/c", files, days_later=2)
    assert (again.outcome, files.context.marks.ids()) == ("done", frozenset())
    assert {note.partition(" ")[0] for note in again.notes if "is whole again" in note} == ids
    files.context.log.close()
    lines = [line for line in log_lines(files.context.store.directory) if "marked as damaged" in line["message"]]
    assert {line["event.action"] for line in lines} == {Event.GENERATION_VERIFIED}
    assert {line["message"].partition(" ")[0] for line in lines} == ids
    assert all(generation.verified for generation in local_inventory(files.context).of("uploads"))


def test_generation_whose_contents_are_still_missing_is_not_read_again(files: FileSet) -> None:
    _newest, oldest = (generation.id for generation in local_inventory(files.context).of("uploads"))
    digest = hashlib.sha256(b"what old contains").hexdigest()
    stored(files, "old").unlink()
    files.context.marks.add(oldest, "some file cannot be restored")
    scrub("uploads", files.context)
    assert files.context.marks.contents(oldest) == (digest,), "found by reading all of it"
    archive = files.context.store.archive_path(oldest)
    archive.rename(archive.with_suffix(".away"))
    archive.write_bytes(bytes(archive.with_suffix(".away").stat().st_size))
    assert scrub("uploads", files.context).outcome == "done"
    assert files.context.marks.contents(oldest) == (digest,), "its list was not even opened"


def test_prune_and_scrub_are_scheduled_for_sets_of_files_too() -> None:
    environ = {"BACKUPD_DATABASE": "/app/tasks.db", "BACKUPD_FILES__UPLOADS__PATH": "/app/uploads"}
    planned = {(one.task, one.source) for one in planned_tasks(load_config(None, environ))}
    assert planned == {(task, name) for task in ("backup", "prune", "scrub") for name in ("tasks", "uploads")}


def ticking(context: TaskContext, day: int) -> TaskContext:
    """Return the site with a clock that is so many days ahead."""
    return replace(context, clock=lambda: datetime.now(UTC) + timedelta(days=day))
