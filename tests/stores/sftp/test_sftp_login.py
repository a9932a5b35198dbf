"""Logins to a real OpenSSH server: each method, and each way in which it fails."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paramiko import AUTH_FAILED, InteractiveQuery, RSAKey, ServerInterface, Transport
from trust_sshd import PASSWORD, Server, Starter, fingerprint_of, keygen

from backupd.errors import LoginFailed, ReplicaUnreachable
from backupd.stores.sftp.auth import Credentials, log_in
from backupd.stores.sftp.handshake import shake_hands
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.paramiko_internals import ObservedTransport
from support.daemon import wait_until

pytestmark = pytest.mark.usefixtures("no_agent")


@pytest.fixture
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the agent of the user who runs the tests."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@contextmanager
def connection(server: Server) -> Iterator[Transport]:
    """Connect to `server`, whose host key is checked."""
    with socket.create_connection((server.host, server.port), 10) as plain, ObservedTransport(plain) as transport:
        transport.auth_timeout = 20
        pins = PinnedKeys.read("offsite", Path(f"{server.host_key()}.pub").read_text(), None)
        pins.check(server.host, server.port, shake_hands(transport, server.host, server.port, 20))
        yield transport


def credentials(server: Server, key: Path | None = None, password: str | None = None) -> Credentials:
    return Credentials(server.user, password, key.read_text() if key else None)


def assert_logs_in(server: Server, who: Credentials) -> None:
    """Log in, and use it."""
    with connection(server) as transport:
        log_in(transport, who)
        assert transport.is_authenticated()
        sftp = transport.open_sftp_client()
        assert sftp is not None
        assert sftp.stat("/").st_mode


def refused(server: Server, who: Credentials) -> LoginFailed:
    """Return why the server, or we ourselves, do not log in; nothing of that is secret."""
    with connection(server) as transport, pytest.raises(LoginFailed) as failed:
        log_in(transport, who)
    told = failed.value.message + failed.value.hint
    assert failed.value.hint
    assert PASSWORD not in told
    assert "wrong-password" not in told
    assert failed.value.exit_code == 1
    return failed.value


_NO_KEYS = 1  # 2 before the agent listens: ssh-add(1)


def listens() -> bool:
    return subprocess.run(["ssh-add", "-l"], check=False, capture_output=True).returncode == _NO_KEYS


@contextmanager
def agent_with(directory: Path, *keys: Path) -> Iterator[int]:
    """Run an ssh-agent that holds `keys`; yields its process."""
    sock = directory / "agent"
    with pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
        try:
            patch.setenv("SSH_AUTH_SOCK", str(sock))
            wait_until(listens, "the agent")
            for key in keys:
                subprocess.run(["ssh-add", "-q", key], check=True)
            yield process.pid
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_key_logs_in(sshd: Starter, tmp_path: Path, kind: str) -> None:
    key = keygen(tmp_path / "key", kind)
    with sshd() as server:
        server.authorize(key)
        assert_logs_in(server, credentials(server, key))


def test_key_with_passphrase_logs_in(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key", passphrase="open sesame")
    with sshd() as server:
        server.authorize(key)
        assert_logs_in(server, Credentials(server.user, None, key.read_text(), "open sesame"))
        assert "has a passphrase" in refused(server, credentials(server, key)).message


def test_refused_key_is_named_with_user_and_methods_of_server(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    with sshd("PasswordAuthentication no", "KbdInteractiveAuthentication no") as server:
        server.authorize(keygen(tmp_path / "other"))
        failed = refused(server, credentials(server, key))
    assert failed.message == (
        f"the server refuses the login of {server.user} with the key ssh-ed25519 {fingerprint_of(key)}; "
        "it allows publickey"
    )
    assert "authorized_keys" in failed.hint


def test_unknown_user_is_refused_like_any_other(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    with sshd() as server:
        server.authorize(key)
        failed = refused(server, Credentials("nobody-\x1b[2J", None, key.read_text()))
    assert failed.message.startswith("the server refuses the login of nobody-\\x1b[2J with the key ssh-ed25519")
    assert "check username" in failed.hint


@pytest.mark.root
def test_password_logs_in_and_wrong_one_is_refused(sshd: Starter) -> None:
    with sshd(passwords=True) as server:
        assert_logs_in(server, credentials(server, password=PASSWORD))
        failed = refused(server, credentials(server, password="wrong-password"))
    assert re.search(
        r"refuses the login of backupd-there with the password; it allows publickey,\s?password", failed.message
    )
    assert "a password must be right" in failed.hint


@pytest.mark.root
def test_password_where_only_keys_are_allowed_is_refused_with_reason(sshd: Starter) -> None:
    with sshd("PasswordAuthentication no", "KbdInteractiveAuthentication no", passwords=True) as server:
        failed = refused(server, credentials(server, password=PASSWORD))
    assert failed.message == "the server refuses the login of backupd-there with the password; it allows publickey"


@pytest.mark.root
def test_password_in_dialogue_logs_in(sshd: Starter) -> None:
    with sshd("UsePAM yes", "PasswordAuthentication no", "KbdInteractiveAuthentication yes", passwords=True) as server:
        assert_logs_in(server, credentials(server, password=PASSWORD))
        failed = refused(server, credentials(server, password="wrong-password"))
    assert "with the password; it allows publickey, keyboard-interactive" in failed.message
    assert "it asks" not in failed.message


@pytest.mark.root
def test_password_is_tried_after_refused_key(sshd: Starter, tmp_path: Path) -> None:
    with sshd(passwords=True) as server:
        assert_logs_in(server, credentials(server, keygen(tmp_path / "key"), PASSWORD))


@pytest.mark.root
@pytest.mark.parametrize("methods", ["publickey,password", "password,publickey"])
def test_server_that_requires_key_and_password_gets_both(sshd: Starter, tmp_path: Path, methods: str) -> None:
    key = keygen(tmp_path / "key")
    with sshd(f"AuthenticationMethods {methods}", passwords=True) as server:
        server.authorize(key)
        assert_logs_in(server, credentials(server, key, PASSWORD))


def test_server_that_requires_more_than_key_is_reported(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    with sshd("AuthenticationMethods publickey,password", "PermitRootLogin yes") as server:
        server.authorize(key)
        failed = refused(server, credentials(server, key))
    assert failed.message.endswith(f"the key ssh-ed25519 {fingerprint_of(key)} (accepted); it allows password")
    assert "set both private_key and password" in failed.hint


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_agent_is_asked_without_key_and_password(sshd: Starter, tmp_path: Path, kind: str) -> None:
    key = keygen(tmp_path / "key", kind)
    with sshd() as server, agent_with(tmp_path, keygen(tmp_path / "other"), key):
        server.authorize(key)
        assert_logs_in(server, credentials(server))


def test_refused_keys_of_agent_are_all_named(sshd: Starter, tmp_path: Path) -> None:
    keys = [keygen(tmp_path / name) for name in ("one", "two")]
    with sshd() as server, agent_with(tmp_path, *keys):
        server.authorize(keygen(tmp_path / "three"))
        failed = refused(server, credentials(server))
    assert all(f"the agent's key ssh-ed25519 {fingerprint_of(key)}" in failed.message for key in keys)


def test_more_keys_than_server_allows_are_refusal_and_not_network_error(sshd: Starter, tmp_path: Path) -> None:
    keys = [keygen(tmp_path / name) for name in ("one", "two", "three")]
    with sshd("MaxAuthTries 2") as server, agent_with(tmp_path, *keys):
        server.authorize(keys[2])
        failed = refused(server, credentials(server))
    assert failed.message.endswith("; then it closed the connection")


def test_login_without_agent_key_and_password_fails(sshd: Starter, tmp_path: Path) -> None:
    with sshd() as server, pytest.MonkeyPatch.context() as patch:
        message = f"no key and no password are configured to log in as {server.user}"
        assert refused(server, credentials(server)).message == message
        patch.setenv("SSH_AUTH_SOCK", "")
        assert refused(server, credentials(server)).message == message
        patch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
        assert "the SSH agent does not answer: [Errno 2]" in refused(server, credentials(server)).message
        with agent_with(tmp_path):
            assert refused(server, credentials(server)).message == message


def test_silent_agent_is_error_after_timeout(sshd: Starter, tmp_path: Path) -> None:
    with sshd() as server, agent_with(tmp_path, keygen(tmp_path / "key")) as pid, connection(server) as transport:
        transport.auth_timeout = 0.5
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(LoginFailed, match="the SSH agent does not answer: timed out"):
            log_in(transport, credentials(server))


def test_agent_that_does_not_sign_is_not_refusal_of_server(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    with sshd() as server, agent_with(tmp_path), connection(server) as transport:
        server.authorize(key)
        asked = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none"}
        subprocess.run(["ssh-add", "-q", "-c", key], check=True, env=asked)  # each use is to be confirmed: nobody does
        with pytest.raises(LoginFailed, match="the agent does not sign with the agent's key ssh-ed25519"):
            log_in(transport, credentials(server))


def test_connection_closed_during_login_is_unreachable(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    with sshd() as server, connection(server) as transport:
        transport.sock.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not transport.is_active(), "the end of the connection")
        with pytest.raises(ReplicaUnreachable, match="the connection ended during the login"):
            log_in(transport, credentials(server, key))


class _Peculiar(ServerInterface):
    """Accepts no key; asks `questions` in a dialogue, one after the other, and records the answers."""

    def __init__(self, *questions: str) -> None:
        self.questions = list(questions)
        self.answers: list[str] = []

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002 - paramiko's signature
        return "keyboard-interactive" if self.questions or self.answers else "publickey"

    def check_auth_publickey(self, username: str, key: object) -> int:  # noqa: ARG002 - as above
        return AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> InteractiveQuery:  # noqa: ARG002 - as above
        return InteractiveQuery("", "", (self.questions.pop(0), False))

    def check_auth_interactive_response(self, responses: list[str]) -> int | InteractiveQuery:
        self.answers += responses
        return InteractiveQuery("", "", (self.questions.pop(0), False)) if self.questions else AUTH_FAILED


@contextmanager
def peculiar(host_key: Path, server: _Peculiar, *, tells: bool = True) -> Iterator[Transport]:
    """Connect to a server that `tells` that it takes RSA keys only with SHA-1, or, as an older one, tells nothing."""
    ours, theirs = socket.socketpair()
    without = {"pubkeys": ["rsa-sha2-512", "rsa-sha2-256"]} if tells else {}
    with (
        Transport(theirs, disabled_algorithms=without, server_sig_algs=tells) as there,
        ObservedTransport(ours) as here,
    ):
        there.add_server_key(RSAKey.from_private_key_file(str(host_key)))
        there.start_server(event=threading.Event(), server=server)
        shake_hands(here, "old", 22, 20)
        yield here


@pytest.mark.parametrize("tells", [True, False])
def test_rsa_key_where_only_sha1_is_known_is_explained(tmp_path: Path, tells: bool) -> None:
    key = keygen(tmp_path / "key", "rsa")
    with peculiar(key, _Peculiar(), tells=tells) as transport, pytest.raises(LoginFailed) as failed:
        log_in(transport, Credentials("me", None, key.read_text()))
    assert "only with SHA-1" in failed.value.message + failed.value.hint
    assert "ed25519 key" in failed.value.hint


def test_second_question_gets_no_password_and_is_in_error(tmp_path: Path) -> None:
    server = _Peculiar("Password: ", "Verification code:\x1b[2J")
    with peculiar(keygen(tmp_path / "key", "rsa"), server) as transport, pytest.raises(LoginFailed) as failed:
        log_in(transport, Credentials("me", PASSWORD))
    assert server.answers == [PASSWORD, ""]
    assert failed.value.message == (
        "the server refuses the login of me with the password; "
        "it allows keyboard-interactive; it asks: Verification code:\\x1b[2J"
    )
    assert "use a key" in failed.value.hint


def test_password_that_is_asked_for_again_is_wrong(tmp_path: Path) -> None:
    server = _Peculiar("Password: ", "Password: ")
    with peculiar(keygen(tmp_path / "key", "rsa"), server) as transport, pytest.raises(LoginFailed) as failed:
        log_in(transport, Credentials("me", "wrong-password"))
    assert server.answers == ["wrong-password", ""]
    assert "it asks" not in failed.value.message


def test_unanswered_login_ends_at_timeout(sshd: Starter, tmp_path: Path) -> None:
    key = keygen(tmp_path / "key")
    with sshd() as server, connection(server) as transport:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
        transport.auth_timeout = 0.5
        try:
            with pytest.raises(ReplicaUnreachable, match="the server did not answer the login within"):
                log_in(transport, credentials(server, key))
        finally:
            for child in children:
                os.kill(int(child), signal.SIGKILL)
