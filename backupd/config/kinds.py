"""The kinds of values that keys hold; each says in plain words what it expects."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, timedelta
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, PlainSerializer, SecretStr

from backupd.errors import ConfigError
from backupd.formatting import SPAN_EXAMPLE, parse_span, written_span
from backupd.masking import MASK
from backupd.model import LOCAL_STORE, POINT, is_source_name
from backupd.pings import Monitor
from backupd.schedule import Schedule
from backupd.stores.sftp.url import holds_password, parse_address
from backupd.system.path_patterns import excluded

WEEK_S = 7 * 24 * 3600
YEAR_S = 366 * 24 * 3600
_INT_32_MAX: Final = 2**31 - 1
_SHORTEST_TOKEN: Final = 16
# URLs may contain commas ("mailtos://…?to=a@b.c,d@b.c"): one stands between two only where another scheme follows.
_BETWEEN_URLS = re.compile(r"(?<![,\s])[,\s]++(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# SQLAlchemy and Django (sqlite:///x, sqlite+aiosqlite://), Rails (sqlite3:x), JDBC (jdbc:sqlite:x), Prisma (file:./x),
# SQLite's own file:/x?mode=ro; .NET (Data Source=x;…).
_DATABASE_URL: Final = re.compile(
    r"(?:(?:jdbc:)?sqlite3?(?:\+\w+)?:|file:|(?:data ?source|filename)\s*=)(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)
_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://).*", re.IGNORECASE | re.DOTALL)
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/].*|\\\\.*", re.DOTALL)
_FOR_SHELL: Final = "begins with '~' or contains a variable, which only a shell expands: write the full path"
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", re.ASCII)
# As git-check-ref-format(1) allows names, without its rarest exceptions.
_REF_PATTERN: Final = re.compile(r"refs/(?:heads|tags)(?:/[^/\s\x00-\x1f\x7f~^:\[\\]+)+")
_HIGHEST_ID: Final = 2**32 - 2
_Value = TypeVar("_Value")


class WithheldSecret(SecretStr):
    """A secret that is set, and that this process was not given."""

    def __init__(self) -> None:
        super().__init__("")

    def get_secret_value(self) -> NoReturn:
        """Raise RuntimeError: the starter of this process did not know that it needs the secret."""
        raise RuntimeError("this process was started without the secret that it needs")


def absolute_path(text: str, directory: Path) -> str:
    """Return `text` as an absolute path, relative to `directory`; a text that is not a path is returned unchanged."""
    return text if _path_problem(text) else os.path.abspath(directory / text)  # noqa: PTH100 - resolve() follows links


def is_time_zone(name: str) -> bool:
    """Return whether `name` is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a directory, such as "Europe"
        return False
    return True


def _number(value: object) -> object:
    if isinstance(value, bool):  # pydantic reads `daily = true` as 1, which would prune six generations
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _path_text(value: object) -> object:
    text = str(value)
    if not text or "\0" in text:
        raise ValueError("must be a path")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8 text: manifests and the catalog cannot store other bytes") from None
    if problem := _path_problem(text):
        raise ValueError(problem)
    return value


def is_path(text: str) -> bool:
    """Return whether `text` may be the path of a key: others cannot be stored or shown."""
    try:
        _path_text(text)
    except ValueError:
        return False
    return True


def _path_problem(text: str) -> str:
    """Return why `text` is not a path and what to write instead, empty where it may be one."""
    if holds_password(text):
        return "must not contain a password (USER:PASSWORD@), because logs and pages show paths"
    normal = os.path.normpath(text)  # "/app/x /" is read as "/app/x "
    if normal != normal.strip():
        return "must not begin or end with whitespace"
    if found := _DATABASE_URL.fullmatch(text):
        return f"must be a path alone: write {_path_in(found['rest'])}"
    if found := _URL.fullmatch(text):
        return f"must be a path of this machine, not a URL ({found['scheme']})"
    if _WINDOWS.fullmatch(text):
        return "is a Windows path: write the path of the file on this machine, such as /app/data/tasks.db"
    is_for_shell = text.startswith(("~", "$")) or "${" in text
    return _FOR_SHELL if is_for_shell else ""


def _path_in(rest: str) -> str:
    """Return the path that the rest of a URL or of a connection string most likely means."""
    without_host = re.sub(r"^//(?:localhost(?=/))?", "", rest)
    path = unquote(re.split("[?;]", without_host)[0]).strip()
    if path.startswith("/") and path.strip("/"):
        return f"/{path.lstrip('/')}"
    return f"the full path of {Path(path).name or 'the file'}, such as /app/data/tasks.db"


