"""Patterns of paths: what is left out, as in .gitignore (https://git-scm.com/docs/gitignore) but no `!`, or looked for.

`*`, `?` and `[]` stand for characters of one part of a path, `**` for any number of parts.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

_WILDCARDS: Final = frozenset("*?[")
Matches = Callable[[bytes], object]  # gets a path relative to the directory of the set


def excluded(patterns: Iterable[str], *, directories: bool) -> Matches | None:
    """Return what tells whether a path is left out, one of a directory or of anything else; None if nothing is.

    A pattern with a slash before its end counts from the directory of the set on, any other at every depth. Raises
    re.error.
    """
    texts = [_expression(pattern) for pattern in patterns if directories or not pattern.endswith("/")]
    return re.compile(os.fsencode("|".join(texts)), re.DOTALL).fullmatch if texts else None


def is_excluded(path: str, patterns: Collection[str]) -> bool:
    """Return whether the file at the relative `path` is left out, or a directory above it. Raises re.error."""
    of_directories, of_files = (excluded(patterns, directories=kind) for kind in (True, False))
    parts, raw = path.split("/"), os.fsencode(path)
    above = (os.fsencode("/".join(parts[:length])) for length in range(1, len(parts)))
    is_below = of_directories is not None and any(map(of_directories, above))
    return is_below or bool(of_files is not None and of_files(raw))


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


class PathPattern:
    """A pattern that is matched part by part: a search learns early where nothing can match any more.

    A state is how far a path may have come: numbers of the parts of the pattern that come next. Raises re.error.
    """

    def __init__(self, text: str) -> None:
        parts = [part for part in text.split("/") if part]
        self._parts = [None if part == "**" else re.compile(os.fsencode(_part(part)), re.DOTALL) for part in parts]
        self.start = self._with_empty({0})

    def below(self, state: frozenset[int], name: str) -> frozenset[int]:
        """Return how far `state` comes with the part `name`; it is empty where nothing below can match."""
        found, raw = set(), os.fsencode(name)
        for at in state - {len(self._parts)}:
            part = self._parts[at]
            if part is None:
                found.add(at)
            elif part.fullmatch(raw):
                found.add(at + 1)
        return self._with_empty(found)

    def matched(self, state: frozenset[int]) -> bool:
        """Return whether the parts up to `state` match."""
        return len(self._parts) in state

    def match(self, path: str) -> bool:
        """Return whether the relative `path` matches."""
        state = self.start
        for name in path.split("/"):
            state = self.below(state, name)
        return self.matched(state)

    def _with_empty(self, found: set[int]) -> frozenset[int]:
        """Return `found`, and what `**` reaches with no part at all."""
        for at, part in enumerate(self._parts):
            if part is None and at in found:
                found.add(at + 1)
        return frozenset(found)


def split_pattern(path: str) -> tuple[str, str]:
    """Return the directory before the first part of the absolute `path` with a wildcard, and the pattern from there.

    The pattern is empty where there is none.
    """
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if not _WILDCARDS.isdisjoint(part)), len(parts))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])
