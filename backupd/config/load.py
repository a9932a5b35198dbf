"""Build one validated Config from a file and the environment, or report all problems at once.

A problem says where the value was set and what is expected, and never shows a secret.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from backupd.config.environment import DATABASE, FILE_SUFFIX, PREFIX, Setting, nearest, read_environment
from backupd.config.file import Document, lines_of, read_document
from backupd.config.kinds import is_time_zone
from backupd.config.render import secrets_of
from backupd.config.schema import ANY, ENVIRONMENT, Config, KeyPath, all_keys, key_at
from backupd.config.source_sets import SourceSets
from backupd.errors import ConfigError

_HINT: Final = "config.example.toml explains every key"
_LONGEST_PROBLEM: Final = 500
_BACKUPS_DIR: Final = "BACKUPD_BACKUPS_DIR"
_MOST_NAMED: Final = 20
_OF_SOURCE: Final = ("sources", ANY)
_ZONEINFO: Final = "/zoneinfo/"
_NUMBER = "must be a number"
_WHOLE = "must be a whole number"
_SIZE = "must be a size such as '512MiB'"
_SWITCH = "must be true or false"

# These messages quote the wrong value, unless its key is a secret.
_VALUE_EXPECTED: Mapping[str, str] = {
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "byte_size": _SIZE,
    "byte_size_unit": _SIZE,
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "must be more than {gt:.16g}",
    "greater_than_equal": "must be at least {ge:.16g}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than_equal": "must be at most {le:.16g}",
    "literal_error": "must be {expected}",
}
# These do not: a value in the wrong place may be a secret in the wrong place.
_SHAPE_EXPECTED: Mapping[str, str] = {
    "dict_type": "must be a section",
    "missing": "is required",
    "model_type": "must be a section",
    "path_type": "must be a path, in quotes",
    "string_too_short": "must not be empty",
    "string_type": "must be text, in quotes",
    "string_unicode": "must be UTF-8 text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list of texts, in quotes",
}
_NO_SOURCE = (
    "nothing to back up: set BACKUPD_DATABASE=/path/to/app.db, or path under [sources.NAME] in a file "
    "(for backupd gate: [gate.NAME], BACKUPD_GATE__NAME__SECRET and its other keys)"
)
_SPECIAL: Mapping[tuple[KeyPath, str], str] = {
    (("sources",), "missing"): _NO_SOURCE,
    (("backups_dir",), "missing"): "is required, because the sources are in different directories",
}


def load_config(config_file: Path | None, environ: Mapping[str, str], cwd: Path | None = None) -> Config:
    """Return the effective configuration: `environ` over the file over the defaults, each path absolute.

    The file is `config_file`, else $BACKUPD_CONFIG, else /etc/backupd/config.toml, else backupd.toml in `cwd`
    (by default the working directory); without any, the environment stands alone. Relative paths in a file
    start at its directory, others at `cwd`. A TZ that is not understood becomes a warning of the Config. Raises
    ConfigError with one line for each problem.
    """
    here = Path.cwd() if cwd is None else cwd
    document = read_document(config_file, environ, here)
    backups = environ.get(_BACKUPS_DIR, "").strip() or document.table.get("backups_dir")
    store = here / backups if isinstance(backups, str) else None
    environment = read_environment(environ, here, document.chosen_names())
    problems = list(environment.problems)
    if document.problem is not None:  # the keys of the file are unknown, so nothing else can be checked
        raise ConfigError("\n".join([document.problem, *problems]), hint=_HINT)
    chosen = _with_sources(merge(document.table, environment.table()))
    unnamed = {setting.path[1] for setting in environment.settings if setting.name == DATABASE}
    found = SourceSets.of(chosen, unnamed, store)
    place = partial(_place, document, environment.settings, lines_of(document.text), found)
    problems += _problems_of_sets(found, place)
    if found.sets:
        chosen = {**chosen, "sources": {**_no_tables(chosen["sources"]), **found.sources()}}
    tz = environ.get("TZ", "").strip()
    zone = _time_zone_of(tz)
    warning = ""
    if tz and not zone:
        warning = (
            f"TZ={tz[:60]!r} is not an IANA time zone, so days and times are in UTC: set TZ to one (Europe/Berlin)"
        )
    defaults = _default_backups_dir(chosen, found) | ({"schedule": {"timezone": zone}} if zone else {})
    try:
        origin = str(document.file or ENVIRONMENT)
        facts = (origin, warning, environment.note, document.skipped)
        config = Config.of(merge(defaults, chosen), *facts, others_may_come=bool(found.sets))
    except ValidationError as error:
        problems += _explain(error, place)
    else:
        if not found.sets and (unclear := config.unclear_drill):  # else a new database would be an error
            problems.append(f"{place(('drill',))}: {unclear}")
        if not problems:
            files = _secret_files(config, document.text, environ, here)
            return config.with_source_sets(found).with_secret_files(files)
    problems = list(dict.fromkeys(problems))  # one of a section is one of each database that was found
    lines = [line if len(line) <= _LONGEST_PROBLEM else f"{line[:_LONGEST_PROBLEM]}…" for line in problems]
    raise ConfigError("\n".join([*lines, *filter(None, [document.skipped])]), hint=_HINT)


def _secret_files(config: Config, text: str, environ: Mapping[str, str], here: Path) -> tuple[str, ...]:
    """Return the files from which secrets were read; `text` is that of the configuration file."""
    document = [config.origin] if any(secret in text for secret in secrets_of(config)) else []
    named = [value for name, value in environ.items() if name.startswith(PREFIX) and name.endswith(FILE_SUFFIX)]
    return (*document, *(str(here / value) for value in named if value))


def refuse_gate_alone(config: Config) -> None:
    """Raise ConfigError where the configuration is one for `backupd gate` alone."""
    if not config.sources:
        raise ConfigError(f"{config.origin}: {_NO_SOURCE}", "this configuration is for backupd gate alone")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`; where both have a table, the tables are merged."""
    merged = dict(below)
    for key, value in above.items():
        other = merged.get(key)
        merged[key] = merge(other, value) if isinstance(other, dict) and isinstance(value, dict) else value
    return merged


