"""Spans of time in words, and as operators write them: `90min`, `48h`, `7d`."""

import re
from datetime import timedelta

_UNITS = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 72))
_DAY_S = 86400
_TENTHS_BELOW_S = 9.95
_SPAN = re.compile(r"(\d{1,6}) *(s|min|h|d|w)", re.ASCII)
_UNIT_NAMES = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
SPAN_EXAMPLE = '"48h" or "7d" (s, min, h, d, w)'


def human_span(seconds: float) -> str:
    """Return a span as people say it, in a unit that leaves two digits: `40 s`, `26 h`, `9 d`."""
    for unit, length_s, below in _UNITS:
        if seconds < length_s * below:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds / _DAY_S:.0f} d"


def human_age(seconds: float) -> str:
    """Return an age as `human_span` does; a time in the future is `in 3 h`."""
    return f"in {human_span(-seconds)}" if seconds < 0 else human_span(seconds)


def human_duration(seconds: float) -> str:
    """Return how long something took: tenths of a second below ten seconds, and above them as `human_span` does."""
    return f"{seconds:.1f} s" if seconds < _TENTHS_BELOW_S else human_span(seconds)


def parse_span(text: str) -> timedelta:
    """Return the span that an operator wrote: a whole number and s, min, h, d or w; 0 needs no unit.

    Raises ValueError, with no advice.
    """
    if text.strip() == "0":
        return timedelta()
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no span of time")
    return timedelta(**{_UNIT_NAMES[found[2]]: int(found[1])})


def written_span(span: timedelta) -> str:
    """Return a span of whole seconds as `parse_span` reads it: `0`, `90min`, `48h`, `7d`; days from three on."""
    seconds = round(span.total_seconds())
    if seconds == 0:
        return "0"
    for unit, length_s, at_least_s in (("d", _DAY_S, 3 * _DAY_S), ("h", 3600, 0), ("min", 60, 0)):
        if seconds % length_s == 0 and seconds >= at_least_s:
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s"
