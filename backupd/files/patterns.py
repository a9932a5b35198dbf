"""Patterns of what is left out of a set of files: as in .gitignore (https://git-scm.com/docs/gitignore), but no `!`."""

import os
import re
from collections.abc import Callable, Iterable

Matches = Callable[[bytes], object]  # gets a path relative to the directory of the set


def excluded(patterns: Iterable[str], *, directories: bool) -> Matches | None:
    """Return what tells whether a path is left out, one of a directory or of anything else; None if nothing is.

    A pattern with a slash before its end counts from the directory of the set on, any other at every depth. Raises
    re.error.
    """
    texts = [_expression(pattern) for pattern in patterns if directories or not pattern.endswith("/")]
    return re.compile(os.fsencode("|".join(texts)), re.DOTALL).fullmatch if texts else None


def _expression(pattern: str) -> str:
    body = pattern.rstrip("/")
    anchored = "/" in body
    parts = [part for part in body.split("/") if part]
    text = "" if anchored else "(?:.*/)?"
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if part == "**":
            text += ".+" if is_last else "(?:.*/)?"
        else:
            text += _part(part) + ("" if is_last else "/")
    return f"(?:{text})"


def _part(glob: str) -> str:
    """Return the expression of one part of a path, which holds no slash."""
    text, rest = "", glob
    while rest:
        sign, rest = rest[0], rest[1:]
        if sign == "*":
            rest = rest.lstrip("*")
            text += "[^/]*"
        elif sign == "?":
            text += r"[^/][\x80-\xbf]*"  # one character of UTF-8
        elif sign == "[" and (end := rest.find("]", 2 if rest[:1] in ("!", "^") else 1)) > 0:
            inside, rest = rest[:end], rest[end + 1 :]
            negated = inside[:1] in ("!", "^")
            members = re.sub(r"([\\\[\]^&|~])", r"\\\1", inside[negated:])
            text += f"(?!/)[{'^' if negated else ''}{members}]"
        else:
            if sign == "\\" and rest:
                sign, rest = rest[0], rest[1:]
            text += re.escape(sign)
    return text
