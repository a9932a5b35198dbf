"""Logging in: by key, by password, else by the agent; and what to say when the server lets nobody in."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from paramiko import AuthenticationException, BadAuthenticationType, PKey, SSHException, Transport

from backupd.errors import BackupdError, LoginFailed, ReplicaUnreachable
from backupd.formatting import printable
from backupd.stores.sftp.host_keys import fingerprint
from backupd.stores.sftp.paramiko_internals import ConnectedAgent
from backupd.stores.sftp.private_key import load_key


class Agent(ConnectedAgent):
    """A connection to the agent, or to none, which has no keys. Raises LoginFailed for one that does not answer."""

    def __init__(self, timeout_s: float) -> None:
        path = os.environ.get("SSH_AUTH_SOCK")
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.settimeout(timeout_s)
            if path:
                self._connection.connect(path)
            super().__init__(self._connection if path else None)
        except (SSHException, OSError) as error:
            self._connection.close()
            hint = "check SSH_AUTH_SOCK and `ssh-add -l`, or set private_key"
            raise LoginFailed(f"the SSH agent does not answer: {error}", hint) from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


_LONGEST_QUESTION = 60


class Answers:
    """Gives the password once, to one question whose answer is not shown, and nothing to any other question.

    What else is asked is added to `asked`, fit for a message.
    """

    def __init__(self, password: str, asked: list[str]) -> None:
        self._password = password
        self._asked = asked
        self._answered: str | None = None

    def __call__(self, title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:  # noqa: ARG002 - paramiko's signature
        """Return an answer to each of `questions`."""
        if len(questions) == 1 and self._answered is None and not questions[0][1]:
            self._answered = questions[0][0]
            return [self._password]
        others = (text for text, _ in questions if text != self._answered)  # asking once more means that it was wrong
        self._asked.extend(printable(text.strip())[:_LONGEST_QUESTION] for text in others)
        return [""] * len(questions)


__all__ = ["Credentials", "load_key", "log_in"]
_TRY_AGAIN = "it is worth trying again; if it stays so, see the server's log (`journalctl -u ssh`)"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom to log in as, and what proves it; without key and password the agent is asked."""

    username: str
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One thing to try: `run` returns the methods that must follow, none when that was all."""

    what: str
    run: Callable[[], Sequence[str]]
    is_rsa: bool = False
    from_agent: bool = False


def log_in(transport: Transport, credentials: Credentials) -> None:
    """Log in over a connection whose host key was checked; gives up after `transport.auth_timeout` seconds of silence.

    Raises LoginFailed where the credentials are refused or no good, and ReplicaUnreachable where the connection is.
    """
    login = _Login(transport, credentials.username)
    if credentials.private_key or credentials.password:
        login.try_all(_configured(login, credentials))
        return
    with closing(Agent(transport.auth_timeout)) as agent:
        keys = agent.get_keys()
        if not keys:
            hint = "set private_key or password in [replicas.NAME], or SSH_AUTH_SOCK to an agent that holds a key"
            raise LoginFailed(f"there is nothing to log in with as {login.user}", hint)
        login.try_all([login.by_key(f"the agent's key {_shown(key)}", key, from_agent=True) for key in keys])


def _configured(login: "_Login", credentials: Credentials) -> list[_Attempt]:
    attempts = []
    if credentials.private_key:
        key = load_key(credentials.private_key, credentials.passphrase)
        attempts.append(login.by_key(f"the key {_shown(key)}", key))
    if credentials.password:
        attempts.append(login.by_password(credentials.password))
    return attempts


class _Login:
    """The attempts on one connection, and what the server said to them."""

    def __init__(self, transport: Transport, user: str) -> None:
        self.user = printable(user)
        self._user = user
        self._transport = transport
        self._tried: list[str] = []
        self._tried_rsa = False
        self._passed: list[str] = []
        self._allowed: Sequence[str] = ()
        self._asked: list[str] = []

    def by_key(self, what: str, key: PKey, *, from_agent: bool = False) -> _Attempt:
        """Return the attempt to prove that we have `key`."""

        def run() -> Sequence[str]:
            return self._transport.auth_publickey(self._user, key)

        return _Attempt(what, run, is_rsa=key.get_name() == "ssh-rsa", from_agent=from_agent)

    def by_password(self, password: str) -> _Attempt:
        """Return the attempt with a password, also where the server asks for it in a dialogue (RFC 4256)."""

        def run() -> Sequence[str]:
            try:
                return self._transport.auth_password(self._user, password, fallback=False)
            except BadAuthenticationType as refused:
                if "keyboard-interactive" not in refused.allowed_types:
                    raise
                return self._transport.auth_interactive(self._user, Answers(password, self._asked))

        return _Attempt("the password", run)

    def try_all(self, attempts: Sequence[_Attempt]) -> None:
        """Try `attempts` in order, anew after one that the server wants another to follow (RFC 4252 section 5.1)."""
        left = list(attempts)
        while left:
            attempt = left.pop(0)
            if self._is_step(attempt):
                left = [other for other in attempts if other.what not in self._passed]
            if self._transport.is_authenticated():
                return
        if not self._allowed:
            self._ask_what_is_allowed()
        if not self._transport.is_authenticated():
            raise self._refusal()

    def _is_step(self, attempt: _Attempt) -> bool:
        """Make `attempt`; tell whether the server took it, but wants more."""
        begun = time.monotonic()
        refused_before = bool(self._tried)
        self._tried.append(attempt.what)
        self._tried_rsa |= attempt.is_rsa
        try:
            follows = attempt.run()
        except BadAuthenticationType as refused:
            self._allowed = refused.allowed_types
            return False
        except (SSHException, EOFError, OSError) as error:
            waited_s = time.monotonic() - begun
            if self._transport.is_active() and waited_s < self._transport.auth_timeout:
                return False
            raise self._end(attempt, error, waited_s, refused_before=refused_before) from None
        if follows:
            self._passed.append(attempt.what)
            self._allowed = follows
        return bool(follows)

    def _end(self, attempt: _Attempt, error: Exception, waited_s: float, *, refused_before: bool) -> BackupdError:
        """Return why no further attempt can be made on this connection."""
        if attempt.is_rsa and self._signatures() and not any(n.startswith("rsa-sha2-") for n in self._signatures()):
            hint = "use an ed25519 key (ssh-keygen -t ed25519), or let the server be updated"
            return LoginFailed(f"the server takes RSA keys of {self.user} with SHA-1 alone, which can be forged", hint)
        if attempt.from_agent and not isinstance(error, AuthenticationException | OSError | EOFError):
            return LoginFailed(f"the agent does not sign with {attempt.what}: {error}", "check `ssh-add -l`")
        if self._transport.is_active():
            return ReplicaUnreachable(f"the server did not answer the login within {waited_s:.0f} s", _TRY_AGAIN)
        if refused_before or self._passed:
            return self._refusal("; then it closed the connection")
        told = printable(str(error)) or type(error).__name__
        return ReplicaUnreachable(f"the connection ended in the middle of the login of {self.user}: {told}", _TRY_AGAIN)

    def _signatures(self) -> Sequence[str]:
        """Return the algorithms that the server says it takes (RFC 8308), none where it says nothing."""
        extensions: dict[str, bytes] = self._transport.server_extensions  # type: ignore[attr-defined] # not in the stubs
        algorithms = extensions.get("server-sig-algs", b"").decode(errors="replace")
        return algorithms.split(",") if algorithms else ()

    def _ask_what_is_allowed(self) -> None:
        with suppress(SSHException, EOFError, OSError):
            try:
                self._transport.auth_none(self._user)
            except BadAuthenticationType as refused:
                self._allowed = refused.allowed_types

    def _refusal(self, more: str = "") -> LoginFailed:
        allowed = printable(", ".join(self._allowed)) or "it does not say what"
        tried = ", ".join(f"{what} (taken)" if what in self._passed else what for what in self._tried)
        asked = f"; it asks: {', '.join(self._asked)}" if self._asked else ""
        message = f"the server does not let {self.user} in with {tried}; it allows {allowed}{asked}{more}"
        return LoginFailed(message, self._hint())

    def _hint(self) -> str:
        if self._asked:
            return "nobody answers that at night: use a key, or exempt the account from it"
        if self._passed:
            return "the server wants more than one proof: set both private_key and password, or exempt the account"
        if self._tried_rsa and not self._signatures():
            return "a server as old as this one may know RSA keys with SHA-1 alone: try an ed25519 key"
        return (
            "check username; a password must be right and allowed, and a key's public line (`ssh-keygen -y -f KEY`) "
            f"must stand in {self.user}'s ~/.ssh/authorized_keys there, which nobody else may write to"
        )


def _shown(key: PKey) -> str:
    return f"{key.get_name()} {fingerprint(key)}"
