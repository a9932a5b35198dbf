"""Several sources in one run: copied as of one instant, each published or failed by itself, pruned at the end."""

import gzip
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.archive.manifest import decode_point
from backupd.catalog import open_catalog
from backupd.errors import LockHeld
from backupd.model import NoProgress
from backupd.report import BackupDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.system.file_lock import file_lock
from backupd.tasks.backup import Backups, back_up_together
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, Hook, Hooks, RetentionRule
from support.app import running_app
from support.bank import is_balanced, make_bank, spend
from support.command import log_lines
from support.drills import shell
from support.generations import backdated
from support.processes import children_of, command_line
from support.taking_turns import apart_ns, last_turn, make_turns, taking_turns, turns

MODES = ("wal", "delete", "wal", "delete")
LAST = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))


@pytest.fixture
def orders(tmp_path: Path) -> list[BackupRequest]:
    """The requests for four banks of one app, in WAL mode and with rollback journals."""
    found = []
    for number, mode in enumerate(MODES):
        path = tmp_path / "data" / f"bank{number}.db"
        path.parent.mkdir(exist_ok=True)
        make_bank(path, mode, rows=10)
        found.append(BackupRequest(f"bank{number}", path, reserve_bytes=0, retention=None))
    return found


def run(orders: Sequence[BackupRequest], context: TaskContext, *also: str) -> Backups:
    """Back up all sources that there are, and those in `also`."""
    return back_up_together(orders, context, (*(order.source for order in orders), *also))


def outcomes(done: Backups) -> list[str]:
    return [report.outcome for report in done.reports]


def unpacked(report: RunReport[BackupDetails], to: Path) -> Path:
    assert report.details.archive_path is not None
    to.write_bytes(gzip.decompress(Path(report.details.archive_path).read_bytes()))
    return to


def test_all_sources_are_published_and_their_point_holds_them(
    orders: list[BackupRequest], context: TaskContext, tmp_path: Path
) -> None:
    done = run(orders, context)
    assert outcomes(done) == ["published"] * 4
    assert [report.subject for report in done.reports] == ["bank0", "bank1", "bank2", "bank3"]
    assert done.point is not None
    assert done.point.generations == {report.generation for report in done.reports}
    assert {part.archive_sha256 for part in done.point.parts} == {one.details.archive_sha256 for one in done.reports}
    assert context.store.points() == (done.point.id,)
    assert decode_point(context.store.point(done.point.id), done.point.id) == done.point
    for report in done.reports:
        assert is_balanced(unpacked(report, tmp_path / "restored.db"), 10)
        assert {"copy", "pack"} <= report.stages.keys()
    events = [line for line in log_lines(context.store.directory) if line["event.action"] == "point.published"]
    assert [(line["backupd.point"], line["backupd.spread_ms"]) for line in events] == [
        (done.point.id, done.point.spread_ms)
    ]


@pytest.mark.real_clock
@pytest.mark.no_cover
def test_archives_of_databases_written_in_turn_are_no_further_apart_than_their_point_says(
    context: TaskContext, tmp_path: Path
) -> None:
    paths = [tmp_path / f"bank{number}.db" for number in range(4)]
    make_turns(paths, MODES)
    orders = [BackupRequest(path.stem, path, reserve_bytes=0, retention=None) for path in paths]
    found = list[tuple[list[int], int]]()
    with taking_turns(paths):
        for _ in range(3):
            done = run(orders, context)
            assert done.point is not None
            last = [last_turn(unpacked(report, tmp_path / "restored.db")) for report in done.reports]
            found.append((last, done.point.spread_ms))
    at = {number: time_ns for path in paths for number, time_ns in turns(path).items()}
    for last, spread_ms in found:
        assert apart_ns(last, at) <= spread_ms * 10**6


def test_failed_source_ends_no_other_and_there_is_no_point(orders: list[BackupRequest], context: TaskContext) -> None:
    orders[1].path.unlink()
    orders[2].path.write_bytes(b"no database")
    done = run(orders, context)
    assert outcomes(done) == ["published", "failed", "failed", "published"]
    assert done.point is None
    assert context.store.points() == ()
    assert [*done.reports[0].notes] == ["there is no restore point of this run: it has nothing of bank1, bank2"]
    with open_catalog(context.catalog_path) as catalog:
        assert {one.source: one.outcome for one in catalog.runs(limit=9)} == {
            report.subject: report.outcome for report in done.reports
        }


def test_unchanged_sources_are_parts_and_point_without_change_is_not_repeated(
    orders: list[BackupRequest], context: TaskContext
) -> None:
    first = run(orders, context)
    assert first.point is not None
    again = run(orders, context)
    assert outcomes(again) == ["unchanged"] * 4
    assert again.point == first.point
    assert context.store.points() == (first.point.id,)
    spend(orders[0].path)
    changed = run(orders, context)
    assert outcomes(changed) == ["published", "unchanged", "unchanged", "unchanged"]
    assert changed.point is not None
    assert len(changed.point.generations - first.point.generations) == 1
    assert len(context.store.points()) == 2


