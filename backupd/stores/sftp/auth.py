"""Log in by key, by password, or by the SSH agent, with errors that say why a server refuses."""

import os
import re
import socket
import time
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
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
from paramiko import (
    AuthenticationException,
    BadAuthenticationType,
    ECDSAKey,
    Ed25519Key,
    PKey,
    RSAKey,
    SSHException,
    Transport,
)

from backupd.errors import BackupdError, LoginFailed, ReplicaUnreachable
from backupd.formatting import one_line, printable
from backupd.stores.sftp.host_keys import PublicKey
from backupd.stores.sftp.paramiko_internals import ConnectedAgent

_TRY_AGAIN: Final = "try again; if it keeps failing, see the server's log (`journalctl -u ssh`)"
_MAX_QUESTION_CHARS: Final = 60
_MAX_QUESTIONS: Final = 3  # in a message
_MAX_METHODS: Final = 10  # likewise
_NEW_KEY: Final = "make a new one: ssh-keygen -t ed25519 -f backupd_key"
_KEY_FORMAT: Final = "set private_key to the complete file, or to the one line that `base64 -w0 FILE` prints"
_PUBLIC: Final = re.compile(r"(ssh-|ecdsa-|sk-)\S+ AAAA|-+ ?BEGIN (SSH2 )?(RSA )?PUBLIC KEY")
_BEGIN: Final = re.compile(r"-----BEGIN (?:([A-Z0-9]+) )?(?:ENCRYPTED )?PRIVATE KEY-----")

_LoadedKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Credentials:
    """The account, and what to log in with; without key and password it is the agent."""

    username: str
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)


def log_in(transport: Transport, credentials: Credentials) -> None:
    """Log in over a connection whose host key was checked; each step waits up to `transport.auth_timeout` seconds.

    Raises LoginFailed when the credentials are refused or unusable, ReplicaUnreachable when the connection is lost.
    """
    login = _Login(transport, credentials.username)
    attempts = []
    if credentials.private_key:
        key = load_key(credentials.private_key, credentials.passphrase)
        attempts.append(login.by_key(f"the key {PublicKey.of(key)}", key))
    if credentials.password:
        attempts.append(login.by_password(credentials.password))
    if attempts:
        login.try_all(attempts)
        return
    with _agent_keys(transport.auth_timeout) as keys:
        if not keys:
            hint = "set private_key or password in [replicas.NAME], or SSH_AUTH_SOCK to an agent that holds a key"
            raise LoginFailed(f"no key and no password are configured to log in as {login.user}", hint)
        login.try_all([login.by_key(f"the agent's key {PublicKey.of(key)}", key, from_agent=True) for key in keys])