def _plain_name(name: str) -> str:
    if not is_source_name(name):
        raise ValueError("a name has letters, digits, '.', '_' and '-' only, and begins with a letter or digit")
    return name


def _replica_name(name: str) -> str:
    if name == LOCAL_STORE:
        raise ValueError(f"'{LOCAL_STORE}' is reserved for backups_dir: choose another name")
    return name


def _source_name(name: str) -> str:
    if name.lower() == POINT:
        raise ValueError(f"'{POINT}' is reserved for restore points: choose another name")
    return name


def _pattern(text: str) -> str:
    if text.startswith("!"):
        raise ValueError(f"{text[:60]!r} would include again what another pattern excludes, which is not supported")
    if not text.strip("/") or "\0" in text or {".", ".."} & set(text.split("/")):
        raise ValueError(f"{text[:60]!r} is not a pattern such as '*.tmp', 'cache/' or '/thumbs/**/small'")
    try:
        excluded([text], directories=True)
    except re.error as error:
        raise ValueError(f"{text[:60]!r} is not a pattern: {error}") from None
    return text


def _distinct(tables: Mapping[str, _Value]) -> Mapping[str, _Value]:
    if len({name.lower() for name in tables}) < len(tables):
        raise ValueError("two names differ only in case, which the environment cannot express: rename one")
    return tables


def _time_zone(name: str) -> str:
    if not is_time_zone(name):
        raise ValueError(f"must be an IANA time zone such as 'Europe/Berlin', not {name!r}")
    return name


def _when(text: str) -> str:
    Schedule.parse(text, UTC)
    return text


def _span(value: object) -> object:
    try:
        span = parse_span(str(value))  # 0 is accepted without quotes; a number without a unit is refused
    except ValueError:
        raise ValueError(f"must be a duration such as {SPAN_EXAMPLE}, or 0, not {value!r}") from None
    if span.total_seconds() > 100 * YEAR_S:
        raise ValueError(f"must be at most 100 years, not {value!r}")
    return span


def _listen_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if (
        re.fullmatch(r"[^\s/@]+", host) is None
        or bare_ipv6
        or re.fullmatch(r"\d{1,5}", port, re.ASCII) is None
        or not 0 < int(port) < 1 << 16
    ):
        raise ValueError("must be HOST:PORT, such as '0.0.0.0:8080' or '[::1]:8080'")
    return text


def _url_without_password(url: str) -> str:
    if url != url.strip():
        raise ValueError("must not begin or end with whitespace")
    if holds_password(url):
        raise ValueError("must not contain a password, because logs and pages show URLs; a replica has `password`")
    return url


def _replica_url(url: str) -> str:
    try:
        parse_address(url)
    except ConfigError as error:
        raise ValueError(f"{error.message}: {error.hint}") from None
    return url