@pytest.mark.parametrize("wanted", [1, 3])
def test_run_of_some_sources_makes_no_point(orders: list[BackupRequest], context: TaskContext, wanted: int) -> None:
    done = run(orders[:wanted], context, "another")
    assert outcomes(done) == ["published"] * wanted
    assert (done.point, context.store.points()) == (None, ())
    assert {report.notes for report in done.reports} == {()}


def test_single_source_makes_no_point(orders: list[BackupRequest], context: TaskContext) -> None:
    assert run(orders[:1], context).point is None
    assert context.store.points() == ()


def test_sources_are_pruned_after_the_index_is_published(orders: list[BackupRequest], context: TaskContext) -> None:
    old = [backdated(context.store.directory, one.generation or "", days=9) for one in run(orders, context).reports]
    for order in orders:
        spend(order.path)
    done = run([replace(order, retention=LAST) for order in orders], context)
    assert {removed for report in done.reports for removed in report.details.removed} >= {*old}
    actions = [line["event.action"] for line in log_lines(context.store.directory)]
    published = [n for n, action in enumerate(actions) if action in ("generation.published", "point.published")]
    removed = [n for n, action in enumerate(actions) if action == "generation.removed"]
    assert max(published) < min(removed)


def test_held_lock_fails_every_source(orders: list[BackupRequest], context: TaskContext) -> None:
    with file_lock(context.store.hidden / "lock", "test"):
        done = run(orders, replace(context, lock_timeout_s=0.1))
    assert {(report.outcome, report.exit_code) for report in done.reports} == {("failed", LockHeld.exit_code)}


def test_hooks_are_called_once_around_all(orders: list[BackupRequest], context: TaskContext, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    hook = Hook((*shell('echo "$BACKUPD_SOURCE|$BACKUPD_OUTCOME" >>"$0"'), str(notes)))
    run([replace(order, hooks=Hooks(hook, hook)) for order in orders], context)
    assert notes.read_text().splitlines() == ["bank0 bank1 bank2 bank3|", "bank0 bank1 bank2 bank3|published"]


def test_time_of_each_run_is_its_own(orders: list[BackupRequest], context: TaskContext) -> None:
    began = time.monotonic()
    reports = run(orders, context).reports
    assert sum(report.duration_s for report in reports) < 2 * (time.monotonic() - began)


def test_source_that_is_locked_is_copied_alone_later_and_spread_says_so(
    orders: list[BackupRequest], context: TaskContext
) -> None:
    with running_app(orders[1].path) as app:
        app.sql("BEGIN EXCLUSIVE")

        class Unlock(NoProgress):
            """Ends the transaction of the app as soon as the others are pinned."""

            def stage(self, name: str, _total_bytes: int) -> None:
                if name == "check and pack" and not unlocked:
                    unlocked.append(name)
                    app.sql("COMMIT")

        unlocked = list[str]()
        done = run(orders, replace(context, progress=Unlock()))
    assert outcomes(done) == ["published"] * 4
    assert done.point is not None
    first, late, *others = done.point.parts
    assert late.source == "bank1"
    assert late.since > max(part.until for part in (first, *others))
    assert done.point.taken_at == min(part.since for part in done.point.parts)


def test_copy_of_pinned_source_that_is_corrupt_is_repeated_alone(
    orders: list[BackupRequest], context: TaskContext
) -> None:
    size = orders[0].path.stat().st_size
    with orders[0].path.open("r+b") as stream:
        stream.seek(size - 4096)
        stream.write(b"\xff" * 4096)
    done = run(orders, context)
    assert outcomes(done) == ["failed", "published", "published", "published"]
    assert done.reports[0].error_kind == "corrupt"
    retried = [line for line in log_lines(context.store.directory) if line["event.action"] == "snapshot.retried"]
    assert [line["backupd.source"] for line in retried] == ["bank0"]


def test_killed_process_of_pins_costs_no_backup(
    orders: list[BackupRequest], context: TaskContext, tmp_path: Path
) -> None:
    class Kill(NoProgress):
        """Kills the process that holds the pins before the first copy."""

        def stage(self, name: str, _total_bytes: int) -> None:
            for pid in children_of(os.getpid()) if name == "copy" else ():
                if b"pinned_sources" in command_line(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killed = list[int]()
    done = run(orders, replace(context, progress=Kill()))
    assert len(killed) == 1
    assert outcomes(done) == ["published"] * 4
    assert all("was copied after the others" in report.notes[0] for report in done.reports)
    assert is_balanced(unpacked(done.reports[0], tmp_path / "restored.db"), 10)
    assert done.point is not None


def test_source_with_too_little_space_fails_alone(orders: list[BackupRequest], context: TaskContext) -> None:
    done = run([replace(orders[0], reserve_bytes=1 << 60), *orders[1:]], context)
    assert outcomes(done) == ["failed", "published", "published", "published"]
    assert done.reports[0].error_kind == "no-space"
