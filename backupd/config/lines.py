"""On which line of a TOML text a key stands; `tomllib` does not tell."""

import re
import tomllib
from collections.abc import Iterator, Mapping

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Map the path of each table and key in `text` to the number of the line where it first stands, from 1.

    `text` must be valid TOML. Items of arrays have no path of their own.
    """
    found: dict[tuple[str, ...], int] = {}
    header: tuple[str, ...] = ()
    for number, statement in _statements(text):
        paths = list(_paths(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            header = paths[-1]
        else:
            paths = [header + path for path in paths]
        for path in paths:
            found.setdefault(path, number)
    return found


def syntax_error(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """Return the number of the line, from 1, where `text` ceases to be TOML, and what is wrong there."""
    message = str(error)
    place = _PLACE.search(message)
    if place is None:
        return 1, message
    line = place[1] or text.rstrip().count("\n") + 1
    return int(line), message[: place.start()]


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut valid TOML into headers and assignments: the shortest runs of lines that are TOML by themselves."""
    pending, start = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        start = start if pending else number
        pending += f"{line}\n"
        if _is_complete(pending):
            yield start, pending
            pending = ""


def _is_complete(statement: str) -> bool:
    try:
        tomllib.loads(statement)
    except tomllib.TOMLDecodeError:  # in the middle of an array or of a multi-line string
        return False
    return True


def _paths(table: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """List the paths in `table`, each before those below it."""
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, Mapping):
            yield from _paths(value, (*above, name))
