"""When a task runs next: one success for each due time, through downtime, crashes, failures and clock changes."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.model import CLOCK_TOLERANCE
from backupd.schedule import Due, Schedule, TaskHistory, plan_next_run
from support.simulated_daemon import SimulatedDaemon
from support.zones import DAY, MINUTE, local, minutes

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
DAILY = Schedule.parse("04:00", UTC)
DUE = datetime(2026, 11, 22, 4, tzinfo=UTC)
YESTERDAY, TOMORROW = DUE - DAY, DUE + DAY


def ticking(*succeeded: datetime, schedule: Schedule = DAILY) -> SimulatedDaemon:
    """Return a daemon whose successful runs so far began at `succeeded`."""
    return SimulatedDaemon(schedule, succeeded=sorted(succeeded))


def runs(daemon: SimulatedDaemon, ticks: Iterable[datetime], *, ends: str = "well") -> list[datetime]:
    """Return those of `ticks` at which a run began; all of them end in the same way."""
    return [tick for tick in ticks if daemon.tick(tick, ends=ends)]


# ---- what is planned


@pytest.mark.parametrize(
    ("history", "now", "due"),
    [
        pytest.param(TaskHistory(), DUE + HOUR, Due(DUE, "there was none yet"), id="none yet"),
        pytest.param(TaskHistory(YESTERDAY), DUE - SECOND, Due(DUE, "by schedule"), id="before"),
        pytest.param(TaskHistory(YESTERDAY), DUE, Due(DUE, "by schedule"), id="at"),
        pytest.param(TaskHistory(YESTERDAY), DUE + HOUR, Due(DUE, "by schedule"), id="overdue"),
        pytest.param(TaskHistory(DUE), DUE + HOUR, Due(TOMORROW, "by schedule"), id="done at the due time"),
        pytest.param(TaskHistory(DUE - SECOND), DUE + HOUR, Due(DUE, "by schedule"), id="begun a second before it"),
        pytest.param(TaskHistory(DUE + 9 * HOUR), DUE + 10 * HOUR, Due(TOMORROW, "by schedule"), id="by hand since"),
        pytest.param(
            TaskHistory(YESTERDAY, (DUE + MINUTE,)),
            DUE + MINUTE,
            Due(DUE + 3 * MINUTE, "the last run failed", retry=True),
            id="failed once",
        ),
        pytest.param(
            TaskHistory(None, (DUE + 9 * MINUTE, DUE + MINUTE, DUE + 4 * MINUTE)),
            DUE + 10 * MINUTE,
            Due(DUE + 17 * MINUTE, "the last 3 runs failed", retry=True),
            id="failed three times, in any order",
        ),
        pytest.param(
            TaskHistory(YESTERDAY, (YESTERDAY + HOUR, DUE - SECOND)),
            DUE,
            Due(DUE, "by schedule"),
            id="failed before the due time only",
        ),
        pytest.param(
            TaskHistory(YESTERDAY, (TOMORROW - MINUTE,)),
            TOMORROW - MINUTE,
            Due(TOMORROW, "the last run failed", retry=True),
            id="no wait beyond the next due time",
        ),
        pytest.param(
            TaskHistory(DUE, (DUE + 9 * HOUR,)),
            DUE + 9 * HOUR,
            Due(DUE + 9 * HOUR + 2 * MINUTE, "the last run failed", retry=True),
            id="failed by hand after the success of its time",
        ),
        pytest.param(
            TaskHistory(YESTERDAY, reconfigured=True),
            DUE + 9 * HOUR,
            Due(DUE, "the configuration or the database file has changed since the last run failed", retry=True),
            id="failed under another configuration",
        ),
        pytest.param(
            TaskHistory(DUE, reconfigured=True),
            DUE + 9 * HOUR,
            Due(DUE, "the configuration or the database file has changed since the last run failed", retry=True),
            id="failed after its success under another configuration",
        ),
        pytest.param(
            TaskHistory(DUE, missing=True),
            DUE + 9 * HOUR,
            Due(DUE, "its database is missing: the backup fails at once, which turns the health red"),
            id="backed up, and missing since",
        ),
        pytest.param(
            TaskHistory(DUE, (DUE + 9 * HOUR,), missing=True),
            DUE + 9 * HOUR,
            Due(DUE + 9 * HOUR + 2 * MINUTE, "the last run failed", retry=True),
            id="missing, and already said so",
        ),
        pytest.param(
            TaskHistory(DUE, (DUE - SECOND, DUE)),
            DUE + HOUR,
            Due(TOMORROW, "by schedule"),
            id="failures that were mended",
        ),
        pytest.param(
            TaskHistory(DUE + HOUR + CLOCK_TOLERANCE),
            DUE + HOUR,
            Due(TOMORROW, "by schedule"),
            id="hardly in the future",
        ),
        pytest.param(
            TaskHistory(DUE + HOUR + CLOCK_TOLERANCE + SECOND),
            DUE + HOUR,
            Due(DUE, "the last one is dated in the future"),
            id="in the future",
        ),
        pytest.param(
            TaskHistory(YESTERDAY, (DUE + 2 * HOUR,)), DUE + HOUR, Due(DUE, "by schedule"), id="failed in the future"
        ),
    ],
)
def test_next_run_follows_history(history: TaskHistory, now: datetime, due: Due) -> None:
    assert plan_next_run(DAILY, history, now) == due


def test_retry_intervals_double_from_two_minutes_to_an_hour() -> None:
    waits = [plan_next_run(DAILY, TaskHistory(None, (DUE,) * n), DUE).at - DUE for n in (*range(1, 9), 5000)]
    assert waits == [n * MINUTE for n in (2, 4, 8, 16, 32, 60, 60, 60, 60)]


# ---- what happens


@pytest.mark.parametrize("down", [5 * MINUTE, HOUR, 23 * HOUR, 2 * DAY + HOUR, 31 * DAY, 400 * DAY], ids=str)
@pytest.mark.parametrize(
    "schedule", [DAILY, Schedule.parse("04:00", ZoneInfo("America/Santiago"))], ids=["UTC", "Santiago"]
)
def test_downtime_over_due_time_is_followed_by_one_run(down: timedelta, schedule: Schedule) -> None:
    due = schedule.following(DUE)
    daemon = ticking(due - DAY, schedule=schedule)
    up_again = due + down - MINUTE
    assert runs(daemon, minutes(up_again, schedule.following(up_again) - MINUTE, 7 * MINUTE)) == [up_again]


def test_downtime_between_due_times_causes_no_run() -> None:
    assert runs(ticking(DUE), minutes(DUE + 20 * HOUR, TOMORROW - MINUTE)) == []


def test_crashed_run_is_repeated_at_next_start() -> None:
    daemon = ticking(YESTERDAY)
    assert runs(daemon, [DUE], ends="never") == [DUE]
    assert runs(daemon, minutes(DUE + 5 * MINUTE, TOMORROW - MINUTE, 5 * MINUTE)) == [DUE + 5 * MINUTE]


def test_crash_recorded_as_failure_is_retried_after_interval() -> None:
    daemon = ticking(YESTERDAY)
    restart = DUE + 5 * MINUTE
    daemon.failed.append(restart)
    assert runs(daemon, minutes(restart, TOMORROW - MINUTE)) == [restart + 2 * MINUTE]


def test_failing_backup_is_retried_with_growing_intervals_and_at_next_due_time() -> None:
    tries = runs(ticking(YESTERDAY), minutes(DUE, TOMORROW + MINUTE), ends="badly")
    after = [tried - DUE for tried in tries]
    assert after[:8] == [n * MINUTE for n in (0, 2, 6, 14, 30, 62, 122, 182)]
    assert {later - earlier for earlier, later in pairwise(after[5:-1])} == {HOUR}
    assert tries[-1] == TOMORROW


def test_first_success_after_failures_ends_retries() -> None:
    daemon = ticking(YESTERDAY)
    runs(daemon, minutes(DUE, DUE + HOUR), ends="badly")
    assert runs(daemon, minutes(DUE + HOUR, TOMORROW)) == [DUE + 62 * MINUTE, TOMORROW]


def test_run_started_before_due_time_does_not_count_for_it() -> None:
    """Its snapshot is from before; `succeeded_at` is when a run began, however long it took."""
    daemon = ticking()
    assert runs(daemon, [DUE - MINUTE, DUE + 30 * MINUTE, DUE + HOUR]) == [DUE - MINUTE, DUE + 30 * MINUTE]


def test_backup_in_repeated_hour_is_not_repeated() -> None:
    name = "Europe/Berlin"
    schedule = Schedule.parse("02:30", ZoneInfo(name))
    first_pass = local("2026-10-25 02:30", name)
    daemon = ticking(first_pass, schedule=schedule)
    assert runs(daemon, minutes(first_pass, local("2026-10-26 02:29", name), 2 * MINUTE)) == []


@pytest.mark.parametrize("jump", [3 * MINUTE, 3 * HOUR, DAY + HOUR, 366 * DAY + HOUR], ids=str)
def test_clock_jump_over_due_time_causes_one_backup(jump: timedelta) -> None:
    daemon = ticking(YESTERDAY)
    landed = DUE - MINUTE + jump
    assert runs(daemon, [DUE - MINUTE, landed, landed + MINUTE, landed + 2 * MINUTE]) == [landed]


@pytest.mark.parametrize("jump", [MINUTE, 9 * MINUTE], ids=str)
def test_clock_set_back_by_minutes_over_due_time_causes_no_second_backup(jump: timedelta) -> None:
    daemon = ticking(DUE)
    assert runs(daemon, minutes(DUE - jump, TOMORROW - MINUTE)) == []


@pytest.mark.parametrize("jump", [DAY, 366 * DAY], ids=str)
def test_temporarily_wrong_clock_causes_one_backup(jump: timedelta) -> None:
    """What was dated in the future neither keeps off the next backup nor makes one each minute."""
    daemon = ticking(YESTERDAY)
    ahead = runs(daemon, minutes(DUE - HOUR + jump, DUE - HOUR + jump + 10 * MINUTE))
    assert ahead == [DUE - HOUR + jump]
    assert runs(daemon, minutes(DUE - HOUR, DUE + HOUR)) == [DUE]


def test_clock_set_back_by_a_year_causes_one_backup_and_next_at_due_time() -> None:
    daemon = ticking(DUE)
    back = DUE + HOUR - 365 * DAY
    assert runs(daemon, minutes(back, back + DAY)) == [back, back + 23 * HOUR]


def test_clock_corrected_from_1970_causes_one_backup() -> None:
    daemon = ticking(YESTERDAY)
    power_on = datetime(1970, 1, 1, tzinfo=UTC)
    assert runs(daemon, [power_on, power_on + MINUTE, DUE + HOUR, DUE + HOUR + MINUTE]) == [power_on, DUE + HOUR]


def test_future_success_alone_would_run_each_minute() -> None:
    """Why TaskHistory wants the last success that is not dated in the future."""
    future = TaskHistory(DUE + 366 * DAY)
    assert all(plan_next_run(DAILY, future, now).at <= now for now in minutes(DUE, DUE + HOUR))
    assert runs(ticking(DUE, DUE + 366 * DAY), minutes(DUE, DUE + HOUR)) == []


# ---- what holds for every history

_SCHEDULES = st.builds(
    Schedule.parse,
    st.sampled_from(["04:00", "02:30", "sun 00:00", "0 6 L * *", "0 * * * *", "*/20 * * * *"]),
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/Santiago")]),
)
_INSTANTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds of `datetimes` are naive
_AGES = st.timedeltas(timedelta(), 3 * DAY)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Schedule, TaskHistory, datetime]:
    """Return a schedule, what became of it, and a time that is not before any of that."""
    now = draw(_INSTANTS)
    succeeded_at = draw(st.none() | _AGES.map(lambda age: now - age))
    failed_at = draw(st.lists(_AGES.map(lambda age: now - age), max_size=8))
    return draw(_SCHEDULES), TaskHistory(succeeded_at, tuple(failed_at)), now


@given(situations(), st.timedeltas(timedelta(), 40 * HOUR))
@settings(deadline=None, max_examples=60)
def test_plan_is_stable_until_run_ends(situation: tuple[Schedule, TaskHistory, datetime], passed: timedelta) -> None:
    """What is due stays due, and what is not is due exactly when it was told."""
    schedule, history, now = situation
    told = plan_next_run(schedule, history, now)
    assert plan_next_run(schedule, history, now) == told
    later = plan_next_run(schedule, history, now + passed)
    if told.at <= now + passed:
        assert later.at <= now + passed
    else:
        assert later == told


@given(situations())
@settings(deadline=None, max_examples=60)
def test_success_now_delays_next_run_until_due_time(situation: tuple[Schedule, TaskHistory, datetime]) -> None:
    schedule, history, now = situation
    done = TaskHistory(now, history.failed_at)
    assert plan_next_run(schedule, done, now) == Due(schedule.following(now), "by schedule")


@given(situations())
@settings(deadline=None, max_examples=60)
def test_next_run_is_never_after_next_due_time(situation: tuple[Schedule, TaskHistory, datetime]) -> None:
    schedule, history, now = situation
    assert plan_next_run(schedule, history, now).at <= schedule.following(now)


@given(situations())
@settings(deadline=None, max_examples=60)
def test_failure_never_advances_next_run(situation: tuple[Schedule, TaskHistory, datetime]) -> None:
    schedule, history, now = situation
    failed = TaskHistory(history.succeeded_at, (*history.failed_at, now))
    assert plan_next_run(schedule, failed, now).at > now
