"""Local time told without cron: when the clocks of a zone change, and when they first show a time."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
YEARS_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
YEARS_END = datetime(2031, 1, 1, tzinfo=UTC)

# Clocks that change at 02:00, 00:00 or 24:00, by half an hour to two hours, twice more around Ramadan, or never.
ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/Sao_Paulo",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Pacific/Apia",
    "UTC",
)


@cache
def transitions(zone: tzinfo, start: datetime = YEARS_BEGIN, end: datetime = YEARS_END) -> list[datetime]:
    """Return the instants from `start` to `end` at which the clocks of `zone` change."""
    found = []
    at = start
    while at < end:
        if _offset(at, zone) != _offset(at + DAY, zone):
            found.append(next(m for m in minutes(at, at + DAY) if _offset(m, zone) != _offset(m - MINUTE, zone)))
        at += DAY
    return found


def minutes(start: datetime, end: datetime, step: timedelta = MINUTE) -> Iterator[datetime]:
    """Yield the instants from `start` to `end`, both told, one each `step`."""
    while start <= end:
        yield start
        start += step


def first_shown(wall: datetime, zone: tzinfo) -> datetime:
    """Return the instant at which the clocks of `zone` first show `wall` (naive) or, where they skip it, more."""
    as_utc = wall.replace(tzinfo=UTC)
    before, after = _offset(as_utc - DAY, zone), _offset(as_utc + DAY, zone)
    if before == after:
        return as_utc - before
    soonest = as_utc - max(before, after)
    return next(m for m in minutes(soonest, as_utc + DAY) if m.astimezone(zone).replace(tzinfo=None) >= wall)


@cache
def due_days(
    zone: tzinfo, at: time, is_due: Callable[[date], bool], start: datetime = YEARS_BEGIN, end: datetime = YEARS_END
) -> list[datetime]:
    """Return the instants from `start` to `end` when the time `at` comes on the days that `is_due` tells."""
    days = (start.date() + n * DAY for n in range(-1, (end - start).days + 2))
    instants = (first_shown(datetime.combine(day, at), zone) for day in days if is_due(day))
    return [instant for instant in instants if start <= instant < end]


def newly_shown(start: datetime, end: datetime, zone: tzinfo) -> Iterator[tuple[datetime, list[datetime]]]:
    """Yield each minute up to `end` with the times (naive) that the clocks first show, or have just skipped, in it.

    Knows nothing of what was before `start`, which should be no time that clocks repeat.
    """
    highest = start.astimezone(zone).replace(tzinfo=None) - MINUTE
    for minute in minutes(start, end):
        shown = minute.astimezone(zone).replace(tzinfo=None)
        yield minute, list(minutes(highest + MINUTE, shown))
        highest = max(highest, shown)


def local(text: str, zone: str, *, fold: int = 0) -> datetime:
    """Return the instant of a local time such as `2026-10-25 02:30`; `fold` 1: its second pass."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def _offset(at: datetime, zone: tzinfo) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
