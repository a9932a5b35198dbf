"""The URL of a replica: a directory of this host, or of another one over SFTP."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from backupd.errors import ConfigError
from backupd.formatting import printable

SSH_PORT: Final = 22
HOME: Final = "."
_FORMS: Final = "sftp://USER@HOST:PORT/PATH for another host, file:/PATH for a directory of this one"
_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}", re.ASCII)  # a name or an IPv4 address, never an option
_PASSWORD: Final = re.compile(r"(?:^|/)[^/:]+:[^/@]+@")
_SCP: Final = re.compile(r"(?:[^@/:]+@)?[^@/:]+:(?!//)")


@dataclass(frozen=True, slots=True)
class SftpAddress:
    """A directory of an account on another host; a relative `path` starts in the login directory."""

    host: str
    port: int
    username: str | None
    path: str

    @property
    def where(self) -> str:
        """The host for people: `nas:22`, `[fd00::7]:2222`."""
        return host_and_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class DirectoryAddress:
    """A directory of this host."""

    path: Path


Address = SftpAddress | DirectoryAddress


def host_and_port(host: str, port: int) -> str:
    """Return both for people: `nas:22`, `[fd00::7]:2222`."""
    return printable(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def holds_password(text: str) -> bool:
    """Return whether a URL, or a path that was meant as one, contains USER:PASSWORD@."""
    return _PASSWORD.search(text) is not None


def parse_address(url: str) -> Address:
    """Return the address in `url` (or a plain absolute path). Raises ConfigError, with no password in its message."""
    if holds_password(url):
        raise ConfigError("the URL of a replica holds a password", "set password or private_key instead")
    if not url.isprintable():  # urlsplit would drop some control characters, and so read another URL
        raise ConfigError("the URL of a replica holds control characters", f"write {_FORMS}")
    if url.startswith("/"):
        return DirectoryAddress(Path(_checked_path(url)))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message may hold the URL, and the URL a password
        raise ConfigError("the URL of a replica has no valid host or port", f"write {_FORMS}") from None
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise _refused(url, "has a '?' or '#'", "write %3F or %23 where they are part of the path")
    if parts.scheme == "sftp":
        return _sftp(url, parts, port)
    if parts.scheme == "file":
        return _directory(url, parts)
    if parts.scheme in {"ssh", "scp"}:
        raise _refused(url, "is not for SFTP", f"write sftp:// for {parts.scheme}://")
    if _SCP.match(url):
        raise _refused(url, "is written as for scp", f"write {_FORMS}")
    raise _refused(url, "has an unsupported scheme", f"write {_FORMS}")


def _sftp(url: str, parts: SplitResult, port: int | None) -> SftpAddress:
    if not parts.netloc:
        raise _refused(url, "names no host", f"write {_FORMS}")
    if port == 0:
        raise _refused(url, "has port 0", f"leave it out for {SSH_PORT}")
    username = _decoded(url, parts.username or "") or None
    if username and (":" in username or not username.isprintable()):  # it was encoded, and may be a password
        raise ConfigError(
            "the URL of a replica has a user name that no account has", "set username or password instead"
        )
    path = _checked_path(_decoded(url, parts.path))
    if path.startswith(("/~/", "/./")) or path in {"", "/~", "/."}:
        path = path[3:].strip("/") or HOME
    if path.startswith("/~"):
        raise _refused(url, "names another user's home", "write its absolute path, or /~/PATH for the account's own")
    return SftpAddress(_host(url, parts), port or SSH_PORT, username, path)


def _host(url: str, parts: SplitResult) -> str:
    host = unquote(parts.hostname or "")
    if "[" in parts.netloc:
        try:
            return str(IPv6Address(host))
        except ValueError:
            raise _refused(url, "has no valid IPv6 address between '[' and ']'", f"write {_FORMS}") from None
    if not _NAME.fullmatch(host):
        raise _refused(url, "has no valid host name", f"write {_FORMS}; a name beyond ASCII as xn--…")
    return host


def _directory(url: str, parts: SplitResult) -> DirectoryAddress:
    if parts.netloc not in {"", "localhost"}:
        raise _refused(url, "is a file: URL with a host", f"write file:{parts.path or '/PATH'}, or sftp:// for a host")
    path = _checked_path(_decoded(url, parts.path))
    if not path.startswith("/"):
        raise _refused(url, "has no absolute path", "write file:/PATH")
    return DirectoryAddress(Path(path))


def _decoded(url: str, text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _refused(url, "is not UTF-8 when decoded", "correct its %XX") from None


def _checked_path(path: str) -> str:
    """Return `path` without a trailing slash."""
    if not path.isprintable():
        raise ConfigError(f"the path {printable(path)} holds control characters", "choose another directory")
    if ".." in path.split("/"):
        raise ConfigError(f"the path {path} has '..' in it", "write it without")
    return path.rstrip("/") or path[:1]


def _refused(url: str, what: str, hint: str) -> ConfigError:
    return ConfigError(f"the URL {printable(url)} {what}", hint)
