"""Messages about an invalid configuration: where the value was set, what is expected, and never a secret."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from backupd.config.schema import ANY, KeyPath, all_keys, key_at

Locate = Callable[[KeyPath], str]

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
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "less_than_equal": "must be at most {le:g}",
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
_NO_SOURCE = "nothing to back up: set BACKUPD_DATABASE=/path/to/app.db, or path under [sources.NAME] in a file"
_NO_DIRECTORY = "is required, because the sources are in different directories"
_SPECIAL: Mapping[tuple[KeyPath, str], str] = {
    (("sources",), "missing"): _NO_SOURCE,
    (("sources",), "too_short"): _NO_SOURCE,
    (("backups_dir",), "missing"): _NO_DIRECTORY,
}


def explain(error: ValidationError, locate: Locate) -> Iterator[str]:
    """Yield one line for each problem in `error`; `locate` returns where a path was set."""
    details = error.errors(include_url=False)
    in_sources = any(detail["loc"][:1] == ("sources",) for detail in details)
    for detail in details:
        path = tuple(str(part) for part in detail["loc"] if part != "[key]")
        if path == ("backups_dir",) and detail["type"] == "missing" and in_sources:
            continue  # its default comes from the source that is invalid
        yield f"{locate(path)}: {_message(path, detail)}"


def dotted(path: KeyPath) -> str:
    """Return `path` as TOML writes it, on one line."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part) for part in path)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return the most similar of `candidates`, which are not empty."""
    from difflib import get_close_matches

    return get_close_matches(name, list(candidates), n=1, cutoff=0.0)[0]


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
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f", not {text[:60]}"


def _unknown(path: KeyPath) -> str:
    """Suggest a similar key of the section, else the same name elsewhere, else the nearest of the section."""
    from difflib import get_close_matches

    section, name = path[:-1], path[-1]
    siblings = sorted({key.path[len(section)] for key in all_keys() if key.is_under(section)})
    elsewhere = [key.path for key in all_keys() if key.path[-1] == name]
    if get_close_matches(name, siblings, n=1) or not elsewhere:
        return f"unknown key; did you mean {dotted((*section, nearest(name, siblings)))}?"
    if len(elsewhere[0]) == 1:
        return f"unknown key here; {name} belongs above the first [section]"
    return f"unknown key here; did you mean {dotted(_with_placeholders(elsewhere[0]))}?"


def _with_placeholders(path: KeyPath) -> KeyPath:
    return tuple("NAME" if part == ANY else part for part in path)
