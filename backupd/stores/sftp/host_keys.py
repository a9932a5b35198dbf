"""Which host keys are pinned, and whether the one that a server shows is among them: nothing else is ever accepted."""

import hmac
import re
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
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
    """What is wrong with the text of a public key, in a few words."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A type and the bytes of the key, which begin with the type once more."""

    type: str
    blob: bytes

    @classmethod
    def of(cls, key: PKey) -> Self:
        """Return the public part of `key`."""
        return cls(key.get_name(), key.asbytes())

    @classmethod
    def parse(cls, kind: str, base64: str) -> Self:
        """Return the key that both fields of a line stand for. Raises NotAKey."""
        if kind not in ALGORITHMS:
            raise NotAKey(f"keys of type {kind} are not supported; there are {', '.join(ALGORITHMS)}")
        try:
            blob = b64decode(base64, validate=True)
            fields = _fields(blob)
        except (Base64Error, struct.error):
            raise NotAKey(f"the {kind} key is damaged or cut off") from None
        if fields[:1] != [kind.encode()]:
            raise NotAKey(f"the key is not of the type {kind} that stands before it")
        complete = len(fields) == (2 if kind == "ssh-ed25519" else 3)
        if not complete or (kind == "ssh-ed25519" and len(fields[1]) != _ED25519_BYTES):
            raise NotAKey(f"the {kind} key is damaged or cut off")
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


__all__ = ["PinnedKeys", "State", "fingerprint", "line_for"]
State = Literal["equal", "changed", "revoked", "unpinned"]


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """The host keys that the configuration pins for replica `name`; without any, no server is good enough."""

    name: str
    pins: tuple[Pin, ...] = ()
    skipped: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, host_key: str | None, known_hosts: Path | None) -> Self:
        """Return what `[replicas.NAME] host_key` and `known_hosts` pin. Raises ConfigError for what is unreadable."""
        own = parse_host_key(host_key, f"replicas.{name}.host_key") if host_key else Lines((), ())
        filed = parse_known_hosts(_text_of(known_hosts), str(known_hosts)) if known_hosts else Lines((), ())
        return cls(name, own.pins + filed.pins, own.skipped + filed.skipped)

    def keys(self, host: str, port: int) -> tuple[PublicKey, ...]:
        """Return the keys that are pinned for `host`, the preferred types first."""
        keys = {pin.key for pin in self._for(host, port) if not pin.marker} - self._revoked(host, port)
        return tuple(sorted(keys, key=lambda key: (list(ALGORITHMS).index(key.type), key.blob)))

    def types(self, host: str, port: int) -> tuple[str, ...]:
        """Return the algorithms of the pinned keys; asked for first, a server with several keys shows one of them."""
        kinds = dict.fromkeys(key.type for key in self.keys(host, port))
        return tuple(algorithm for kind in kinds for algorithm in ALGORITHMS[kind])

    def state(self, host: str, port: int, key: PublicKey) -> State:
        """Tell how `key` relates to what is pinned: "unpinned" where no other key of its type is."""
        if key in self._revoked(host, port):
            return "revoked"
        pinned = self.keys(host, port)
        if key in pinned:
            return "equal"
        return "changed" if key.type in {other.type for other in pinned} else "unpinned"

    def verdict(self, host: str, port: int, offered: Sequence[PublicKey], unasked: Sequence[str] = ()) -> State:
        """Tell the same of all keys that a server offers: "changed" also where it offers none of the pinned ones.

        A pinned key of a type in `unasked` may be there: it changes nothing that it was not offered.
        """
        states = [self.state(host, port, key) for key in offered]
        for state in ("revoked", "changed", "equal"):
            if state in states:
                return state
        return "changed" if any(key.type not in unasked for key in self.keys(host, port)) else "unpinned"

    def check(self, host: str, port: int, key: PKey) -> None:
        """Accept a key that is pinned for `host`; raises HostKeyUnknown, HostKeyChanged, HostKeyRefused (revoked)."""
        offered = PublicKey.of(key)
        where = host_and_port(host, port)
        pinned = self.keys(host, port)
        state = self.state(host, port, offered)
        if state == "revoked":
            raise HostKeyRefused(f"{where} shows a revoked host key, {offered}", self._hint_changed())
        if not pinned:
            raise HostKeyUnknown(f"{where} shows the host key {offered}; {self._why_none(host, port)}", self._hint())
        if state != "equal":
            known = ", ".join(map(str, pinned))
            raise HostKeyChanged(f"{where} shows the host key {offered}; pinned is {known}", self._hint_changed())

    def _for(self, host: str, port: int) -> tuple[Pin, ...]:
        """Return the lines for `host` at `port`; where there is none, like OpenSSH those for `host` alone."""
        lines = [pin for pin in self.pins if pin.marker != "@revoked"]
        found = tuple(pin for pin in lines if pin.is_for(host, port))
        return found or tuple(pin for pin in lines if pin.is_for(host, SSH_PORT))

    def _revoked(self, host: str, port: int) -> set[PublicKey]:
        lines = [pin for pin in self.pins if pin.marker == "@revoked"]
        return {pin.key for pin in lines if pin.is_for(host, port) or pin.is_for(host, SSH_PORT)}

    def _why_none(self, host: str, port: int) -> str:
        markers = {pin.marker for pin in self._for(host, port)}
        if "@cert-authority" in markers:
            return "pinned is a certificate authority (@cert-authority) alone, which backupd does not know how to ask"
        if "" in markers:
            return "every key that is pinned for it is revoked as well"
        if self.pins:
            return f"what is pinned is for other hosts, not for {lookup_name(host, port)}"
        if self.skipped:
            return f"no line that could pin one is readable: {self.skipped[0]}"
        return "none is pinned"

    def _hint(self) -> str:
        return f"`backupd trust {self.name}` shows its keys, how to compare them, and the line for the configuration"

    def _hint_changed(self) -> str:
        return (
            "nothing was told to it: somebody may stand in between. Ask whoever runs the server; if it really has "
            f"a new key, `backupd trust {self.name}` shows how to compare it, and the line to pin it"
        )


def line_for(host: str, port: int, key: PKey) -> str:
    """Return the line for a known_hosts file."""
    return f"{lookup_name(host, port)} {PublicKey.of(key).text}"


def _text_of(known_hosts: Path) -> str:
    try:
        return known_hosts.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        hint = "check known_hosts, the mount, and the rights"
        raise ConfigError(f"cannot read {known_hosts}: {error.strerror}", hint) from None


def fingerprint(key: PKey) -> str:
    """Return `SHA256:…` of `key`, as `ssh-keygen -lf` shows it."""
    return PublicKey.of(key).fingerprint


def _fields(blob: bytes) -> list[bytes]:
    """Return the strings that `blob` is made of, each after its length (RFC 4251 section 5)."""
    fields = []
    while blob:
        (length,) = struct.unpack(">I", blob[:4])
        fields.append(blob[4 : 4 + length])
        if len(fields[-1]) < length:
            raise struct.error
        blob = blob[4 + length :]
    return fields


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
