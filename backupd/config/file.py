"""The configuration file: which one it is, and what it says."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupd.config.environment import CONFIG
from backupd.config.keys import ANY, KeyPath, all_keys
from backupd.config.lines import syntax_error
from backupd.config.pathtext import absolute
from backupd.config.values import Unusable, plain_value
from backupd.errors import ConfigError

SYSTEM_FILE = Path("/etc/backupd/config.toml")
LOCAL_FILE = "backupd.toml"


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file as read: text, and tables with every path made absolute; or why it is not TOML."""

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
    """Return the file to read, `None` for the environment alone.

    Raises ConfigError where the file that was asked for is missing.
    """
    if config_file is not None:
        return _required(directory / config_file, "--config")
    if named := _named_in(environ):
        return _required(directory / named, CONFIG)
    return next((file for file in (system_file, directory / LOCAL_FILE) if _exists(file)), None)


def read_file(file: Path | None) -> Document:
    """Read `file`; relative paths in it start at its directory.

    Raises ConfigError where it cannot be read at all.
    """
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
    return Document(absolute, text, _with_absolute_paths(table, absolute.parent))


def _with_absolute_paths(table: dict[str, Any], directory: Path) -> dict[str, Any]:
    for key in all_keys():
        if key.is_file:
            _make_absolute(table, key.path, directory)
    return table


def _make_absolute(table: object, path: KeyPath, directory: Path) -> None:
    if not isinstance(table, dict):
        return
    for name in list(table) if path[0] == ANY else table.keys() & {path[0]}:
        if len(path) > 1:
            _make_absolute(table[name], path[1:], directory)
        elif isinstance(table[name], str) and table[name]:
            table[name] = absolute(table[name], directory)


def _named_in(environ: Mapping[str, str]) -> str:
    try:
        return plain_value(environ.get(CONFIG, ""), is_secret=False)
    except Unusable as problem:
        raise ConfigError(f"environment {CONFIG}: {problem}") from None


def _required(file: Path, named_by: str) -> Path:
    if not _exists(file):
        raise ConfigError(f"there is no configuration file {file}", hint=f"check {named_by}")
    return file


def _exists(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # there, but not for us: reading it will say so, where passing over it would hide it
        return True
    return True
