"""The daemon from inside: its own tick, a real catalog, and a clock set by the test."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backupd.catalog import catalog_errors, open_catalog
from backupd.daemon.daemon import Daemon
from backupd.daemon.task_queue import TaskRequest, TaskResult
from backupd.errors import CatalogDiskError
from backupd.report import RunDetails, RunReport
from backupd.schedule import Planned, Schedule
from backupd.tasks.context import TaskContext
from support.command import log_lines

BERLIN = ZoneInfo("Europe/Berlin")


@dataclass
class Clock:
    """Returns the time that it was set to."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class FakeQueues:
    """Runs a task in no time: it is in the catalog as a run, succeeded or failed, or leaves nothing at all."""

    context: TaskContext
    outcome: str = "published"
    began: list[datetime] = field(default_factory=list)
    remembered: list[TaskResult] = field(default_factory=list)

    def submit(self, *requests: TaskRequest) -> tuple[TaskRequest, ...]:
        for request in requests:
            self.run(request)
        return requests

    def run(self, request: TaskRequest) -> None:
        now = self.context.clock()
        self.began.append(now)
        if self.outcome == "lost":
            return
        report = RunReport(request.task, request.source, now, RunDetails(), self.outcome)  # type: ignore[arg-type] - the test says what
        with open_catalog(self.context.catalog_path) as catalog:
            catalog.record_run(report, now, self.context.configuration())
        self.remembered.append(TaskResult(now, now, 1 if self.outcome == "failed" else 0))

    def results(self, _request: TaskRequest) -> tuple[TaskResult, ...]:
        return tuple(self.remembered)

    def alive(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 3, 27, 12, tzinfo=UTC))


@pytest.fixture
def queues(context: TaskContext, clock: Clock) -> FakeQueues:
    return FakeQueues(replace(context, clock=clock))


@pytest.fixture
def daemon(queues: FakeQueues) -> Iterator[Daemon]:
    planned = (Planned("backup", "tasks", Schedule.parse("02:30", BERLIN)),)
    daemon = Daemon(planned, queues, queues.context)  # type: ignore[arg-type] - queues without processes
    yield daemon
    daemon._claims.release_all()


def tick_until(daemon: Daemon, clock: Clock, end: datetime, every: timedelta = timedelta(minutes=20)) -> None:
    """Tick on, as the time goes by."""
    for step in count():
        if clock.now >= end:
            return
        daemon._tick()
        clock.now += every if step % 2 else every - timedelta(seconds=1)


@pytest.mark.no_cover
@pytest.mark.parametrize("change", [datetime(2026, 3, 27, 12, tzinfo=UTC), datetime(2026, 10, 23, 12, tzinfo=UTC)])
def test_each_day_gets_one_backup_when_its_time_is_skipped_or_repeated(
    daemon: Daemon, queues: FakeQueues, clock: Clock, change: datetime
) -> None:
    clock.now = change
    tick_until(daemon, clock, change + timedelta(days=4))
    days = [began.astimezone(BERLIN).date() for began in queues.began]
    first = change.astimezone(BERLIN).date()
    assert days == [first, *(first + timedelta(days=day) for day in range(1, 5))]


def test_month_without_daemon_is_caught_up_by_one_backup(daemon: Daemon, queues: FakeQueues, clock: Clock) -> None:
    daemon._tick()
    clock.now += timedelta(days=31)
    daemon._tick()
    daemon._tick()
    assert len(queues.began) == 2


def test_failed_task_is_retried_with_growing_intervals(daemon: Daemon, queues: FakeQueues, clock: Clock) -> None:
    queues.outcome = "failed"
    tick_until(daemon, clock, clock.now + timedelta(hours=6), timedelta(minutes=1))
    gaps = [round((b - a).total_seconds() / 60) for a, b in zip(queues.began, queues.began[1:], strict=False)]
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[0] <= 3
    assert 55 <= gaps[-1] <= 62


def test_failed_task_is_retried_at_once_after_a_change_of_the_configuration(
    daemon: Daemon, queues: FakeQueues, clock: Clock
) -> None:
    digest = ["aaaa"]
    queues.context = daemon._context = replace(queues.context, configuration=lambda: digest[0])
    queues.outcome = "failed"
    tick_until(daemon, clock, clock.now + timedelta(hours=3), timedelta(minutes=1))
    before = len(queues.began)
    daemon._tick()
    assert len(queues.began) == before, "it waits"
    digest[0] = "bbbb"
    daemon._tick()
    assert len(queues.began) == before + 1
    daemon._tick()
    assert len(queues.began) == before + 1, "it waits again"


def test_success_dated_by_a_clock_ahead_hides_no_true_one(daemon: Daemon, queues: FakeQueues, clock: Clock) -> None:
    daemon._tick()
    ahead = clock.now + timedelta(days=365)
    queues.remembered.append(TaskResult(ahead, ahead, 0))
    daemon._tick()
    assert len(queues.began) == 1
    clock.now += timedelta(days=1)
    daemon._tick()
    assert len(queues.began) == 2


def test_stopped_queue_and_stalled_scheduler_are_reported(
    context: TaskContext, queues: FakeQueues, daemon: Daemon
) -> None:
    daemon._tick()
    assert daemon.alive() == ()
    queues.alive = lambda: False  # type: ignore[method-assign] - as if its thread had died
    daemon._scheduler._ticked_at -= 1000
    first, second = daemon.alive()
    assert first.startswith("the scheduler has not fired for 100")
    assert second == "a task queue has stopped"
    assert context.catalog_path.exists()


@pytest.mark.parametrize("whose", ["a newer backupd's", "a link's"])
def test_foreign_catalog_is_logged_once_and_needs_no_restart(
    context: TaskContext, daemon: Daemon, queues: FakeQueues, whose: str
) -> None:
    queues.outcome = "lost"
    daemon._tick()
    if whose == "a link's":
        context.catalog_path.symlink_to(context.catalog_path.rename(context.catalog_path.with_name("elsewhere")))
    else:
        with closing(sqlite3.connect(context.catalog_path)) as connection:
            connection.execute("PRAGMA user_version = 999")
    daemon._tick()
    daemon._tick()
    assert daemon.alive() == ()
    (told,) = [line for line in log_lines(context.store.directory) if line["event.action"] == "catalog.unavailable"]
    assert re.search("backupd catalog rebuild|remove it: the next backup creates", told["backupd.hint"])
    assert len(queues.began) == 3, "backups go on"


def test_full_disk_needs_no_restart(daemon: Daemon, queues: FakeQueues) -> None:
    daemon._tick()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    with pytest.raises(CatalogDiskError, match="disk I/O error") as told, catalog_errors(Path("catalog")):
        raise error
    assert "free some space" in told.value.hint
    assert queues.began
