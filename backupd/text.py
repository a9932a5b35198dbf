"""Text that others wrote, made fit for a terminal and a log."""

import re
from urllib.parse import quote, unquote_plus

_SHORTEST_SECRET = 4
_LONGEST_LINE = 200


def printable(text: str) -> str:
    """Return `text` with control characters escaped: what others wrote must not steer the reader's terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


def one_line(text: str) -> str:
    """Return the beginning of `text`, which a stranger wrote, in one line and printable."""
    return printable(" ".join(text.split()))[:_LONGEST_LINE]


def without_secrets(text: str, url: str) -> str:
    """Return the beginning of `text` in one line, with every part of `url` masked that could be a secret.

    As it stands there, unquoted, and as others would quote it anew or print it, in upper or lower case.
    """
    scheme, _, rest = url.partition("://")
    parts = [part for marks in (r"[/:@?&=,;#\s]+", r"[/:@?&=,;#\s+]+") for part in re.split(marks, rest or scheme)]
    plain = {rest, *parts, *map(unquote_plus, parts)}
    words = {form for word in plain for form in (word, printable(word), quote(word, "", errors="replace"))}
    longest_first = sorted((word for word in words if len(word) >= _SHORTEST_SECRET), key=len, reverse=True)
    if longest_first:
        text = re.sub("|".join(map(re.escape, longest_first)), "[secret]", text, flags=re.IGNORECASE)
    return " ".join(text.split())[:_LONGEST_LINE]
