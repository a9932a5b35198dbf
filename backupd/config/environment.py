"""The environment: each `BACKUPD_*` variable sets a key, is refused by its name, or describes another container.

A Kubernetes Service called `backupd` or `backupd-…` sets BACKUPD_PORT and others in every pod of its namespace
(https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables); `docker run --link X:backupd`
sets them in one container (https://docs.docker.com/engine/network/links/). Name and value must both match, so that
BACKUPD_PORT=8080, which an operator writes, stays an error.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from backupd.config.kinds import absolute_path
from backupd.config.schema import ANY, Key, KeyPath, all_keys, key_at
from backupd.config.source_sets import section_name
from backupd.errors import ConfigError
from backupd.formatting import printable
from backupd.system.small_file import read_small_file

PREFIX = "BACKUPD_"
DELIMITER = "__"
CONFIG = "BACKUPD_CONFIG"
DATABASE = "BACKUPD_DATABASE"
REMOTE_TOKEN = "BACKUPD_REMOTE_TOKEN"  # noqa: S105 - the name of a variable, of `backupd backup --remote`
FILE_SUFFIX = "_FILE"
_LONGEST_PATH = 1024
_MOST_SECRET_BYTES = 1 << 16
_COMMANDS = frozenset((("drill", "command"), ("hooks", "before"), ("hooks", "after")))
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
# Service links.
_OWNER: Final = r"(?P<owner>BACKUPD(?:_[A-Z0-9_]+?)?)"
_SERVICE_HOST: Final = re.compile(rf"{_OWNER}_SERVICE_HOST", re.ASCII)
_SERVICE_PORT: Final = re.compile(rf"{_OWNER}_SERVICE_PORT(?:_[A-Z0-9_]+)?", re.ASCII)
_PORT: Final = re.compile(rf"{_OWNER}_PORT", re.ASCII)
_PORT_PART: Final = re.compile(
    rf"(?P<whole>{_OWNER}_PORT_\d{{1,5}}_(?P<protocol>TCP|UDP|SCTP))"
    r"(?:_(?P<part>(?:PORT_)?START|(?:PORT_)?END|PROTO|PORT|ADDR))?",
    re.ASCII,
)
_LINK_NAME: Final = re.compile(rf"{_OWNER}_NAME", re.ASCII)
_LINK_ENV: Final = re.compile(rf"{_OWNER}_ENV_.+", re.ASCII)
_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://(?P<host>[0-9.]+|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:]+):\d{1,5}", re.ASCII)
_ALIAS: Final = re.compile(r"/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value from the environment: the name of the variable, the key that it sets, and the text."""

    name: str
    path: KeyPath
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment sets, a line for each unusable variable, and one about those that are ignored."""

    settings: tuple[Setting, ...]
    problems: tuple[str, ...]
    note: str

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


def secret_of(name: str, environ: Mapping[str, str], directory: Path) -> str:
    """Return the secret in the variable `name`, or in the file that `…_FILE` names; empty where neither is set.

    Raises ConfigError, which does not quote it.
    """
    of_file = name + FILE_SUFFIX
    try:
        secret, file = _plain_value(environ.get(name, ""), is_secret=True), _plain_value(environ.get(of_file, ""))
        content = _content(file, directory) if file else secret
    except _Unusable as problem:
        raise ConfigError(f"environment {of_file if environ.get(of_file) else name}: {problem}") from None
    if secret and file:
        raise ConfigError(f"environment {of_file}: sets the same as {name}: keep one of them")
    return content


def read_environment(environ: Mapping[str, str], directory: Path, names: Iterable[tuple[str, str]]) -> Environment:
    """Read every `BACKUPD_*` variable of `environ`; an empty value counts as unset.

    Relative paths start at `directory`. `names` are the pairs (section, name) that a file has chosen:
    BACKUPD_SOURCES__MY_APP__METHOD means the source "My-App" where there is one. Reads the files that `…_FILE`
    variables name; service links of Kubernetes and Docker are ignored.
    """
    known = set(names)
    found: dict[KeyPath, Setting] = {}
    problems: list[str] = []
    ignored: list[str] = []
    # DATABASE comes first: it names a source, which other variables may refer to.
    for name in sorted(environ, key=lambda name: (name != DATABASE, name)):
        if not name.upper().startswith(PREFIX):
            continue
        if key_at(_path(name)) is None and _is_service_link(name, environ):
            ignored.append(name)
            continue
        try:
            setting = _setting(name, environ[name], directory, known)
        except _Unusable as problem:
            problems.append(f"environment {printable(name)}: {problem}")
            continue
        if setting and (other := found.setdefault(setting.path, setting)) is not setting:
            problems.append(f"environment {printable(name)}: sets the same key as {other.name}: keep one of them")
    return Environment(tuple(found.values()), tuple(problems), _note_of(ignored))


def _setting(name: str, value: str, directory: Path, known: set[tuple[str, str]]) -> Setting | None:
    if name in (CONFIG, REMOTE_TOKEN, REMOTE_TOKEN + FILE_SUFFIX):
        return None
    if name == DATABASE:
        value = _plain_value(value)
        return _database(name, value, directory, known) if value else None
    key, path, is_file = _resolve(name)
    value = _plain_value(value, is_secret=key.is_secret and not is_file, is_command=path in _COMMANDS)
    if not value:
        return None
    if is_file:
        value = _content(value, directory)
    elif key.is_file:
        value = absolute_path(value, directory)
    return Setting(name, _with_chosen_name(path, known) if ANY in key.path else path, value)


def _database(name: str, value: str, directory: Path, known: set[tuple[str, str]]) -> Setting:
    path = absolute_path(value, directory)
    source = section_name(path)
    if not source:
        raise _Unusable("its file name gives no valid source name: set path under [sources.NAME] in a file")
    same = [other for section, other in known if section == "sources" and other.lower() == source.lower()]
    source = same[0] if len(same) == 1 else source
    known.add(("sources", source))
    return Setting(name, ("sources", source, "path"), path)


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
        raise _Unusable("unknown name; did you mean BACKUPD_HTTP__LISTEN?")
    raise _Unusable(f"unknown name; did you mean {nearest(name.upper(), _candidates(_path(name)))}?")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return the most similar of `candidates`, which are not empty."""
    from difflib import get_close_matches

    return get_close_matches(name, list(candidates), n=1, cutoff=0.0)[0]


