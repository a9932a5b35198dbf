"""The time zone that TZ means, which other programs read more freely than an IANA name."""

import os
from zoneinfo import ZoneInfo

_DIRECTORY = "/zoneinfo/"


def is_time_zone(name: str) -> bool:
    """Tell whether `name` is that of an IANA time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a directory, such as "Europe"
        return False
    return True


def zone_of(text: str) -> str | None:
    """Return the IANA name that TZ=`text` means: the name itself or a file of that name, after a ":" or not.

    None where it means none: POSIX rules ("CET-1CEST") tell when the clocks change, but are no time zone.
    """
    text = text.removeprefix(":")
    names = [text]
    if text.startswith("/"):
        names = [path.rpartition(_DIRECTORY)[2] for path in (text, _real(text)) if _DIRECTORY in path]
    return next((name for name in names if name and is_time_zone(name)), None)


def unread_zone(text: str) -> str:
    """Say that TZ=`text` is not understood, and what to set."""
    return f"TZ={text[:60]!r} is no IANA time zone, so days and times are those of UTC: set TZ to one (Europe/Berlin)"


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # no path at all
        return path
