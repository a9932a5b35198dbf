"""The state of each day of the last twelve months."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backupd.catalog import RunSummary
from backupd.model import Outcome
from backupd.schedule import Schedule
from backupd.status.calendar import GRACE, Day, SourceRecords, first_day, judge_days

ZONE = ZoneInfo("America/Santiago")  # UTC-3 in November, and UTC-4 until September 2026
NIGHTLY = Schedule.parse("04:00", ZONE)
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TODAY = date(2026, 11, 25)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def local(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=ZONE).astimezone(UTC)


def mark(at: datetime, outcome: Outcome = "published", exit_code: int = 0) -> RunSummary:
    return RunSummary(at, outcome, exit_code)


def judged(*marks: RunSummary, now: datetime = NOW, schedule: Schedule = NIGHTLY, **more: datetime) -> dict[date, Day]:
    days = judge_days(SourceRecords(marks, begin_at=more.get("begin_at", LONG_AGO)), schedule, now)
    return {day.date: day for day in days}


def test_calendar_begins_on_monday_and_ends_today_without_gap() -> None:
    days = judge_days(SourceRecords(), NIGHTLY, NOW)
    assert days[0].date == first_day(TODAY) == date(2025, 11, 24)
    assert days[0].date.weekday() == 0
    assert days[-1].date == TODAY
    assert [day.date for day in days] == [days[0].date + timedelta(days=n) for n in range(52 * 7 + 3)]


def test_today_is_day_of_configured_zone() -> None:
    early = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)  # still the 24th in Santiago
    assert judge_days(SourceRecords(), NIGHTLY, early)[-1].date == date(2026, 11, 24)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (["published"], "verified"),
        (["unchanged"], "verified"),
        (["degraded"], "degraded"),
        (["failed"], "failed"),
        (["failed", "failed"], "failed"),
        (["failed", "published"], "verified"),
        (["degraded", "published"], "verified"),
        (["published", "failed"], "degraded"),
        (["published", "degraded"], "degraded"),
    ],
)
def test_last_run_of_day_decides_its_state(outcomes: list[Outcome], state: str) -> None:
    marks = [mark(local(20, 4, minute), outcome) for minute, outcome in enumerate(outcomes)]
    day = judged(*marks)[date(2026, 11, 20)]
    assert (day.state, day.runs, day.failed) == (state, len(outcomes), outcomes.count("failed"))


def test_unchanged_run_with_warning_is_degraded() -> None:
    assert judged(mark(local(20, 4), "unchanged", 3))[date(2026, 11, 20)].state == "degraded"


def test_run_counts_for_day_of_configured_zone() -> None:
    days = judged(mark(datetime(2026, 11, 21, 2, 30, tzinfo=UTC)))  # 23:30 of the 20th
    assert days[date(2026, 11, 20)].state == "verified"
    assert days[date(2026, 11, 21)].state == "missed"


def test_day_without_run_is_missed_only_where_one_was_due() -> None:
    weekly = Schedule.parse("sun 05:00", ZONE)
    days = judged(schedule=weekly)
    assert {day.date.weekday() for day in days.values() if day.state == "missed"} == {6}
    assert {day.state for day in days.values()} == {"missed", "none"}


def test_day_before_first_run_is_not_missed() -> None:
    days = judged(mark(local(20, 4)), begin_at=local(20, 4))
    assert days[date(2026, 11, 19)].state == "none"
    assert days[date(2026, 11, 21)].state == "missed"
    never = judge_days(SourceRecords(), NIGHTLY, NOW)
    assert {day.state for day in never} == {"none"}


def test_generation_verifies_its_day_without_run_in_catalog() -> None:
    records = SourceRecords(taken_at=(local(3, 4),))
    assert next(day for day in judge_days(records, NIGHTLY, NOW) if day.date.day == 3 and day.date.month == 11) == Day(
        date(2026, 11, 3), "verified"
    )


def test_run_due_before_midnight_counts_for_that_day() -> None:
    late = Schedule.parse("23:59", ZONE)
    days = judged(mark(local(21, 0, 1)), mark(local(21, 23, 59)), schedule=late, now=local(22, 12))
    assert days[date(2026, 11, 20)].state == "verified"
    assert days[date(2026, 11, 19)].state == "missed"


@pytest.mark.parametrize(
    ("since_due", "state"),
    [
        (-timedelta(minutes=1), "none"),
        (timedelta(), "none"),
        (GRACE - timedelta(seconds=1), "none"),
        (GRACE, "missed"),
    ],
)
def test_run_of_today_is_not_missed_before_its_time_and_grace(since_due: timedelta, state: str) -> None:
    due = local(25, 4)
    assert judged(now=due + since_due)[TODAY].state == state


def test_day_of_clock_change_is_judged_like_others() -> None:
    """Chile skips 2026-09-06 00:00 to 01:00, and repeats 2026-04-04 23:00 to 24:00."""
    marks = [mark(datetime(2026, month, day, 4, tzinfo=ZONE).astimezone(UTC)) for month, day in ((9, 6), (4, 5))]
    days = judged(*sorted(marks, key=lambda one: one.started_at))
    assert days[date(2026, 9, 6)].state == days[date(2026, 4, 5)].state == "verified"
    assert days[date(2026, 9, 5)].state == days[date(2026, 4, 4)].state == "missed"


def test_year_of_runs_each_minute_is_judged() -> None:
    often = Schedule.parse("* * * * *", ZONE)
    assert {day.state for day in judged(schedule=often).values()} <= {"missed", "none"}
