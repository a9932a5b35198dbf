"""When a task is due: pure, and right across changes of the clocks.

cronsim (https://github.com/cuu508/cronsim) reckons as Debian's cron does: a time that the clocks skip comes right after
the gap, a time that they repeat comes once.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise, takewhile

from cronsim import CronSim, CronSimError

from backupd.model import CLOCK_TOLERANCE

_TIME = re.compile(r"(?:(sun|mon|tue|wed|thu|fri|sat) +)?(\d{1,2}):(\d\d)", re.IGNORECASE | re.ASCII)
_EXPECTED = 'must be a time ("04:00"), a weekday and a time ("sun 05:00") or a cron expression ("0 6 1 * *")'
_FIELDS = 5
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_LAST_DAY_OF_EVERY_MONTH = 28
_LOOK_AHEAD = timedelta(days=2 * 366)
_INSTANTS_LOOKED_AT = 20_000
_FIRST_RETRY = timedelta(minutes=2)
_SLOWEST_RETRY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Instants at which a task is due, by a cron expression of five fields in a time zone."""

    expression: str
    timezone: tzinfo

    @classmethod
    def parse(cls, text: str, timezone: tzinfo) -> "Schedule":
        """Read a time of day, a weekday with one, or a cron expression. Raises ValueError in words for people."""
        time = _TIME.fullmatch(text.strip())
        expression = f"{int(time[3])} {int(time[2])} * * {time[1] or '*'}" if time else text.strip()
        if len(expression.split()) != _FIELDS:
            raise ValueError(f"{_EXPECTED}, not {text!r}")
        try:
            next(CronSim(expression, _ANY_TIME))
        except CronSimError as error:
            raise ValueError(f"{_EXPECTED}, not {text!r}: {error}") from None
        except StopIteration:
            raise ValueError(f"{text!r} never comes") from None
        _refuse_days_that_months_lack(expression)
        return cls(expression, timezone)

    def latest(self, now: datetime) -> datetime:
        """Return the latest due instant at or before `now` (aware); both in UTC."""
        after = now.astimezone(self.timezone) + timedelta(seconds=1)
        return next(CronSim(self.expression, after, reverse=True)).astimezone(UTC)

    def following(self, now: datetime) -> datetime:
        """Return the first due instant after `now` (aware); both in UTC."""
        return next(CronSim(self.expression, now.astimezone(self.timezone))).astimezone(UTC)

    def longest_gap(self, now: datetime) -> timedelta:
        """Return the longest time between two due instants of the two years after `now`."""
        instants = (instant.astimezone(UTC) for instant in CronSim(self.expression, now.astimezone(self.timezone)))
        soon = islice(takewhile(lambda instant: instant < now + _LOOK_AHEAD, instants), _INSTANTS_LOOKED_AT)
        return max((later - earlier for earlier, later in pairwise(soon)), default=_LOOK_AHEAD)


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """What became of a task so far (aware times): when its last successful run began, and when later ones failed."""

    succeeded_at: datetime | None = None
    failed_at: tuple[datetime, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """When a task has to run next, and why; in the past when it is overdue."""

    at: datetime
    reason: str


def plan_next_run(schedule: Schedule, history: TaskHistory, now: datetime) -> Due:
    """Decide when a task has to run next: at once where the latest due time has seen no success.

    Runs of that time that failed are tried again after 2 minutes, 4, 8 and so on, up to an hour. What is dated in the
    future, by a clock that ran ahead, counts for nothing.
    """
    believed = now + CLOCK_TOLERANCE
    latest = schedule.latest(now)
    succeeded_at = history.succeeded_at if history.succeeded_at and history.succeeded_at <= believed else None
    if succeeded_at is not None and succeeded_at >= latest:
        return Due(schedule.following(now), "by schedule")
    failures = [at for at in history.failed_at if latest <= at <= believed]
    if failures:
        wait = min(_FIRST_RETRY * 2 ** min(len(failures) - 1, 10), _SLOWEST_RETRY)
        return Due(min(max(failures) + wait, schedule.following(now)), f"failed {len(failures)} times")
    if succeeded_at is None:
        return Due(now, "there was none yet")
    return Due(latest, "by schedule")


def _refuse_days_that_months_lack(expression: str) -> None:
    """Refuse a schedule that leaves out months: `0 6 31 * *` would drill seven times a year."""
    day_of_month, month = expression.split()[2:4]
    if month == "*" and day_of_month.isdecimal() and int(day_of_month) > _LAST_DAY_OF_EVERY_MONTH:
        raise ValueError(f"not every month has a day {day_of_month}: write L for the last one")


def health_limit(schedule: Schedule, now: datetime) -> timedelta:
    """Return how old a proof may be that is due by `schedule`: the longest wait for the next, and some more."""
    gap = schedule.longest_gap(now)
    return gap + max(gap / 12, timedelta(hours=2))
