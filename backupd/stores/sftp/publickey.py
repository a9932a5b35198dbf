"""Public keys as known_hosts, ssh-keygen and the protocol write them (RFC 4253 section 6.6)."""

import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from paramiko import PKey

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
