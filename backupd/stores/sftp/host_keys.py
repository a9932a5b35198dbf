"""Pinned host keys, and the check of a server's key against them: no other key is ever accepted."""

import hmac
import re
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal, Self

from paramiko import PKey

from backupd.errors import ConfigError, HostKeyChanged, HostKeyRefused, HostKeyUnknown
from backupd.stores.sftp.url import SSH_PORT, host_and_port

# By type, in the order of preference: the algorithms to ask for in the negotiation (RFC 8332: no SHA-1 for RSA).
ALGORITHMS: Final = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
_ED25519_BYTES: Final = 32


class NotAKey(ValueError):
    """The text is not a public key; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its type, and its bytes (RFC 4253 §6.6), which repeat the type."""

    type: str
    blob: bytes

    @classmethod
    def of(cls, key: PKey) -> Self:
        """Return the public part of `key`."""
        return cls(key.get_name(), key.asbytes())

    @classmethod
    def parse(cls, kind: str, base64: str) -> Self:
        """Return the key in the two fields of a line. Raises NotAKey."""
        if kind not in ALGORITHMS:
            raise NotAKey(f"keys of type {kind} are not supported; supported are {', '.join(ALGORITHMS)}")
        try:
            blob = b64decode(base64, validate=True)
            fields = _fields(blob)
        except (Base64Error, struct.error):
            raise NotAKey(f"the {kind} key is damaged or truncated") from None
        if fields[:1] != [kind.encode()]:
            raise NotAKey(f"the key is not of the type {kind} in front of it")
        complete = len(fields) == (2 if kind == "ssh-ed25519" else 3)
        if not complete or (kind == "ssh-ed25519" and len(fields[1]) != _ED25519_BYTES):
            raise NotAKey(f"the {kind} key is damaged or truncated")
        return cls(kind, blob)

    @property
    def text(self) -> str:
        """Type and base64, as in known_hosts."""
        return f"{self.type} {b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -lf` shows it."""
        return f"SHA256:{b64encode(sha256(self.blob).digest()).decode().rstrip('=')}"

    def __str__(self) -> str:
        return f"{self.type} {self.fingerprint}"


Marker = Literal["", "@revoked", "@cert-authority"]
_MARKERS: Final[tuple[Marker, ...]] = ("@revoked", "@cert-authority")
_HASHED: Final = "|1|"


@dataclass(frozen=True, slots=True)
class HostKeyEntry:
    """One line as in known_hosts: it pins or revokes a key, or delegates to it."""

    hosts: str  # patterns or a hash; empty: any host
    marker: Marker
    key: PublicKey
    origin: str  # of the line, for messages

    def is_for(self, host: str, port: int) -> bool:
        """Tell whether the line is for `host` at `port`, by OpenSSH's rules."""
        name = lookup_name(host, port)
        if not self.hosts:
            return True
        if self.hosts.startswith(_HASHED):
            return _is_hash_of(self.hosts, name)
        patterns = self.hosts.lower().split(",")
        refused = any(_matches(pattern[1:], name) for pattern in patterns if pattern.startswith("!"))
        return not refused and any(_matches(pattern, name) for pattern in patterns)