@contextmanager
def _agent_keys(timeout_s: float) -> Iterator[Sequence[PKey]]:
    """Yield the keys of the SSH agent, none without one. Raises LoginFailed when it does not answer."""
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path:
        yield ()
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.connect(path)
            keys = ConnectedAgent(connection).get_keys()
        except (SSHException, OSError) as error:
            hint = "check SSH_AUTH_SOCK and `ssh-add -l`, or set private_key"
            raise LoginFailed(f"the SSH agent does not answer: {error}", hint) from None
        yield keys


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One credential to try: `run` returns the methods that the server requires in addition."""

    name: str
    run: Callable[[], Sequence[str]]
    is_rsa: bool = False
    from_agent: bool = False


class _Login:
    """The attempts on one connection, and the server's responses."""

    def __init__(self, transport: Transport, user: str) -> None:
        self.user = printable(user)
        self._user, self._transport = user, transport
        self._tried: list[_Attempt] = []
        self._accepted: list[str] = []
        self._allowed: Sequence[str] = ()
        self._questions: list[str] = []  # that the password does not answer, fit for a message

    def by_key(self, name: str, key: PKey, *, from_agent: bool = False) -> _Attempt:
        """Return the attempt to log in with `key`."""
        run = partial(self._transport.auth_publickey, self._user, key)
        return _Attempt(name, run, is_rsa=key.get_name() == "ssh-rsa", from_agent=from_agent)

    def by_password(self, password: str) -> _Attempt:
        """Return the attempt with a password, also where the server asks for it in a dialogue (RFC 4256)."""

        def run() -> Sequence[str]:
            try:
                return self._transport.auth_password(self._user, password, fallback=False)
            except BadAuthenticationType as refused:
                if "keyboard-interactive" not in refused.allowed_types:
                    raise
                return self._transport.auth_interactive(self._user, self._answers(password))

        return _Attempt("the password", run)

    def _answers(self, password: str) -> Callable[[str, str, Sequence[tuple[str, bool]]], list[str]]:
        """Return what answers one hidden question, once, with the password, and any other with nothing."""
        answered: list[str] = []  # the question

        def answer(_title: str, _instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
            if len(questions) == 1 and not answered and not questions[0][1]:
                answered.append(questions[0][0])
                return [password]
            others = (text for text, _ in questions if text not in answered)  # a repeated question: a wrong password
            self._questions.extend(one_line(text)[:_MAX_QUESTION_CHARS] for text in others)
            del self._questions[_MAX_QUESTIONS:]
            return [""] * len(questions)

        return answer

    def try_all(self, attempts: Sequence[_Attempt]) -> None:
        """Try `attempts` in order; start over after one that is accepted as a first step (RFC 4252 section 5.1)."""
        remaining = list(attempts)
        while remaining:
            attempt = remaining.pop(0)
            if self._is_step(attempt):
                remaining = [other for other in attempts if other.name not in self._accepted]
            if self._transport.is_authenticated():
                return
        if not self._allowed:
            self._fetch_allowed()
        if not self._transport.is_authenticated():
            raise self._refusal()

    def _is_step(self, attempt: _Attempt) -> bool:
        """Make `attempt`; tell whether the server accepted it and requires more."""
        began = time.monotonic()
        refused_before = bool(self._tried)
        self._tried.append(attempt)
        try:
            required = attempt.run()
        except BadAuthenticationType as refused:
            self._allowed = refused.allowed_types
            return False
        except (SSHException, EOFError, OSError) as error:
            waited_s = time.monotonic() - began
            if self._transport.is_active() and waited_s < self._transport.auth_timeout:
                return False
            raise self._failure(attempt, error, waited_s, refused_before=refused_before) from None
        if required:
            self._accepted.append(attempt.name)
            self._allowed = required
        return bool(required)

    def _failure(self, attempt: _Attempt, error: Exception, waited_s: float, *, refused_before: bool) -> BackupdError:
        """Return why no further attempt can be made on this connection."""
        signatures = self._signatures()
        if attempt.is_rsa and signatures and not any(name.startswith("rsa-sha2-") for name in signatures):
            hint = "use an ed25519 key (ssh-keygen -t ed25519), or update the server"
            return LoginFailed(f"the server accepts RSA keys of {self.user} only with SHA-1, which is unsafe", hint)
        if attempt.from_agent and not isinstance(error, AuthenticationException | OSError | EOFError):
            return LoginFailed(f"the agent does not sign with {attempt.name}: {error}", "check `ssh-add -l`")
        if self._transport.is_active():
            return ReplicaUnreachable(f"the server did not answer the login within {waited_s:.0f} s", _TRY_AGAIN)
        if refused_before or self._accepted:
            return self._refusal("; then it closed the connection")
        why = one_line(str(error)) or type(error).__name__
        return ReplicaUnreachable(f"the connection ended during the login of {self.user}: {why}", _TRY_AGAIN)

    def _signatures(self) -> Sequence[str]:
        """Return the signature algorithms that the server announces (RFC 8308), none where it announces nothing."""
        extensions: dict[str, bytes] = self._transport.server_extensions  # type: ignore[attr-defined] # not in the stubs
        algorithms = extensions.get("server-sig-algs", b"").decode(errors="replace")
        return algorithms.split(",") if algorithms else ()

    def _fetch_allowed(self) -> None:
        with suppress(SSHException, EOFError, OSError):
            try:
                self._transport.auth_none(self._user)
            except BadAuthenticationType as refused:
                self._allowed = refused.allowed_types

    def _refusal(self, more: str = "") -> LoginFailed:
        allowed = one_line(", ".join(self._allowed[:_MAX_METHODS])) or "methods that it does not name"
        names = (attempt.name for attempt in self._tried)
        tried = ", ".join(f"{name} (accepted)" if name in self._accepted else name for name in names)
        asked = f"; it asks: {', '.join(self._questions)}" if self._questions else ""
        message = f"the server refuses the login of {self.user} with {tried}; it allows {allowed}{asked}{more}"
        return LoginFailed(message, self._hint())

    def _hint(self) -> str:
        if self._questions:
            return "backupd cannot answer such questions: use a key, or exempt the account from them"
        if self._accepted:
            return "the server requires several methods: set both private_key and password, or exempt the account"
        if any(attempt.is_rsa for attempt in self._tried) and not self._signatures():
            return "an old server may know RSA keys only with SHA-1: try an ed25519 key"
        return (
            "check username; a password must be right and allowed, and a key's public line (`ssh-keygen -y -f KEY`) "
            f"must be in ~/.ssh/authorized_keys of {self.user} on the server, writable only by that account"
        )


def load_key(text: str, passphrase: str | None = None) -> PKey:
    """Return the private key (ed25519, ecdsa, rsa) in `text`: OpenSSH or PEM, plain or as base64 in one line.

    A passphrase that the key does not need is ignored. Raises LoginFailed, with neither of both in its message.
    """
    plain = _plain(text)
    loaded = _decrypted(plain.encode(), passphrase.encode() if passphrase else None, _key_format(plain))
    decrypted = loaded.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    kind = RSAKey if isinstance(loaded, rsa.RSAPrivateKey) else ECDSAKey
    key_class: type[PKey] = Ed25519Key if isinstance(loaded, ed25519.Ed25519PrivateKey) else kind
    return key_class.from_private_key(StringIO(decrypted))


def _plain(text: str) -> str:
    """Return the lines of a key file, decoded from base64 if necessary, with plain line ends."""
    text = text.lstrip("\ufeff").strip()
    if "-----BEGIN" not in text and not _PUBLIC.match(text) and not text.startswith("PuTTY"):
        try:
            text = b64decode("".join(text.split()), validate=True).decode()
        except (Base64Error, UnicodeDecodeError, ValueError):
            raise LoginFailed("the private key is neither the text of a key file nor its base64", _KEY_FORMAT) from None
    return "\n".join(line.strip() for line in text.strip().splitlines()) + "\n"


def _key_format(plain: str) -> str:
    """Return the word in the first line that names the format. Raises LoginFailed when it is not a private key."""
    if _PUBLIC.match(plain):
        raise LoginFailed("private_key holds a public key", "use the file without .pub")
    if plain.startswith("PuTTY"):
        raise LoginFailed("the private key is in PuTTY's format", "puttygen KEY.ppk -O private-openssh -o KEY")
    begin = _BEGIN.match(plain)
    if begin is None:
        raise LoginFailed("the private key does not begin with a line -----BEGIN … PRIVATE KEY-----", _KEY_FORMAT)
    if plain.count("\n") == 1 or "\\n" in plain:
        raise LoginFailed("the line ends of the private key are lost", "set it as `base64 -w0 FILE` prints it")
    if "-----END" not in plain:
        raise LoginFailed("the private key is truncated: its last line is missing", _KEY_FORMAT)
    return begin[1] or ""


def _decrypted(plain: bytes, passphrase: bytes | None, key_format: str) -> _LoadedKey:
    load = load_ssh_private_key if key_format == "OPENSSH" else load_pem_private_key
    try:
        loaded = load(plain, passphrase)
    except TypeError:  # of both loaders, for a passphrase that is missing or not needed
        if passphrase is not None:
            return _decrypted(plain, None, key_format)
        hint = "set passphrase (BACKUPD_REPLICAS__NAME__PASSPHRASE), or use a key without one"
        raise LoginFailed("the private key has a passphrase, and none is set", hint) from None
    except UnsupportedAlgorithm:
        raise LoginFailed("the private key is of an unsupported type", _NEW_KEY) from None
    except ValueError:
        if passphrase is not None:
            hint = "try it where the key is: ssh-keygen -y -f FILE"
            raise LoginFailed("the passphrase is wrong, or the private key is damaged", hint) from None
        raise LoginFailed("the private key is damaged or truncated", _KEY_FORMAT) from None
    if isinstance(loaded, dsa.DSAPrivateKey):
        raise LoginFailed("the private key is a DSA key, which servers no longer accept", _NEW_KEY)
    if not isinstance(loaded, _LoadedKey):
        raise LoginFailed("the private key is of a type that SSH servers do not accept", _NEW_KEY)
    return loaded
