"""Text that others wrote, made fit for a terminal and a log."""

import re
from urllib.parse import unquote_plus

_SHORTEST_SECRET = 4
_LONGEST_LINE = 200


def printable(text: str) -> str:
    """Return `text` with control characters escaped: what others wrote must not steer the reader's terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


def without_secrets(text: str, url: str) -> str:
    """Return the beginning of `text` in one line, with every part of `url` masked that could be a secret."""
    scheme, _, rest = url.partition("://")
    parts = [part for marks in (r"[/:@?&=,;#\s]+", r"[/:@?&=,;#\s+]+") for part in re.split(marks, rest or scheme)]
    words = {rest, *parts, *(unquote_plus(part) for part in parts)}
    for word in sorted((word for word in words if len(word) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(word, "[secret]")
    return " ".join(text.split())[:_LONGEST_LINE]
