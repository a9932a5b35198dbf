"""The environment: each `BACKUPD_*` variable sets a key or is refused by its name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from backupd.config.kinds import absolute_path
from backupd.config.problems import nearest
from backupd.config.schema import ANY, Key, KeyPath, all_keys, key_at
from backupd.config.service_links import is_service_link
from backupd.errors import ConfigError
from backupd.formatting import printable
from backupd.model import is_source_name

PREFIX = "BACKUPD_"
DELIMITER = "__"
CONFIG = "BACKUPD_CONFIG"
DATABASE = "BACKUPD_DATABASE"
FILE_SUFFIX = "_FILE"
_LONGEST_PATH = 1024
_COMMAND = ("drill", "command")
_LISTEN = "BACKUPD_HTTP__LISTEN"
_ADDRESS_NAME = re.compile(r"BACKUPD_(?:HTTP__?)?(?:LISTEN_)?(?:PORT|HOST|ADDR|ADDRESS|BIND|LISTEN)", re.ASCII)
# `docker --env-file` keeps quotes, and a comment after them; shells, compose and systemd remove both.
# Typographic quotes come with text that was copied from a page.
_QUOTED: Final = re.compile(
    r"""(["'`])(?P<inner>.*)\1\s*(?:\#.*)?|[\u2018-\u201e\xab].*[\u2018-\u201e\xbb]""", re.DOTALL
)
_QUOTES: Final = (
    "has quotes around its value, which `docker --env-file` keeps: remove them, or, if they belong to the value, set it"
)
_WHITESPACE: Final = (
    "has whitespace at the beginning or end of its value: remove it, or, if it belongs to the value, set it in the "
    "configuration file"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value from the environment: the name of the variable, the key that it sets, and the text."""

    name: str
    path: KeyPath
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment sets, a line for each unusable variable, and the variables of other programs."""

    settings: tuple[Setting, ...]
    problems: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def table(self) -> dict[str, Any]:
        """Return the settings as nested tables, as a TOML file would give them."""
        root: dict[str, Any] = {}
        for setting in self.settings:
            table = root
            for name in setting.path[:-1]:
                table = table.setdefault(name, {})
            table[setting.path[-1]] = setting.value
        return root


class _Unusable(Exception):
    """Why one variable is refused: one line of a ConfigError, which never contains the value."""


def config_file_of(environ: Mapping[str, str]) -> str:
    """Return the path that BACKUPD_CONFIG names, empty where it is unset. Raises ConfigError where it has quotes."""
    try:
        return _plain_value(environ.get(CONFIG, ""))
    except _Unusable as problem:
        raise ConfigError(f"environment {CONFIG}: {problem}") from None


def read_environment(environ: Mapping[str, str], directory: Path, names: Iterable[tuple[str, str]]) -> Environment:
    """Read every `BACKUPD_*` variable of `environ`; an empty value counts as unset.

    Relative paths start at `directory`. `names` are the pairs (section, name) that a file has chosen:
    BACKUPD_SOURCES__MY_APP__METHOD means the source "My-App" where there is one. Reads the files that `…_FILE`
    variables name; service links of Kubernetes and Docker are ignored. Raises nothing.
    """
    known = set(names)
    found: dict[KeyPath, Setting] = {}
    problems: list[str] = []
    ignored: list[str] = []
    variables = sorted((name for name in environ if name.upper().startswith(PREFIX)), key=_database_first)
    for name in variables:
        if key_at(_path(name)) is None and is_service_link(name, environ):
            ignored.append(name)
            continue
        try:
            setting = _setting(name, environ[name], directory, known)
            if setting is not None:
                _add(setting, found)
        except _Unusable as problem:
            problems.append(f"environment {printable(name)}: {problem}")
    return Environment(tuple(found.values()), tuple(problems), tuple(ignored))


def _database_first(name: str) -> tuple[bool, str]:
    return name != DATABASE, name  # it names a source, which other variables may refer to


def _add(setting: Setting, found: dict[KeyPath, Setting]) -> None:
    other = found.setdefault(setting.path, setting)
    if other is not setting:
        raise _Unusable(f"sets the same key as {other.name}: keep one of them")


def _setting(name: str, value: str, directory: Path, known: set[tuple[str, str]]) -> Setting | None:
    if name == CONFIG:
        return None
    if name == DATABASE:
        value = _plain_value(value)
        return _database(name, value, directory, known) if value else None
    key, path, is_file = _resolve(name)
    value = _plain_value(value, is_secret=key.is_secret and not is_file, is_command=path == _COMMAND)
    if not value:
        return None
    if is_file:
        value = _content(value, directory)
    elif key.is_file:
        value = absolute_path(value, directory)
    return Setting(name, _with_chosen_name(path, known) if ANY in key.path else path, value)


def _database(name: str, value: str, directory: Path, known: set[tuple[str, str]]) -> Setting:
    source = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(value).stem).lstrip("._-")[:100]
    if not is_source_name(source):
        raise _Unusable("its file name gives no valid source name: set path under [sources.NAME] in a file")
    same = [other for section, other in known if section == "sources" and other.lower() == source.lower()]
    source = same[0] if len(same) == 1 else source
    known.add(("sources", source))
    return Setting(name, ("sources", source, "path"), absolute_path(value, directory))


def _resolve(name: str) -> tuple[Key, KeyPath, bool]:
    """Return the key that `name` sets, the path to it, and whether the value is the name of a file."""
    exact = name if name.startswith(PREFIX) else ""
    plain = exact.removesuffix(FILE_SUFFIX)
    of_file = key_at(_path(plain)) if plain != exact else None
    if of_file and of_file.is_secret:
        return of_file, _path(plain), True
    if key := key_at(_path(exact)):
        return key, _path(exact), False
    if of_file:
        raise _Unusable(f"only secrets are read from a file; did you mean {plain}?")
    if _ADDRESS_NAME.fullmatch(name.upper()):
        raise _Unusable(f"unknown name; did you mean {_LISTEN}?")
    raise _Unusable(f"unknown name; did you mean {nearest(name.upper(), _candidates(_path(name)))}?")


def _path(name: str) -> KeyPath:
    return tuple(name[len(PREFIX) :].lower().split(DELIMITER))


def _candidates(path: KeyPath) -> Iterator[str]:
    """List all known names, with the name that was chosen in `path` where the schema accepts one."""
    from difflib import get_close_matches

    yield from (CONFIG, DATABASE)
    for key in all_keys():
        is_close = len(path) == len(key.path) > 1 and path[1] and get_close_matches(path[0], key.path[:1])
        chosen = path[1] if is_close else "NAME"
        name = PREFIX + DELIMITER.join(chosen if part == ANY else part for part in key.path).upper()
        yield name
        if key.is_secret:
            yield name + FILE_SUFFIX


def _with_chosen_name(path: KeyPath, known: Iterable[tuple[str, str]]) -> KeyPath:
    """Spell the name in `path` as the file does: the environment knows no case, and often no "-" and "."."""
    section, name, *rest = path
    chosen = [other for place, other in known if place == section]
    same = [other for other in chosen if other.lower() == name]
    alike = [other for other in chosen if re.sub(r"[.-]", "_", other.lower()) == name]
    match = same or alike
    return (section, match[0] if len(match) == 1 else name, *rest)


def _plain_value(value: str, *, is_secret: bool = False, is_command: bool = False) -> str:
    """Return `value` without leading and trailing whitespace.

    Raises _Unusable for quotes around it, unless it is a command line that begins and ends with quoted words.
    """
    stripped = value.strip()
    found = _QUOTED.fullmatch(stripped)
    if found and not (is_command and found[1] and found[1] in found["inner"]):
        raise _Unusable(f"{_QUOTES} in {'the file of …_FILE' if is_secret else 'the configuration file'}")
    return _plain_secret(value) if is_secret else stripped


def _plain_secret(value: str) -> str:
    """Return a secret without line ends around it. Raises _Unusable for other whitespace, which may belong to it."""
    secret, stripped = value.strip("\r\n"), value.strip()
    if secret == stripped or "\n" in stripped or "://" in stripped:  # a key or a URL never ends with whitespace
        return stripped
    raise _Unusable(_WHITESPACE)


def _content(value: str, directory: Path) -> str:
    if "\n" in value or len(value) > _LONGEST_PATH:  # it looks like a key, so it is not shown
        raise _Unusable("must be the path of a file that contains the secret, not the secret itself")
    file = directory / value
    shown = printable(str(file))
    try:
        content = _plain_secret(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise _Unusable(f"{shown} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid path"
        raise _Unusable(f"cannot read {shown}: {reason}") from None
    if not content:
        raise _Unusable(f"{shown} is empty")
    return content