def _http(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its message may contain the URL
        is_usable = False
    if not is_usable:
        raise ValueError("must be a URL that begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name, which is not sent: use a URL that needs no login")
    return url


def _plain_url(url: str) -> str:
    if not url.isascii() or re.search(r"[?#\s]", url):
        raise ValueError("must be an address in ASCII, without '?' and '#'")
    return url.rstrip("/")


def _token(secret: SecretStr) -> SecretStr:
    token = secret.get_secret_value()
    if token != token.strip():
        raise ValueError("must not begin or end with whitespace, which clients do not send")
    if len(token) < _SHORTEST_TOKEN:
        raise ValueError(f"must have at least {_SHORTEST_TOKEN} characters: openssl rand -hex 24 makes one")
    return secret


def _without_query(url: str) -> str:
    query = urlsplit(url).query  # it may contain a key
    return url.replace(f"?{query}", f"?{MASK}", 1) if query else url


def _command_line(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be a command line: {error}") from None
    if not words or "\0" in text:
        raise ValueError("must be a command line")
    return text


def is_web(text: str) -> bool:
    """Return whether a hook is a URL rather than a command line."""
    return _SCHEME.match(text) is not None


def _hook(text: str) -> str:
    if not is_web(text):
        program = shlex.split(_command_line(text))[0]
        if "/" in program and not program.startswith("/"):
            raise ValueError("must begin with the full path of the program, or with a name that is found in PATH")
        return text
    if re.search(r"\s", text):
        raise ValueError("must be a command line or one URL: a URL has no spaces")
    return _http(_url_without_password(text))


def _ping_url(secret: SecretStr) -> SecretStr:
    Monitor.parse(secret.get_secret_value())
    return secret


def _split_urls(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [url for url in _BETWEEN_URLS.split(value.strip(", \t\r\n")) if url]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # its message would contain the URLs
        raise ValueError("must be a JSON list of strings, or URLs with commas or spaces between them") from None


def _secret_http(secret: SecretStr) -> SecretStr:
    _http(secret.get_secret_value())
    return secret


def _split_words(value: object) -> object:
    return [word for word in re.split(r"[,\s]+", value) if word] if isinstance(value, str) else value


def _split_list(value: object) -> object:
    return [text.strip() for text in value.split(",") if text.strip()] if isinstance(value, str) else value


def _repository(name: str) -> str:
    if _REPOSITORY.fullmatch(name) is None:
        raise ValueError("must be OWNER/NAME, as at the end of its address")
    return name


def _ref_pattern(pattern: str) -> str:
    if _REF_PATTERN.fullmatch(pattern) is None or ".." in pattern:
        raise ValueError(f"{pattern[:60]!r} is not a full name such as 'refs/heads/main' or 'refs/tags/v*'")
    return pattern


def _have_schemes(urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for number, secret in enumerate(urls, start=1):
        url = secret.get_secret_value()
        scheme = _SCHEME.match(url)
        if scheme is None:
            raise ValueError(f"URL {number} of {len(urls)} has no scheme such as ntfy:// or mailtos://")
        if re.search(r"\s", url.strip()):
            raise ValueError(
                f"URL {number} of {len(urls)} ({scheme[0]}…) contains whitespace inside a URL: write it as %20"
            )
    return urls


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0, le=_INT_32_MAX), BeforeValidator(_number)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_number)]
Seconds = Annotated[float, Field(ge=0, le=WEEK_S, allow_inf_nan=False), BeforeValidator(_number)]
Age = Annotated[float, Field(gt=0, le=YEAR_S, allow_inf_nan=False), BeforeValidator(_number)]
Nice = Annotated[int, Field(ge=0, le=19), BeforeValidator(_number)]
Bytes = Annotated[ByteSize, Field(ge=0, le=1 << 50), BeforeValidator(_number)]
Span = Annotated[timedelta, BeforeValidator(_span), PlainSerializer(written_span, return_type=str)]
Level = Annotated[int, Field(ge=1, le=12), BeforeValidator(_number)]
OldFiles = Annotated[int, Field(ge=1, le=99), BeforeValidator(_number)]
Workers = Annotated[int, Field(ge=1, le=256), BeforeValidator(_number)]

FilePath = Annotated[Path, BeforeValidator(_path_text)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
When = Annotated[Text, AfterValidator(_when)]
ListenAddress = Annotated[str, AfterValidator(_listen_address)]
Url = Annotated[Text, AfterValidator(_url_without_password)]
ReplicaUrl = Annotated[Url, AfterValidator(_replica_url)]
HttpUrl = Annotated[Url, AfterValidator(_http), PlainSerializer(_without_query, return_type=str)]
ServerUrl = Annotated[Url, AfterValidator(_http), AfterValidator(_plain_url)]
CommandLine = Annotated[Text, AfterValidator(_command_line)]
Hook = Annotated[
    Text,
    AfterValidator(_hook),
    PlainSerializer(lambda text: _without_query(text) if is_web(text) else text, return_type=str),
]
OtherUser = Annotated[int, Field(ge=1, le=_HIGHEST_ID), BeforeValidator(_number)]
RepositoryName = Annotated[str, AfterValidator(_repository)]
RefPattern = Annotated[str, AfterValidator(_ref_pattern)]
RefPatterns = Annotated[tuple[RefPattern, ...], Field(min_length=1), BeforeValidator(_split_words)]
TextList = Annotated[tuple[Text, ...], BeforeValidator(_split_list)]
Patterns = Annotated[tuple[Annotated[Text, AfterValidator(_pattern)], ...], BeforeValidator(_split_list)]
Secret = Annotated[SecretStr, Field(min_length=1), PlainSerializer(lambda _: MASK, return_type=str)]
Token = Annotated[Secret, AfterValidator(_token)]
SecretHttpUrl = Annotated[Secret, AfterValidator(_secret_http)]
PingUrl = Annotated[Secret, AfterValidator(_ping_url)]
SecretUrls = Annotated[tuple[Secret, ...], BeforeValidator(_split_urls), AfterValidator(_have_schemes)]

Name = Annotated[str, AfterValidator(_plain_name)]
NameList = Annotated[tuple[Name, ...], BeforeValidator(_split_words)]
ReplicaName = Annotated[Name, AfterValidator(_replica_name)]
SourceName = Annotated[Name, AfterValidator(_source_name)]
Named = Annotated[Mapping[Name, _Value], AfterValidator(_distinct)]
NamedSources = Annotated[Mapping[SourceName, _Value], AfterValidator(_distinct)]
NamedReplicas = Annotated[Mapping[ReplicaName, _Value], AfterValidator(_distinct)]
