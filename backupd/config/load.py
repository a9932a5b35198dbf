"""Build one validated Config from a file and the environment, or report all problems at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from backupd.config.environment import Setting, read_environment
from backupd.config.file import Document, find_file, lines_of, read_file
from backupd.config.kinds import is_time_zone
from backupd.config.problems import dotted, explain
from backupd.config.schema import ENVIRONMENT, Config, KeyPath
from backupd.config.service_links import service_links_note
from backupd.errors import ConfigError

_HINT: Final = "config.example.toml explains every key"
_ZONEINFO: Final = "/zoneinfo/"


def load_config(config_file: Path | None, environ: Mapping[str, str], cwd: Path | None = None) -> Config:
    """Return the effective configuration: `environ` over the file over the defaults, each path absolute.

    The file is `config_file`, else $BACKUPD_CONFIG, else /etc/backupd/config.toml, else backupd.toml in `cwd`
    (by default the working directory); without any, the environment stands alone. Relative paths in a file
    start at its directory, others at `cwd`. A TZ that is not understood becomes a warning of the Config. Raises
    ConfigError with one line for each problem.
    """
    here = Path.cwd() if cwd is None else cwd
    document = read_file(find_file(config_file, environ, here))
    environment = read_environment(environ, here, document.chosen_names())
    problems = list(environment.problems)
    if document.problem is not None:  # the keys of the file are unknown, so nothing else can be checked
        raise ConfigError("\n".join([document.problem, *problems]), hint=_HINT)
    chosen = merge(document.table, environment.table())
    table = merge({**_backups_dir_beside_database(chosen), **_zone_of_environment(environ)}, chosen)
    try:
        origin = str(document.file or ENVIRONMENT)
        config = Config.of(table, origin, _timezone_warning(_tz(environ)), service_links_note(environment.ignored))
    except ValidationError as error:
        problems += explain(error, _Places(document, environment.settings).locate)
    else:
        if not problems:
            return config
    raise ConfigError("\n".join(problems), hint=_HINT)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`; where both have a table, the tables are merged."""
    merged = dict(below)
    for key, value in above.items():
        other = merged.get(key)
        merged[key] = merge(other, value) if isinstance(other, dict) and isinstance(value, dict) else value
    return merged


def _backups_dir_beside_database(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default of `backups_dir`: where all databases are in one directory, `backups/` there."""
    sources = table.get("sources")
    tables = sources.values() if isinstance(sources, Mapping) else ()
    paths = [source.get("path") for source in tables if isinstance(source, Mapping)]
    directories = {Path(path).parent for path in paths if isinstance(path, str) and Path(path).is_absolute()}
    return {"backups_dir": str(directories.pop() / "backups")} if len(directories) == 1 else {}


def _zone_of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the default of `schedule.timezone`: TZ, which applies to all programs in a container."""
    zone = _time_zone_of(_tz(environ))
    return {"schedule": {"timezone": zone}} if zone else {}


def _time_zone_of(text: str) -> str | None:
    """Return the IANA name that TZ=`text` means: the name itself or a file of that name, after a ":" or not.

    None where it means none: POSIX rules ("CET-1CEST") define when clocks change, but name no time zone.
    """
    text = text.removeprefix(":")
    names = [text]
    if text.startswith("/"):
        names = [path.rpartition(_ZONEINFO)[2] for path in (text, _real_path(text)) if _ZONEINFO in path]
    return next((name for name in names if name and is_time_zone(name)), None)


def _timezone_warning(text: str) -> str:
    """Return that TZ=`text` is not understood, and what to set; empty where it is unset or understood."""
    if not text or _time_zone_of(text) is not None:
        return ""
    return f"TZ={text[:60]!r} is not an IANA time zone, so days and times are in UTC: set TZ to one (Europe/Berlin)"


def _tz(environ: Mapping[str, str]) -> str:
    return environ.get("TZ", "").strip()


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # not a valid path
        return path


class _Places:
    """Where each key of one configuration was set: an environment variable, or a line of the file."""

    def __init__(self, document: Document, settings: tuple[Setting, ...]) -> None:
        self._file = document.file
        self._lines = lines_of(document.text)
        self._settings = settings

    def locate(self, path: KeyPath) -> str:
        """Return "FILE:LINE: key" or "environment NAME: key" for `path`, or for the nearest key above it."""
        for length in range(len(path), 0, -1):
            place = self._at(path[:length], path)
            if place is not None:
                return place
        return f"{self._file or ENVIRONMENT}: {dotted(path)}"

    def _at(self, known: KeyPath, path: KeyPath) -> str | None:
        for setting in self._settings:
            if setting.path == known:
                key = "" if known == path else f": {dotted(path)}"
                return f"{ENVIRONMENT} {setting.name}{key}"
        if known in self._lines:
            return f"{self._file}:{self._lines[known]}: {dotted(path)}"
        below = (setting for setting in self._settings if setting.path[: len(known)] == known)
        return next((f"{ENVIRONMENT} {setting.name}: {dotted(path)}" for setting in below), None)
