"""What became of each day of the last twelve months: a pure judgement of one source, by its runs and its schedule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal

from backupd.catalog import RunSummary
from backupd.schedule import Schedule

DayState = Literal["verified", "degraded", "failed", "missed", "none"]

WEEKS: Final = 53
# A run that was due at 23:59 may begin after midnight; so long it counts for the day on which it was due.
GRACE: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_DEGRADED_EXIT: Final = 3


@dataclass(frozen=True, slots=True)
class Day:
    """One day in the configured time zone, with the number of runs that ended, and how many of those failed.

    `verified`: its last run made or confirmed a verified copy. `degraded`: it did so with a warning, or failed after
    another had succeeded. `failed`: no run succeeded. `missed`: one was due and none ran. `none`: none was due, or
    nothing is known of that day.
    """

    date: date
    state: DayState
    runs: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class SourceRecords:
    """What is known of the backups of one source: its runs, oldest first, and when those that still exist were taken.

    `begin_at` is when the first run began that anything is known of; no day before it was missed.
    """

    marks: tuple[RunSummary, ...] = ()
    taken_at: tuple[datetime, ...] = ()
    begin_at: datetime | None = None


def first_day(today: date) -> date:
    """Return the Monday with which the last `WEEKS` weeks begin, the one of `today` being the last."""
    return today - timedelta(days=today.weekday(), weeks=WEEKS - 1)


def judge_days(records: SourceRecords, schedule: Schedule, now: datetime) -> tuple[Day, ...]:
    """Judge every day from `first_day` to that of `now` (aware), in the zone of `schedule`, by the schedule of now."""
    zone = schedule.timezone
    today = now.astimezone(zone).date()
    by_day = runs_by_day(records.marks, zone)
    verified = {taken_at.astimezone(zone).date() for taken_at in records.taken_at}
    days = (first_day(today) + index * _DAY for index in range((WEEKS - 1) * 7 + today.weekday() + 1))
    return tuple(
        Day(day, "verified") if day in verified and day not in by_day else _judge(day, by_day, records, schedule, now)
        for day in days
    )


def runs_by_day(marks: Iterable[RunSummary], zone: tzinfo) -> dict[date, list[RunSummary]]:
    """Return the runs, in their order, by the day in `zone` on which each began."""
    found: dict[date, list[RunSummary]] = {}
    for mark in marks:
        found.setdefault(mark.started_at.astimezone(zone).date(), []).append(mark)
    return found


def _judge(
    day: date, by_day: Mapping[date, Sequence[RunSummary]], records: SourceRecords, schedule: Schedule, now: datetime
) -> Day:
    if runs := by_day.get(day):
        return _ran(day, runs)
    if records.begin_at is None or day < records.begin_at.date() - _DAY:  # by far the most
        return Day(day, "none")
    due = _last_due(day, schedule, now)
    if due is None or due < records.begin_at:
        return Day(day, "none")
    if late := [run for run in by_day.get(day + _DAY, ()) if run.started_at < due + GRACE]:
        return _ran(day, late)
    return Day(day, "none" if now < due + GRACE else "missed")


def _ran(day: date, runs: Sequence[RunSummary]) -> Day:
    failed = sum(run.outcome == "failed" for run in runs)
    warned = runs[-1].outcome in ("failed", "degraded") or runs[-1].exit_code == _DEGRADED_EXIT
    state: DayState = "failed" if failed == len(runs) else "degraded" if warned else "verified"
    return Day(day, state, len(runs), failed)


def _last_due(day: date, schedule: Schedule, now: datetime) -> datetime | None:
    """Return the last instant of `day`, up to `now`, at which a run was due."""
    end = datetime.combine(day + _DAY, time(), schedule.timezone).astimezone(UTC) - timedelta(microseconds=1)
    return _last_due_until(min(end, now), day, schedule)


@lru_cache(maxsize=8 * WEEKS * 7)  # most sources have one schedule, and most days have ended
def _last_due_until(end: datetime, day: date, schedule: Schedule) -> datetime | None:
    due = schedule.latest(end)
    return due if due >= datetime.combine(day, time(), schedule.timezone).astimezone(UTC) else None
