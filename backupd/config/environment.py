"""The environment: each `BACKUPD_*` name is known or refused, each value knows the name it came under."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from backupd.config.keys import ANY, Key, KeyPath, all_keys, key_at
from backupd.config.links import is_link
from backupd.config.pathtext import absolute
from backupd.config.problems import nearest
from backupd.config.values import Unusable, plain_secret, plain_value
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


@dataclass(frozen=True, slots=True)
class Setting:
    """One value from the environment: the name it came under, the key that it sets, and the text."""

    name: str
    path: KeyPath
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment sets, a line for each name or file in it that is no good, and names of other programs."""

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


def read_environment(environ: Mapping[str, str], directory: Path, names: Iterable[tuple[str, str]]) -> Environment:
    """Read every `BACKUPD_*` name of `environ`; an empty value counts as unset.

    Relative paths start at `directory`. `names` are the pairs (section, name) that a file has chosen:
    BACKUPD_SOURCES__MY_APP__METHOD means the source "My-App" where there is one. Reads the files that
    `…_FILE` names point to; what links of Kubernetes and Docker set is ignored. Raises nothing.
    """
    known = set(names)
    found: dict[KeyPath, Setting] = {}
    problems: list[str] = []
    ignored: list[str] = []
    ours = sorted((name for name in environ if name.upper().startswith(PREFIX)), key=_database_first)
    for name in ours:
        if key_at(_path(name)) is None and is_link(name, environ):
            ignored.append(name)
            continue
        try:
            setting = _setting(name, environ[name], directory, known)
            if setting is not None:
                _add(setting, found)
        except Unusable as problem:
            problems.append(f"environment {printable(name)}: {problem}")
    return Environment(tuple(found.values()), tuple(problems), tuple(ignored))


def _database_first(name: str) -> tuple[bool, str]:
    return name != DATABASE, name  # it names a source, which other names may then mean


def _add(setting: Setting, found: dict[KeyPath, Setting]) -> None:
    rival = found.setdefault(setting.path, setting)
    if rival is not setting:
        raise Unusable(f"means the same as {rival.name}, which is set as well: keep one of them")


def _setting(name: str, value: str, directory: Path, known: set[tuple[str, str]]) -> Setting | None:
    if name == CONFIG:
        return None
    if name == DATABASE:
        value = plain_value(value, is_secret=False)
        return _database(name, value, directory, known) if value else None
    key, path, is_file = _resolve(name)
    value = plain_value(value, is_secret=key.is_secret and not is_file, is_command=path == _COMMAND)
    if not value:
        return None
    if is_file:
        value = _content(value, directory)
    elif key.is_file:
        value = absolute(value, directory)
    return Setting(name, _with_chosen_name(path, known) if ANY in key.path else path, value)


def _database(name: str, value: str, directory: Path, known: set[tuple[str, str]]) -> Setting:
    source = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(value).stem).lstrip("._-")[:100]
    if not is_source_name(source):
        raise Unusable("its file name makes no name for a source: use a file with path under [sources.NAME]")
    same = [other for section, other in known if section == "sources" and other.lower() == source.lower()]
    source = same[0] if len(same) == 1 else source
    known.add(("sources", source))
    return Setting(name, ("sources", source, "path"), absolute(value, directory))


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
        raise Unusable(f"only secrets are read from a file; did you mean {plain}?")
    if _ADDRESS_NAME.fullmatch(name.upper()):
        raise Unusable(f"unknown name; did you mean {_LISTEN}?")
    raise Unusable(f"unknown name; did you mean {nearest(name.upper(), _candidates(_path(name)))}?")


def _path(name: str) -> KeyPath:
    return tuple(name[len(PREFIX) :].lower().split(DELIMITER))


def _candidates(path: KeyPath) -> Iterator[str]:
    """List all names there are, with the name that was chosen in `path` where one may be chosen."""
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


def _content(value: str, directory: Path) -> str:
    if "\n" in value or len(value) > _LONGEST_PATH:  # it shall not be shown: this is how a key looks
        raise Unusable("must be the path of a file that holds the secret, not the secret itself")
    file = directory / value
    shown = printable(str(file))
    try:
        content = plain_secret(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise Unusable(f"{shown} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such path"
        raise Unusable(f"cannot read {shown}: {reason}") from None
    if not content:
        raise Unusable(f"{shown} is empty")
    return content
