"""The configuration file: where it is, its tables, and the line of each key."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backupd.config.environment import CONFIG, config_file_of
from backupd.config.kinds import absolute_path
from backupd.config.schema import ANY, KeyPath, all_keys
from backupd.errors import ConfigError

SYSTEM_FILE = Path("/etc/backupd/config.toml")
LOCAL_FILE = "backupd.toml"
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file as read: text, and tables with every path made absolute; or why it is not valid TOML."""

    file: Path | None
    text: str = field(default="", repr=False)
    table: dict[str, Any] = field(default_factory=dict, repr=False)
    problem: str | None = None

    def chosen_names(self) -> list[tuple[str, str]]:
        """List the pairs (section, name) in it."""
        tables = [(section, below) for section, below in self.table.items() if isinstance(below, dict)]
        return [(section, name) for section, below in tables for name in below]


def find_file(
    config_file: Path | None, environ: Mapping[str, str], directory: Path, system_file: Path = SYSTEM_FILE
) -> Path | None:
    """Return the file to read, `None` where only the environment is set.

    Raises ConfigError where `config_file`, or the file that BACKUPD_CONFIG names, does not exist.
    """
    if config_file is not None:
        return _required(directory / config_file, "--config")
    if named := config_file_of(environ):
        return _required(directory / named, CONFIG)
    return next((file for file in (system_file, directory / LOCAL_FILE) if _exists(file)), None)


def read_file(file: Path | None) -> Document:
    """Read `file`; relative paths in it start at its directory. Raises ConfigError where it cannot be read at all."""
    if file is None:
        return Document(None)
    absolute = Path(os.path.abspath(file))  # noqa: PTH100 - resolve() would follow symbolic links
    text = ""
    try:
        text = absolute.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark first
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {absolute}: {error.strerror}", hint="check its owner and mode") from None
    except UnicodeDecodeError:
        return Document(absolute, problem=f"{absolute}: is not UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        line, message = syntax_error(error, text)
        return Document(absolute, problem=f"{absolute}:{line}: is not valid TOML: {message}")
    for key in all_keys():
        if key.is_file:
            _make_absolute(table, key.path, absolute.parent)
    return Document(absolute, text, table)


def lines_of(text: str) -> dict[KeyPath, int]:
    """Map the path of each table and key in `text`, valid TOML, to the number of its first line, from 1.

    `tomllib` does not report lines. Items of arrays have no path of their own.
    """
    found: dict[KeyPath, int] = {}
    header: KeyPath = ()
    statement, first = "", 1  # the shortest run of lines that is valid TOML by itself, a header or an assignment
    for number, line in enumerate(text.split("\n"), start=1):
        first = first if statement else number
        statement += f"{line}\n"
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
