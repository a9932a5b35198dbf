"""When a task is due: pure decisions, correct across changes of the clocks.

cronsim (https://github.com/cuu508/cronsim) follows Debian's cron: a time that the clocks skip is due right after the
gap, a time that they repeat is due once. Only a schedule for every hour stays hourly across a change.
"""

import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import dropwhile, islice, takewhile
from pathlib import Path

from cronsim import CronSim, CronSimError

from backupd.model import CLOCK_TOLERANCE, Task


@dataclass(frozen=True, slots=True)
class Schedule:
    """The instants at which a task is due: a cron expression of five fields in a time zone; made by `parse`."""

    expression: str
    timezone: tzinfo

    @classmethod
    def parse(cls, text: str, timezone: tzinfo) -> "Schedule":
        """Read a time of day, a weekday and a time, or a cron expression. Raises ValueError with a readable message."""
        time = _TIME.fullmatch(text.strip())
        expression = f"{int(time[3])} {int(time[2])} * * {time[1] or '*'}" if time else text.strip()
        if len(expression.split()) != _FIELDS:
            raise ValueError(f"{_EXPECTED}, not {text!r}")
        try:
            cron = CronSim(expression, _ANY_TIME)
            next(cron)
        except CronSimError as error:
            raise ValueError(f"{_EXPECTED}, not {text!r}: {error}") from None
        except StopIteration:
            raise ValueError(f"{text!r} never occurs") from None
        _refuse_days_that_months_lack(cron)
        return cls(_spell_out_hours(expression, cron), timezone)

    def latest(self, now: datetime) -> datetime:
        """Return the latest due instant at or before `now` (aware); both in UTC."""
        # Backwards, cronsim takes the second pass of a repeated hour for the first: iterate forwards to be exact.
        backwards = CronSim(self.expression, now.astimezone(self.timezone), reverse=True)
        latest = next(backwards).astimezone(UTC)
        for instant in takewhile(lambda instant: instant <= now, self._after(latest)):
            latest = instant
        return latest

    def following(self, now: datetime) -> datetime:
        """Return the first due instant after `now` (aware); both in UTC."""
        return next(self._after(now))

    def longest_gap(self, now: datetime) -> timedelta:
        """Return the longest time between two due instants, from the one before `now` to two years later.

        Compares the first 1,440, the most that a day can have, one by one, and then one a day: for schedules of more
        than two times a day it may miss the gap that a change of the clocks lengthens.
        """
        at, until, longest = self.latest(now), now + _LOOK_AHEAD, timedelta()
        for instant in islice(self._after(at), _MINUTES_OF_A_DAY):
            at, longest = instant, max(longest, instant - at)
            if at > until:
                return longest
        while at <= until:
            leap = self.latest(at + max(longest, _DAY))
            if leap == at:
                leap = self.following(at)
                longest = max(longest, leap - at)
            at = leap
        return longest

    def _after(self, now: datetime) -> Iterator[datetime]:
        """Yield the due instants after `now` in UTC; the second pass of a repeated hour does not repeat the first."""
        instants = (instant.astimezone(UTC) for instant in CronSim(self.expression, now.astimezone(self.timezone)))
        return dropwhile(lambda instant: instant <= now, instants)


@dataclass(frozen=True, slots=True)
class Planned:
    """A task of one source or replica, with its schedule; a drill is from `store`, a backup of the file `database`."""

    task: Task
    source: str
    schedule: Schedule
    store: str = ""
    database: Path | None = None

    def __str__(self) -> str:
        place = f" from {self.store}" if self.store else ""
        return f"{self.task} {'to' if self.task == 'replicate' else 'of'} {self.source}{place}"


_TIME = re.compile(r"(?:(sun|mon|tue|wed|thu|fri|sat) +)?(\d{1,2}):(\d\d)", re.IGNORECASE | re.ASCII)
_EXPECTED = 'must be a time ("04:00"), a weekday and a time ("sun 05:00") or a cron expression ("0 6 1 * *")'
_FIELDS = 5
_HOURS_OF_A_DAY = 24
_MINUTES_OF_A_DAY = 24 * 60
_DAY = timedelta(days=1)
_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_COMMON_YEAR = 2026
_LOOK_AHEAD = timedelta(days=2 * 366)
_FIRST_RETRY = timedelta(minutes=2)
_SLOWEST_RETRY = timedelta(hours=1)
_BY_SCHEDULE = "by schedule"
_MISSING = "its database is missing: the backup fails at once, which turns the health red"
_RECONFIGURED = "the configuration or the database file has changed since the last run failed"


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """The runs of a task so far (aware times)."""

    succeeded_at: datetime | None = None  # when the last successful run began
    failed_at: tuple[datetime, ...] = ()  # when runs under the present configuration failed
    reconfigured: bool = False  # whether all failures since the last success were under another configuration
    missing: bool = False  # whether the database to be backed up does not exist now


@dataclass(frozen=True, slots=True)
class Due:
    """When a task has to run next, and why; in the past if it is overdue. `retry`: the last run failed."""

    at: datetime
    reason: str
    retry: bool = False


def plan_next_run(schedule: Schedule, history: TaskHistory, now: datetime) -> Due:
    """Decide when a task has to run next: at once if no run has succeeded since the latest due time.

    Failed runs since then are retried after 2 minutes, 4, 8 and so on, up to an hour; so is one that failed after the
    success of its time, by hand for example. A changed configuration is a reason to retry at once, and so is a missing
    database: its failure turns the health red. Runs dated in the future, under a wrong clock, do not count.
    """
    not_in_future = now + CLOCK_TOLERANCE
    succeeded_at = history.succeeded_at if history.succeeded_at and history.succeeded_at <= not_in_future else None
    latest = schedule.latest(now)
    following = None if succeeded_at is None else schedule.following(succeeded_at)
    done_at = succeeded_at if following is not None and following > now else None
    failures = [at for at in history.failed_at if at <= not_in_future and (at > done_at if done_at else at >= latest)]
    if failures:
        retry_at = max(failures) + min(_FIRST_RETRY * (1 << min(len(failures) - 1, 10)), _SLOWEST_RETRY)
        reason = "the last run failed" if len(failures) == 1 else f"the last {len(failures)} runs failed"
        return Due(min(retry_at, schedule.following(now)), reason, retry=True)
    if history.reconfigured:
        return Due(latest, _RECONFIGURED, retry=True)
    if done_at is not None and following is not None:
        return Due(latest, _MISSING) if history.missing else Due(following, _BY_SCHEDULE)
    if succeeded_at is not None:
        return Due(latest, _BY_SCHEDULE)
    return Due(latest, "the last one is dated in the future" if history.succeeded_at else "there was none yet")


def _refuse_days_that_months_lack(cron: CronSim) -> None:
    """Reject a schedule that skips months: `0 6 31 * *` would drill seven times a year."""
    first = min(cron.days)
    if cron.day_and and any(first > monthrange(_COMMON_YEAR, month)[1] for month in cron.months):
        raise ValueError(f"not every month has a day {first}: write L for the last one")


def _spell_out_hours(expression: str, cron: CronSim) -> str:
    """Return the expression without a star in its time of day, unless it is for every hour.

    cronsim treats a star in minute or hour as "hourly across a change of the clocks": `0 */6 * * *` would lose the
    00:00 that Santiago skips in spring, and the 06:00 after each change by half an hour on Lord Howe Island.
    """
    minute, hour, *days = expression.split()
    if len(cron.hours) == _HOURS_OF_A_DAY:
        return " ".join((minute, "*", *days))
    return " ".join((minute.replace("*", "0-59"), hour.replace("*", "0-23"), *days))
