"""The key to log in with: whatever text a file, a secret or a form holds, one paramiko key or a clear reason."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from io import StringIO
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from paramiko import ECDSAKey, Ed25519Key, PKey, RSAKey

from backupd.errors import LoginFailed

_NEW_KEY: Final = "make a new one: ssh-keygen -t ed25519 -f backupd_key"
_WHOLE: Final = "private_key is the whole file, or the one line that `base64 -w0 FILE` prints"
_PUBLIC: Final = re.compile(r"(ssh-|ecdsa-|sk-)\S+ AAAA|-+ ?BEGIN (SSH2 )?(RSA )?PUBLIC KEY")
_BEGIN: Final = re.compile(r"-----BEGIN (?:([A-Z0-9]+) )?(?:ENCRYPTED )?PRIVATE KEY-----")

_Loaded = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def load_key(text: str, passphrase: str | None = None) -> PKey:
    """Return the private key (ed25519, ecdsa, rsa) in `text`: OpenSSH or PEM, as it is or as base64 in one line.

    A passphrase that the key does not need is ignored. Raises LoginFailed, without any of both in its message.
    """
    plain = _plain(text)
    loaded = _opened(plain.encode(), passphrase.encode() if passphrase else None, _begin(plain))
    unlocked = loaded.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    kind = RSAKey if isinstance(loaded, rsa.RSAPrivateKey) else ECDSAKey
    key_class: type[PKey] = Ed25519Key if isinstance(loaded, ed25519.Ed25519PrivateKey) else kind
    return key_class.from_private_key(StringIO(unlocked))


def _plain(text: str) -> str:
    """Return the lines of a key file, whatever they ended with, out of base64 if they were in it."""
    text = text.lstrip("\ufeff").strip()
    if "-----BEGIN" not in text and not _PUBLIC.match(text) and not text.startswith("PuTTY"):
        try:
            text = b64decode("".join(text.split()), validate=True).decode()
        except (Base64Error, UnicodeDecodeError, ValueError):
            raise LoginFailed("the private key is neither the text of a key file nor its base64", _WHOLE) from None
    return "\n".join(line.strip() for line in text.strip().splitlines()) + "\n"


def _begin(plain: str) -> str:
    """Return the word in the first line that says the kind of file. Raises LoginFailed for what is no private key."""
    if _PUBLIC.match(plain):
        raise LoginFailed("this is the public key, and the private one is needed", "give the file without .pub")
    if plain.startswith("PuTTY"):
        raise LoginFailed("the private key is in PuTTY's format", "puttygen KEY.ppk -O private-openssh -o KEY")
    begin = _BEGIN.match(plain)
    if begin is None:
        raise LoginFailed("the private key does not begin with a line -----BEGIN … PRIVATE KEY-----", _WHOLE)
    if plain.count("\n") == 1 or "\\n" in plain:
        raise LoginFailed("the private key lost its line ends on the way", "give it as `base64 -w0 FILE` prints it")
    if "-----END" not in plain:
        raise LoginFailed("the private key is cut off: its last line is missing", _WHOLE)
    return begin[1] or ""


def _opened(plain: bytes, passphrase: bytes | None, begin: str) -> _Loaded:
    load = load_ssh_private_key if begin == "OPENSSH" else load_pem_private_key
    try:
        loaded = load(plain, passphrase)
    except TypeError:  # both loaders say so that there is a passphrase too many or too few
        if passphrase is not None:
            return _opened(plain, None, begin)
        hint = "set passphrase (BACKUPD_REPLICAS__NAME__PASSPHRASE), or use a key that has none"
        raise LoginFailed("the private key has a passphrase, and none is set", hint) from None
    except UnsupportedAlgorithm:
        raise LoginFailed("the private key is of a kind that cannot be used here", _NEW_KEY) from None
    except ValueError:
        if passphrase is not None:
            hint = "try it where the key is: ssh-keygen -y -f FILE"
            raise LoginFailed("the passphrase does not open the private key, or the key is damaged", hint) from None
        raise LoginFailed("the private key is damaged or cut off", _WHOLE) from None
    if isinstance(loaded, dsa.DSAPrivateKey):
        raise LoginFailed("the private key is a DSA key, which servers no longer accept", _NEW_KEY)
    if not isinstance(loaded, _Loaded):
        raise LoginFailed("the private key is of a kind that SSH servers do not take", _NEW_KEY)
    return loaded
