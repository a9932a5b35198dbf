"""The history on the status page: of a store, catalog, log and disk, sound or not."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backupd.catalog import open_catalog
from backupd.health import Limit
from backupd.log_reader import last_lines
from backupd.report import DrillDetails, DrillReport, RunDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.schedule import Planned, Schedule
from backupd.status import history as status_history
from backupd.status.current import StatusScope
from backupd.status.history import read_history
from backupd.status.model import History
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, RetentionRule
from backupd.web.localizer import LANGUAGES
from backupd.web.page import page_response
from backupd.web.responses import status_response
from support.generations import backdated, manifest_of

ZONE = ZoneInfo("America/Santiago")
NIGHTLY = Schedule.parse("04:00", ZONE)
PLANNED = (Planned("backup", "tasks", NIGHTLY), Planned("replicate", "offsite", NIGHTLY))
LIMITS = (Limit("backup", "tasks", 93_600), Limit("replicate", "offsite", 655_200))
EXPIRY = RetentionRule(RetentionPolicy(daily=2), ZONE)


def survey(context: TaskContext) -> History:
    """Take the survey, and make sure that it can be shown."""
    found = read_history(StatusScope(PLANNED, LIMITS, EXPIRY, {}, context, context.clock()))
    for language in LANGUAGES:
        assert page_response(found, language).status == 200
    assert status_response(found).status == 200
    return found


@pytest.fixture
def backed_up(order: BackupRequest, context: TaskContext) -> str:
    """The id of a generation of `tasks`, just made."""
    made = backup(order, context).generation
    assert made is not None
    return made


def record(
    context: TaskContext, task: str, source: str, outcome: str, ago: timedelta = timedelta(), **more: object
) -> None:
    at = datetime.now(UTC) - ago
    values = {"task": task, "subject": source, "started_at": at, "details": RunDetails(), "outcome": outcome}
    with open_catalog(context.catalog_path) as catalog:
        catalog.record_run(RunReport(**values | more), at + timedelta(seconds=1))  # type: ignore[arg-type]  # as the fields are


def test_first_day_without_runs_is_no_problem(context: TaskContext) -> None:
    found = survey(context)
    assert (found.stage, found.unread, found.log, found.drills) == ("first-day", (), (), ())
    assert found.timezone == "America/Santiago"
    assert {day.state for day in found.histories[0].days} == {"none"}
    assert found.disk is not None
    assert found.disk.stored_bytes == 0
    assert not context.catalog_path.exists(), "a look makes nothing"


def test_backup_is_in_history_with_day_size_reasons_and_copies(backed_up: str, context: TaskContext) -> None:
    older = backdated(context.store.directory, backed_up, days=3)
    with open_catalog(context.catalog_path) as catalog:
        catalog.add_generation(manifest_of(context, backed_up), "offsite")
    record(context, "replicate", "offsite", "done")
    found = survey(context)
    history = found.histories[0]
    newest = history.generations[0]
    assert found.stage == "healthy"
    assert newest.id == backed_up
    assert newest.kept_for[-1] == "last-verified"
    assert newest.stores == ("local", "offsite")
    assert history.generations[1].id == older
    assert history.generation_count == 2
    assert history.last_state == "verified"
    assert [day.state for day in history.days].count("verified") == 2, "the older one proves its day as well"
    assert (history.points[0].snapshot_bytes, history.points[0].archive_bytes) == (
        newest.snapshot_bytes,
        newest.archive_bytes,
    )
    assert found.replicas[0].generations == 1
    assert found.disk is not None
    assert found.disk.stored_bytes == history.stored_bytes == 2 * newest.archive_bytes
    assert found.log[-1].message.startswith(f"backup of tasks: published {backed_up}")
    next_runs = found.status.next_runs
    assert [(run.at, run.overdue) for run in next_runs] == [(NIGHTLY.following(found.status.taken_at), False)] * 2
    assert {run.at.tzinfo for run in next_runs} == {ZONE}


@pytest.mark.usefixtures("backed_up")
def test_failures_and_drills_are_in_history_with_reasons_and_times(context: TaskContext) -> None:
    ago = timedelta(days=40)
    record(context, "drill", "tasks", "failed", ago, error="it does not answer", duration_s=4.0)
    drill = DrillReport("offsite", 748_800)
    record(context, "drill", "tasks", "done", stages={"fetch": 2.5}, duration_s=3.5, details=DrillDetails(drill=drill))
    record(context, "replicate", "offsite", "done", ago / 40)
    record(context, "replicate", "offsite", "failed", error="no route to host", hint="check the network")
    found = survey(context)
    assert found.stage == "degraded"
    assert [(one.task, one.detail, one.hint, one.severity) for one in found.status.health.problems] == [
        ("replicate", "no route to host", "check the network", "warning")
    ]
    (retry,) = [run for run in found.status.next_runs if run.task == "replicate"]
    assert (retry.retry, retry.reason) == (True, "the last run failed")
    assert timedelta(minutes=1) < retry.at - found.status.taken_at < timedelta(minutes=3)
    assert [(one.subject, one.store) for one in found.drills] == [("tasks", "offsite"), ("tasks", None)]
    assert [(drill.outcome, drill.duration_s, drill.stages, drill.error) for drill in found.drills] == [
        ("done", 3.5, {"fetch": 2.5}, ""),
        ("failed", 4.0, {}, "it does not answer"),
    ]


@pytest.mark.usefixtures("backed_up")
def test_unreadable_store_is_named_in_history(context: TaskContext, tmp_path: Path) -> None:
    elsewhere = replace(context, store=type(context.store)("local", tmp_path / "not mounted"))
    found = survey(elsewhere)
    assert found.stage == "failing"
    assert found.unread == ("store", "catalog")
    assert found.disk is None
    assert found.histories[0].generations == ()


def truncate(catalog: Path) -> None:
    catalog.write_bytes(catalog.read_bytes()[:5000])


def spoil_a_time(catalog: Path) -> None:
    with closing(sqlite3.connect(catalog)) as connection:
        connection.execute("UPDATE run SET started_at = 'yesterday'")
        connection.commit()


@pytest.mark.parametrize("spoil", [truncate, spoil_a_time, Path.unlink])
def test_unusable_catalog_is_named_and_generations_are_shown(
    backed_up: str, context: TaskContext, spoil: Callable[[Path], None]
) -> None:
    spoil(context.catalog_path)
    found = survey(context)
    assert found.unread == ("catalog",)
    assert [generation.id for generation in found.histories[0].generations] == [backed_up]
    assert found.histories[0].last_state == "verified", "the generation itself proves its day"


@pytest.mark.usefixtures("backed_up")
@pytest.mark.parametrize("report", ["no JSON", '{"snapshot_bytes": "many", "archive_bytes": 1e999}', "[]"])
def test_unreadable_report_hides_no_other_day(context: TaskContext, report: str) -> None:
    with closing(sqlite3.connect(context.catalog_path)) as connection:
        connection.execute("UPDATE run SET report = ?", (report,))
        connection.commit()
    with open_catalog(context.catalog_path) as catalog:
        now = datetime.now(UTC)
        marks = catalog.run_summaries("backup", "tasks", now - timedelta(days=1), now, 10)
    assert [(mark.outcome, mark.snapshot_bytes, mark.archive_bytes) for mark in marks] == [("published", None, None)]
    survey(context)


@pytest.mark.usefixtures("backed_up")
def test_stopped_and_running_runs_do_not_decide_their_day(context: TaskContext) -> None:
    record(context, "backup", "tasks", "failed", exit_code=143)
    with open_catalog(context.catalog_path) as catalog:
        catalog.start_run("backup", "tasks", datetime.now(UTC))
    day = survey(context).histories[0].days[-1]
    assert (day.state, day.runs, day.failed) == ("verified", 1, 0)


@pytest.mark.usefixtures("backed_up")
def test_newest_of_many_runs_and_generations_are_shown(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_history, "MOST_MARKS", 2)
    monkeypatch.setattr(status_history, "MOST_GENERATIONS", 1)
    newest = survey(context).histories[0].generations[0].id
    backdated(context.store.directory, newest, days=1)
    for days in (300, 200, 5):
        record(context, "backup", "tasks", "failed", timedelta(days=days))
    history = survey(context).histories[0]
    assert [generation.id for generation in history.generations] == [newest]
    assert history.generation_count == 2
    known = [day.state for day in history.days if day.state != "none"]
    assert known[0] == "failed", "what lies before the runs that were read is not called missed"
    assert len(known) in (5, 6)


def test_generations_of_unconfigured_source_are_shown_as_such(backed_up: str, context: TaskContext) -> None:
    backdated(context.store.directory, backed_up, days=1, source="old")
    tasks, old = survey(context).histories
    assert (tasks.source, old.source, old.days, old.points) == ("tasks", "old", (), ())
    assert old.generations[0].kept_for == ("source not configured",)


@pytest.mark.usefixtures("backed_up")
def test_unreadable_holds_are_named_as_reason(context: TaskContext) -> None:
    holds = context.store.hidden / "holds"
    holds.mkdir(exist_ok=True)
    (holds / "tasks.json").mkdir()
    reasons = {reason for one in survey(context).histories[0].generations for reason in one.kept_for}
    assert reasons & {status_history.HOLDS_UNREADABLE, "held: corrupt"}


def test_last_lines_of_any_log_are_read(tmp_path: Path) -> None:
    log = tmp_path / "backup.log"
    good = b'{"@timestamp": "2026-11-25T04:00:00+00:00", "log.level": "INFO", "message": "well"}\n'
    naive = b'{"@timestamp": "2026-11-25T04:00:00", "log.level": "INFO", "message": "naive"}\n'
    log.write_bytes(b"x" * 300_000 + b"\n" + b"\xff\xfe\n" + b"[1]\n" + b"[" * 5000 + b"\n\n" + naive + good + b'{"cut')
    lines = last_lines(log, 4)
    at = datetime(2026, 11, 25, 4, tzinfo=UTC)
    expected = [(at, "INFO", "naive"), (at, "INFO", "well"), (None, "", '{"cut')]
    assert [(line.at, line.level, line.message) for line in lines[1:]] == expected
    assert lines[0].message == "[" * 5000
    assert [line.message for line in last_lines(log, 6)][:2] == ["\ufffd" * 2, "[1]"]
    assert last_lines(tmp_path / "none yet", 3) == ()


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [os.mkfifo, make_link, os.mkdir])
def test_special_file_in_place_of_log_is_not_read(context: TaskContext, make: Callable[[Path], None]) -> None:
    log = context.store.directory / "backup.log"
    log.unlink()
    make(log)
    found = survey(context)
    assert found.unread == ("log",)
    assert found.log == ()
    assert found.stage == "first-day"