def _path(name: str) -> KeyPath:
    return tuple(name[len(PREFIX) :].lower().split(DELIMITER))


def _candidates(path: KeyPath) -> Iterator[str]:
    """List all known names, with the name that was chosen in `path` where the schema accepts one."""
    from difflib import get_close_matches

    yield from (CONFIG, DATABASE, REMOTE_TOKEN, REMOTE_TOKEN + FILE_SUFFIX)
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
    file = directory / value
    if "\n" in value or len(value) > _LONGEST_PATH:  # it looks like a key, so it is not shown
        raise _Unusable("must be the path of a file that contains the secret, not the secret itself")
    leads_somewhere = os.path.lexists(file) or (os.sep in value and os.path.lexists(file.parent))
    if not (value.startswith(os.sep) or leads_somewhere):
        raise _Unusable("names no file, and is not shown, since it may be the secret itself: write an absolute path")
    shown = printable(str(file))
    try:
        content = _plain_secret(read_small_file(file, _MOST_SECRET_BYTES, links=True).decode())
    except UnicodeDecodeError:
        raise _Unusable(f"{shown} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid path"
        raise _Unusable(f"cannot read {shown}: {reason}") from None
    if not content:
        raise _Unusable(f"{shown} is empty")
    return content


def _is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether the variable `name` has both the name and the value of a link to another container."""
    value = environ[name].strip()
    if found := _PORT_PART.fullmatch(name):
        return _is_port_part(found, value, environ)
    if _SERVICE_HOST.fullmatch(name):
        return _is_host(value)
    if found := _SERVICE_PORT.fullmatch(name):
        return _is_port(value) and _is_host(environ.get(f"{found['owner']}_SERVICE_HOST", "").strip())
    if _PORT.fullmatch(name):
        return _is_address(value)
    if _LINK_NAME.fullmatch(name):
        return _ALIAS.fullmatch(value) is not None
    found = _LINK_ENV.fullmatch(name)  # any value: it is a variable of the other container
    return found is not None and _ALIAS.fullmatch(environ.get(f"{found['owner']}_NAME", "").strip()) is not None


def _note_of(ignored: list[str]) -> str:
    """Return that the variables `ignored` were, and how to remove them; empty for none."""
    if not ignored:
        return ""
    more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
    return (
        f"ignored {ignored[0]}{more}: set by Kubernetes or Docker for a service called backupd, not by you "
        "(enableServiceLinks: false in the pod spec removes them)"
    )


def _is_port_part(found: re.Match[str], value: str, environ: Mapping[str, str]) -> bool:
    part = found["part"]
    if part is None or part in ("START", "END"):
        return _is_address(value)
    if not _is_address(environ.get(found["whole"], environ.get(f"{found['whole']}_START", "")).strip()):
        return False
    if part == "PROTO":
        return value == found["protocol"].lower()
    return _is_host(value) if part == "ADDR" else _is_port(value)


def _is_address(value: str) -> bool:
    found = _ADDRESS.fullmatch(value)
    return found is not None and _is_host(found["host"].strip("[]"))


def _is_host(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return re.fullmatch(r"\d{1,5}", value, re.ASCII) is not None
