"""Patterns of paths: `*`, `?` and `[]` stand for characters of one part of a path, `**` for any number of parts."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # child processes import this
    from collections.abc import Iterable

State = frozenset[tuple[int, int]]  # how far a path has come: the number of a pattern, and that of its next part
_WILDCARDS: Final = frozenset("*?[")
_ANY_PARTS: Final = "**"


class PathPatterns:
    """Several patterns, which are matched part by part: a search learns early where nothing can match any more."""

    def __init__(self, texts: "Iterable[str]") -> None:
        self._parts = [text.strip("/").split("/") for text in texts]
        self.start = self._with_empty({(number, 0) for number in range(len(self._parts))})

    def below(self, state: State, name: str) -> State:
        """Return how far `state` comes with the part `name`; it is empty where nothing below can match."""
        if not state:
            return state
        found = set()
        for number, at in state:
            parts = self._parts[number]
            if at == len(parts):
                continue
            if parts[at] == _ANY_PARTS:
                found.add((number, at))
            elif fnmatchcase(name, parts[at]):
                found.add((number, at + 1))
        return self._with_empty(found)

    def matched(self, state: State) -> bool:
        """Return whether the parts up to `state` match a pattern."""
        return any(at == len(self._parts[number]) for number, at in state)

    def match(self, path: str) -> bool:
        """Return whether the relative `path` matches a pattern."""
        return self.matched(self._states(path)[-1])

    def match_above(self, path: str) -> bool:
        """Return whether the relative `path` or a directory above it matches a pattern."""
        return any(map(self.matched, self._states(path)))

    def _states(self, path: str) -> list[State]:
        states = [self.start]
        for name in path.split("/"):
            states.append(self.below(states[-1], name))
        return states[1:]

    def _with_empty(self, found: set[tuple[int, int]]) -> State:
        """Return `found`, and what `**` reaches with no part at all."""
        left = list(found)
        while left:
            number, at = left.pop()
            parts = self._parts[number]
            if at < len(parts) and parts[at] == _ANY_PARTS and (number, at + 1) not in found:
                found.add((number, at + 1))
                left.append((number, at + 1))
        return frozenset(found)


def as_ignored(pattern: str) -> str:
    """Return a pattern of .gitignore as one from the top on: without a slash before its end it counts at any depth."""
    body = pattern.rstrip("/")
    return body.lstrip("/") if "/" in body else f"{_ANY_PARTS}/{body}"


def split_pattern(path: str) -> tuple[str, str]:
    """Return the directory before the first part of the absolute `path` with a wildcard, and the pattern from there.

    The pattern is empty where there is none.
    """
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if not _WILDCARDS.isdisjoint(part)), len(parts))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])
