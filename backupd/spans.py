"""Spans of time in words."""

_UNITS = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 72))
_DAY_S = 86400


def human_span(seconds: float) -> str:
    """Return a span as people say it, in a unit that leaves two digits: `40 s`, `26 h`, `9 d`."""
    for unit, length_s, below in _UNITS:
        if seconds < length_s * below:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds / _DAY_S:.0f} d"
