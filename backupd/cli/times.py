"""Times as operators write them."""

import re
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from backupd.config import Config
from backupd.errors import UsageError

_SECONDS = re.compile(r"[T ]\d\d:?\d\d:?\d\d")


def read_time(text: str | None, config: Config) -> datetime | None:
    """Return the last instant that a time means, in UTC: a date means its whole day, one without seconds its minute.

    One without a zone is meant in `schedule.timezone`. Raises UsageError.
    """
    if text is None:
        return None
    try:
        time = _last_instant(text)
        if time.tzinfo:
            return time.astimezone(UTC)
        local = time.replace(tzinfo=ZoneInfo(config.schedule.timezone))
        return max(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))  # a clock set back shows it twice
    except (ValueError, OverflowError):  # the year 1 and the year 9999 may lie outside the calendar in UTC
        raise UsageError(f"{text!r} is no time", 'write it like "2026-11-20 14:00" (or with a zone, +01:00)') from None


def _last_instant(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if _is_date(text):
        return time.replace(hour=23, minute=59, second=59, microsecond=999_999)
    if _SECONDS.search(text):
        return time
    return time.replace(second=59, microsecond=999_999)  # a backup of 04:00 was taken some seconds later


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