def _with_sources(table: dict[str, Any]) -> dict[str, Any]:
    """Return `table`, in which no sources are an empty section where there is a gate, and are missing otherwise."""
    if table.get("sources", {}) != {}:
        return table
    rest = {name: value for name, value in table.items() if name != "sources"}
    return {"sources": {}, **rest} if table.get("gate") else rest


def _default_backups_dir(table: Mapping[str, Any], found: SourceSets) -> dict[str, Any]:
    """Return the default of `backups_dir`: where all databases are in one directory, `backups/` there.

    Of a gate alone it is the directory of the gate, whose log `backupd log` shows.
    """
    if table.get("sources") == {}:
        return {"backups_dir": table.get("gate_dir", str(Config.model_fields["gate_dir"].default))}
    return {"backups_dir": str(found.backups)} if found.backups else {}


def _no_tables(sources: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is not a section, which is an error."""
    return {name: section for name, section in sources.items() if not isinstance(section, Mapping)}


def _problems_of_sets(found: SourceSets, place: Callable[[KeyPath], str]) -> Iterator[str]:
    for name in found.misplaced():
        yield f"{place(('sources', name, 'exclude'))}: is for a directory or a pattern, and its path is that of a file"
    for name in found.unmatched() if found.sets else ():
        known = ", ".join([*found.members][:_MOST_NAMED])
        yield f"{place(('sources', name))}: has no path, and no database of that name was found (found: {known}, …)"


def _time_zone_of(text: str) -> str | None:
    """Return the IANA name that TZ=`text` means: the name itself or a file of that name, after a ":" or not.

    None where it means none: POSIX rules ("CET-1CEST") define when clocks change, but name no time zone.
    """
    text = text.removeprefix(":")
    names = [text]
    if text.startswith("/"):
        names = [path.rpartition(_ZONEINFO)[2] for path in (text, os.path.realpath(text)) if _ZONEINFO in path]
    return next((name for name in names if name and is_time_zone(name)), None)


def _place(
    document: Document, settings: tuple[Setting, ...], lines: Mapping[KeyPath, int], found: SourceSets, path: KeyPath
) -> str:
    """Return "FILE:LINE: key" or "environment NAME: key" for `path`, or for the nearest key above it.

    A key of a database that was `found` is in the section of all those.
    """
    if len(path) > len(_OF_SOURCE) and path[0] == "sources":
        path = ("sources", found.section_of(path[1], path[2]), *path[2:])
    for length in range(len(path), 0, -1):
        known = path[:length]
        names = {setting.path: setting.name for setting in settings if setting.path[:length] == known}
        if known == path and path in names:
            return f"{ENVIRONMENT} {names[path]}"
        if known in lines and known not in names:
            return f"{document.file}:{lines[known]}: {_dotted(path)}"
        if names:
            return f"{ENVIRONMENT} {names.get(known) or next(iter(names.values()))}: {_dotted(path)}"
    return f"{document.file or ENVIRONMENT}: {_dotted(path)}"


def _explain(error: ValidationError, locate: Callable[[KeyPath], str]) -> Iterator[str]:
    """Yield one line for each problem in `error`; `locate` returns where a path was set."""
    details = error.errors(include_url=False)
    in_sources = any(detail["loc"][:1] == ("sources",) for detail in details)
    for detail in details:
        path = tuple(str(part) for part in detail["loc"] if part != "[key]")
        if path == ("backups_dir",) and detail["type"] == "missing" and in_sources:
            continue  # its default comes from the source that is invalid
        yield f"{locate(path)}: {_message(path, detail)}"


def _dotted(path: KeyPath) -> str:
    """Return `path` as TOML writes it, on one line."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part) for part in path)


def _message(path: KeyPath, detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if (path, kind) in _SPECIAL:
        return _SPECIAL[path, kind]
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "value_error":
        return str(context["error"])
    if kind in _VALUE_EXPECTED:
        return _VALUE_EXPECTED[kind].format_map(context) + _actual_value(path, detail["input"])
    return _SHAPE_EXPECTED.get(kind, "cannot be used")


def _actual_value(path: KeyPath, value: Any) -> str:  # noqa: ANN401 - an invalid value is of any type
    key = key_at(path)
    if key is None or key.is_secret or not isinstance(value, str | int | float):
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value[:60] if isinstance(value, str) else value)
    return f", not {text[:60]}"


def _unknown(path: KeyPath) -> str:
    """Suggest a similar key of the section, else the same name elsewhere, else the nearest of the section."""
    from difflib import get_close_matches

    section, name = path[:-1], path[-1]
    siblings = sorted({key.path[len(section)] for key in all_keys() if key.is_under(section)})
    elsewhere = [key.path for key in all_keys() if key.path[-1] == name]
    if get_close_matches(name, siblings, n=1) or not elsewhere:
        return f"unknown key; did you mean {_dotted((*section, nearest(name, siblings)))}?"
    if len(elsewhere[0]) == 1:
        return f"unknown key here; {name} belongs above the first [section]"
    known = tuple("NAME" if part == ANY else part for part in elsewhere[0])
    return f"unknown key here; did you mean {_dotted(known)}?"
