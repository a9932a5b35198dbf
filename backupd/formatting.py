"""Sizes, durations, times and foreign text for people: one format everywhere."""

import re
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo

_UNITS = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 72))
_DAY_S = 86400
_TENTHS_BELOW_S = 9.95
_SPAN = re.compile(r"(\d{1,6}) *(s|min|h|d|w)", re.ASCII)
_UNIT_NAMES = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
SPAN_EXAMPLE = '"48h" or "7d" (s, min, h, d, w)'
_KIB = 1024
LONGEST_LINE = 200


def printable(text: str) -> str:
    """Return `text` with control characters escaped: foreign text must not control the reader's terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


def one_line(text: str) -> str:
    """Return the beginning of `text` in one printable line."""
    return printable(" ".join(text.split()))[:LONGEST_LINE]


def human_duration(seconds: float) -> str:
    """Return a duration in a unit that leaves two digits, with tenths below ten seconds: `2.4 s`, `40 s`, `26 h`."""
    if seconds < _TENTHS_BELOW_S:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    for unit, length_s, below in _UNITS:
        if seconds < length_s * below:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds / _DAY_S:.0f} d"


def human_age(seconds: float) -> str:
    """Return an age as `human_duration` does; a time in the future is `in 3 h`."""
    return f"in {human_duration(-seconds)}" if seconds < 0 else human_duration(seconds)


def parse_span(text: str) -> timedelta:
    """Return the duration that an operator wrote: a whole number and s, min, h, d or w; 0 needs no unit.

    Raises ValueError.
    """
    if text.strip() == "0":
        return timedelta()
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration")
    return timedelta(**{_UNIT_NAMES[found[2]]: int(found[1])})


def written_span(span: timedelta) -> str:
    """Return a duration of whole seconds as `parse_span` reads it: `0`, `90min`, `48h`, `7d`; days from three on."""
    seconds = round(span.total_seconds())
    if seconds == 0:
        return "0"
    for unit, length_s, at_least_s in (("d", _DAY_S, 3 * _DAY_S), ("h", 3600, 0), ("min", 60, 0)):
        if seconds % length_s == 0 and seconds >= at_least_s:
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s"


def local_time(at: datetime, zone: tzinfo, *, seconds: bool = False) -> str:
    """Return a time in `zone` with the short name of the zone, to the minute or second: `2026-11-25 05:00 CET`."""
    with suppress(OverflowError):  # the last hours of the year 9999, which only a forged log line contains
        at = at.astimezone(zone)
    return f"{at:%F %T %Z}" if seconds else f"{at:%F %H:%M %Z}"


def counted(number: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def human_bytes(size_bytes: float) -> str:
    """Return a size with binary units: `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < _KIB:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= _KIB
    return f"{size_bytes:.1f} TiB"
