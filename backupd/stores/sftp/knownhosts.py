"""The lines of a known_hosts file, and which hosts each is for: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""

import hmac
import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass
from typing import Final, Literal

from backupd.errors import ConfigError
from backupd.stores.sftp.address import SSH_PORT
from backupd.stores.sftp.publickey import ALGORITHMS, NotAKey, PublicKey

Marker = Literal["", "@revoked", "@cert-authority"]
_MARKERS: Final[tuple[Marker, ...]] = ("@revoked", "@cert-authority")
_HASHED: Final = "|1|"


@dataclass(frozen=True, slots=True)
class Pin:
    """One line: for which hosts (none named: for any) it pins, revokes or delegates to a key, and where it stands."""

    hosts: str
    marker: Marker
    key: PublicKey
    origin: str

    def is_for(self, host: str, port: int) -> bool:
        """Tell whether the line is for `host` at `port`, as OpenSSH does."""
        name = lookup_name(host, port)
        if not self.hosts:
            return True
        if self.hosts.startswith(_HASHED):
            return _is_hash_of(self.hosts, name)
        patterns = self.hosts.lower().split(",")
        refused = any(_matches(pattern[1:], name) for pattern in patterns if pattern.startswith("!"))
        return not refused and any(_matches(pattern, name) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Lines:
    """What a text pins, and what is wrong with the lines that are passed over."""

    pins: tuple[Pin, ...]
    skipped: tuple[str, ...]


def lookup_name(host: str, port: int) -> str:
    """Return how known_hosts calls a host: its name, for another port than 22 `[name]:port`."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def parse_known_hosts(text: str, origin: str) -> Lines:
    """Return the pins of a known_hosts file; a line that cannot be read is passed over, as OpenSSH does.

    A revocation that cannot be read raises ConfigError: without it a stolen key would count.
    """
    pins: list[Pin] = []
    skipped = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{origin}:{number}"
        try:
            pins.append(_pin(line.split(), where))
        except NotAKey as problem:
            if line.split()[0] == "@revoked":
                raise ConfigError(f"{where}: {problem}", "a revoked key must be readable: correct the line") from None
            skipped.append(f"{where}: {problem}")
    return Lines(tuple(pins), tuple(skipped))


def parse_host_key(text: str, origin: str) -> Lines:
    """Return the pins of lines as in known_hosts, which may begin with the type of the key.

    Raises ConfigError for a line that is neither.
    """
    pins = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            pins.append(_pin(["", *words] if words[0] in ALGORITHMS else words, origin))
        except NotAKey as problem:
            hint = "one line as in known_hosts, or just 'ssh-ed25519 AAAA…': `backupd trust NAME` prints it"
            raise ConfigError(f"{origin}: {problem}", hint) from None
    return Lines(tuple(pins), ())


def _pin(words: list[str], origin: str) -> Pin:
    marker: Marker = next((marker for marker in _MARKERS if words[0] == marker), "")
    fields = words[1:] if marker else words
    hosts, kind, base64 = [*fields, "", "", ""][:3]
    if hosts.startswith(("SHA256:", "MD5:")):
        raise NotAKey("this is a fingerprint, and the key itself is needed")
    if hosts.startswith("@"):
        raise NotAKey("there are no such marks but @revoked and @cert-authority")
    if not base64:
        raise NotAKey("this is no line with hosts, type and key")
    return Pin(hosts, marker, PublicKey.parse(kind, base64), origin)


def _matches(pattern: str, name: str) -> bool:
    """Match with `*` and `?` alone: brackets stand for themselves, as in `[host]:port`."""
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in re.sub(r"\*+", "*", pattern))
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (b64decode(part, validate=True) for part in hashed[len(_HASHED) :].split("|"))
    except (Base64Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