HostKeyState = Literal["equal", "changed", "revoked", "unpinned"]


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """The host keys that the configuration pins for replica `name`; without any, no server is accepted."""

    name: str
    entries: tuple[HostKeyEntry, ...] = ()
    skipped: tuple[str, ...] = ()  # unreadable lines, as `ORIGIN: PROBLEM`

    @classmethod
    def read(cls, name: str, host_key: str | None, known_hosts: Path | None) -> Self:
        """Return the keys that `[replicas.NAME] host_key` and `known_hosts` pin. Raises ConfigError."""
        entries = _parse_host_key(host_key or "", f"replicas.{name}.host_key")
        if known_hosts is None:
            return cls(name, entries)
        try:
            text = known_hosts.read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            hint = "check known_hosts, the mount, and the permissions"
            raise ConfigError(f"cannot read {known_hosts}: {error.strerror}", hint) from None
        found, skipped = _parse_known_hosts(text, str(known_hosts))
        return cls(name, entries + found, skipped)

    def keys(self, host: str, port: int) -> tuple[PublicKey, ...]:
        """Return the keys pinned for `host`, the preferred types first."""
        keys = {entry.key for entry in self._for(host, port) if not entry.marker} - self._revoked(host, port)
        return tuple(sorted(keys, key=lambda key: (list(ALGORITHMS).index(key.type), key.blob)))

    def algorithms(self, host: str, port: int) -> tuple[str, ...]:
        """Return the algorithms of the pinned keys, to prefer in the negotiation: a server may have several keys."""
        kinds = dict.fromkeys(key.type for key in self.keys(host, port))
        return tuple(algorithm for kind in kinds for algorithm in ALGORITHMS[kind])

    def state(self, host: str, port: int, key: PublicKey) -> HostKeyState:
        """Compare `key` with the pinned keys: "unpinned" when no key of its type is pinned."""
        if key in self._revoked(host, port):
            return "revoked"
        pinned = self.keys(host, port)
        if key in pinned:
            return "equal"
        return "changed" if key.type in {other.type for other in pinned} else "unpinned"

    def verdict(
        self, host: str, port: int, offered: Sequence[PublicKey], not_requested: Sequence[str] = ()
    ) -> HostKeyState:
        """Compare all keys that a server offers: "changed" also when it offers none of the pinned keys.

        Pinned keys of the types `not_requested` are ignored: the server may have them.
        """
        states = [self.state(host, port, key) for key in offered]
        for state in ("revoked", "changed", "equal"):
            if state in states:
                return state
        return "changed" if any(key.type not in not_requested for key in self.keys(host, port)) else "unpinned"

    def check(self, host: str, port: int, key: PKey) -> None:
        """Accept a key that is pinned for `host`. Raises HostKeyUnknown, HostKeyChanged, HostKeyRefused (revoked)."""
        offered = PublicKey.of(key)
        where = host_and_port(host, port)
        pinned = self.keys(host, port)
        state = self.state(host, port, offered)
        if state == "revoked":
            raise HostKeyRefused(f"{where} sent a revoked host key, {offered}", self._hint_changed())
        if not pinned:
            hint = f"`backupd trust {self.name}` shows its keys, how to compare them, and the line that pins one"
            raise HostKeyUnknown(f"{where} sent the host key {offered}; {self._why_none(host, port)}", hint)
        if state != "equal":
            known = ", ".join(map(str, pinned))
            raise HostKeyChanged(f"{where} sent the host key {offered}; pinned is {known}", self._hint_changed())

    def _for(self, host: str, port: int) -> tuple[HostKeyEntry, ...]:
        """Return the entries for `host` at `port`; where there are none, like OpenSSH those for `host` alone."""
        entries = [entry for entry in self.entries if entry.marker != "@revoked"]
        found = tuple(entry for entry in entries if entry.is_for(host, port))
        return found or tuple(entry for entry in entries if entry.is_for(host, SSH_PORT))

    def _revoked(self, host: str, port: int) -> set[PublicKey]:
        entries = [entry for entry in self.entries if entry.marker == "@revoked"]
        return {entry.key for entry in entries if entry.is_for(host, port) or entry.is_for(host, SSH_PORT)}

    def _why_none(self, host: str, port: int) -> str:
        markers = {entry.marker for entry in self._for(host, port)}
        if "@cert-authority" in markers:
            return "only a certificate authority (@cert-authority) is pinned, which backupd does not support"
        if "" in markers:
            return "every pinned key is revoked as well"
        if self.entries:
            return f"the pinned keys are for other hosts, not for {lookup_name(host, port)}"
        if self.skipped:
            return f"no line that pins a key is readable: {self.skipped[0]}"
        return "no key is pinned"

    def _hint_changed(self) -> str:
        return (
            "nothing was sent: this may be a man-in-the-middle. Ask the server's administrator; if it has a new key, "
            f"`backupd trust {self.name}` shows how to compare it, and the line that pins it"
        )


def line_for(host: str, port: int, key: PKey) -> str:
    """Return the line for a known_hosts file."""
    return f"{lookup_name(host, port)} {PublicKey.of(key).text}"


def _fields(blob: bytes) -> list[bytes]:
    """Return the strings in `blob`, each after its length (RFC 4251 section 5)."""
    fields = []
    while blob:
        (length,) = struct.unpack(">I", blob[:4])
        fields.append(blob[4 : 4 + length])
        if len(fields[-1]) < length:
            raise struct.error
        blob = blob[4 + length :]
    return fields


def lookup_name(host: str, port: int) -> str:
    """Return the name of a host in known_hosts: `[name]:port` for another port than 22."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def _parse_known_hosts(text: str, origin: str) -> tuple[tuple[HostKeyEntry, ...], tuple[str, ...]]:
    """Return the entries of a known_hosts file, and the unreadable lines, which are skipped as OpenSSH does.

    Raises ConfigError for an unreadable revocation: without it a stolen key would be accepted.
    """
    entries: list[HostKeyEntry] = []
    skipped = []
    for number, words in _lines(text):
        where = f"{origin}:{number}"
        try:
            entries.append(_entry(words, where))
        except NotAKey as problem:
            if words[0] == "@revoked":
                raise ConfigError(f"{where}: {problem}", "correct the line: a revoked key must be readable") from None
            skipped.append(f"{where}: {problem}")
    return tuple(entries), tuple(skipped)


def _parse_host_key(text: str, origin: str) -> tuple[HostKeyEntry, ...]:
    """Return the entries of lines as in known_hosts, with or without hosts. Raises ConfigError."""
    entries = []
    for _number, words in _lines(text):
        try:
            entries.append(_entry(["", *words] if words[0] in ALGORITHMS else words, origin))
        except NotAKey as problem:
            hint = "write a line as in known_hosts, or just 'ssh-ed25519 AAAA…': `backupd trust NAME` prints it"
            raise ConfigError(f"{origin}: {problem}", hint) from None
    return tuple(entries)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and words of each line that is neither empty nor a comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _entry(words: list[str], origin: str) -> HostKeyEntry:
    marker: Marker = next((marker for marker in _MARKERS if words[0] == marker), "")
    fields = words[1:] if marker else words
    hosts, kind, base64 = [*fields, "", "", ""][:3]
    if hosts.startswith(("SHA256:", "MD5:")):
        raise NotAKey("this is a fingerprint: the key itself is needed")
    if hosts.startswith("@"):
        raise NotAKey("unknown marker: only @revoked and @cert-authority are supported")
    if not base64:
        raise NotAKey("this is not a line with hosts, type and key")
    return HostKeyEntry(hosts, marker, PublicKey.parse(kind, base64), origin)


def _matches(pattern: str, name: str) -> bool:
    """Match `*` and `?` only: brackets are literal, as in `[host]:port`."""
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in re.sub(r"\*+", "*", pattern))
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (b64decode(part, validate=True) for part in hashed[len(_HASHED) :].split("|"))
    except (Base64Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
