"""The configuration file: where it is, its tables, and the line of each key."""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backupd.config.environment import CONFIG, config_file_of
from backupd.config.kinds import absolute_path
from backupd.config.ownership import refusal
from backupd.config.schema import ANY, KeyPath, all_keys
from backupd.errors import ConfigError
from backupd.system.os_errors import os_error_text
from backupd.system.small_file import read_small_file

SYSTEM_FILE = Path("/etc/backupd/config.toml")
LOCAL_FILE = "backupd.toml"
MOST_BYTES: Final = 1 << 18  # of a configuration file
_MOST_PARSED: Final = 1 << 19  # characters: each line of a statement is read again with those before it
_DEEPEST: Final = 32
_INTEGER_LIMIT: Final = 1 << 63
_NESTED: Final = f"tables and arrays are nested more than {_DEEPEST} levels deep"
_HUGE: Final = "an integer is outside of the 64 bits that TOML allows"
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file as read: text, and tables with every path made absolute; or why it is not valid TOML.

    `skipped` says in one line why `backupd.toml` in the working directory was not read.
    """

    file: Path | None
    text: str = field(default="", repr=False)
    table: dict[str, Any] = field(default_factory=dict, repr=False)
    problem: str | None = None
    skipped: str = ""

    def chosen_names(self) -> list[tuple[str, str]]:
        """List the pairs (section, name) in it."""
        tables = [(section, below) for section, below in self.table.items() if isinstance(below, dict)]
        return [(section, name) for section, below in tables for name in below]


def read_document(
    config_file: Path | None, environ: Mapping[str, str], directory: Path, system_file: Path = SYSTEM_FILE
) -> Document:
    """Read the configuration file that applies; without any, only the environment is set.

    The file in the working `directory` is read only if no other user can have written it (`ownership.refusal`). A file
    that the operator named is read with any owner. Raises ConfigError if a named file does not exist, or if the file
    cannot be read at all.
    """
    if config_file is not None:
        return read_file(_required(directory / config_file, "--config"))
    if named := config_file_of(environ):
        return read_file(_required(directory / named, CONFIG))
    if _exists(system_file):
        return read_file(system_file)
    local = directory / LOCAL_FILE
    if not os.path.lexists(local):
        return Document(None)
    try:
        why = refusal(local)
    except OSError as error:
        why = os_error_text(error)
    if why:
        return Document(None, skipped=f"{local} is ignored: {why}; to use it, name it with --config or {CONFIG}")
    return read_file(local)


def read_file(file: Path) -> Document:
    """Read `file`; relative paths in it start at its directory. Raises ConfigError where it cannot be read at all."""
    absolute = Path(os.path.abspath(file))  # noqa: PTH100 - resolve() would follow symbolic links
    text = ""
    try:
        data = read_small_file(absolute, MOST_BYTES, links=True)
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")  # as Windows editors write it
        table = tomllib.loads(text)
        _require_plain(table)
    except OSError as error:
        raise ConfigError(f"cannot read {absolute}: {error.strerror}", hint="check its owner and mode") from None
    except UnicodeDecodeError:
        return Document(absolute, problem=f"{absolute}: is not UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        line, message = syntax_error(error, text)
        return Document(absolute, problem=f"{absolute}:{line}: is not valid TOML: {message}")
    except (RecursionError, ValueError) as error:  # an integer of thousands of digits is a plain ValueError
        what = _NESTED if isinstance(error, RecursionError) else _HUGE
        return Document(absolute, problem=f"{absolute}: {what}")
    for key in all_keys():
        if key.is_file:
            _make_absolute(table, key.path, absolute.parent)
    return Document(absolute, text, table)


def _require_plain(table: dict[str, Any]) -> None:
    """Raise RecursionError for tables that are nested too deeply, ValueError for an integer beyond 64 bits (TOML 1.0).

    It does not recurse itself.
    """
    level: list[object] = [table]
    for _ in range(_DEEPEST):
        if any(isinstance(value, int) and not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT for value in level):
            raise ValueError
        level = [value for above in level for value in _values(above)]
        if not level:
            return
    raise RecursionError


def _values(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def lines_of(text: str) -> dict[KeyPath, int]:
    """Map the path of each table and key in `text`, valid TOML, to the number of its first line, from 1.

    `tomllib` does not report lines. Items of arrays have no path of their own. Where a value goes over thousands of
    lines, the lines after it are not known.
    """
    found: dict[KeyPath, int] = {}
    header: KeyPath = ()
    left = _MOST_PARSED
    statement, first = "", 1  # the shortest run of lines that is valid TOML by itself, a header or an assignment
    for number, line in enumerate(text.split("\n"), start=1):
        first = first if statement else number
        statement += f"{line}\n"
        left -= len(statement)
        if left < 0:
            break
        try:
            paths = list(_paths(tomllib.loads(statement)))
        except tomllib.TOMLDecodeError:  # in the middle of an array or of a multi-line string
            continue
        if statement.lstrip().startswith("["):
            header = paths[-1]
        else:
            paths = [header + path for path in paths]
        for path in paths:
            found.setdefault(path, first)
        statement = ""
    return found


def syntax_error(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """Return the number of the line, from 1, where `text` is not valid TOML, and the message without its place."""
    message = str(error)
    place = _PLACE.search(message)
    if place is None:
        return 1, message
    line = place[1] or text.rstrip().count("\n") + 1
    return int(line), message[: place.start()]


def _make_absolute(table: object, path: KeyPath, directory: Path) -> None:
    if not isinstance(table, dict):
        return
    for name in list(table) if path[0] == ANY else table.keys() & {path[0]}:
        if len(path) > 1:
            _make_absolute(table[name], path[1:], directory)
        elif isinstance(table[name], str) and table[name]:
            table[name] = absolute_path(table[name], directory)


def _required(file: Path, named_by: str) -> Path:
    if not _exists(file):
        raise ConfigError(f"configuration file {file} does not exist", hint=f"check {named_by}")
    return file


def _exists(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # exists, but is not accessible: reading it raises the error that skipping it would hide
        return True
    return True


def _paths(table: Mapping[str, object], above: KeyPath = ()) -> Iterator[KeyPath]:
    """List the paths in `table`, each before those below it."""
    for name, value in table.items():
        yield (*above, name)
        if isinstance(value, Mapping):
            yield from _paths(value, (*above, name))
