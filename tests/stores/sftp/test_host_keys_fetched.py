"""Fetching host keys from a real server, from one that is too old, and from what is no SSH server at all."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from paramiko import ECDSAKey, ServerInterface, Transport
from trust_sshd import Starter, fingerprint_of, relayed

from backupd.errors import ReplicaUnreachable, ServerIncompatible, ServerTooOld
from backupd.stores.sftp.handshake import EVERY_ALGORITHM, fetch_host_keys, shake_hands
from backupd.stores.sftp.host_keys import PinnedKeys, PublicKey
from backupd.stores.sftp.paramiko_internals import ObservedTransport
from support.daemon import free_port

KINDS = ("ed25519", "ecdsa", "rsa")


@contextmanager
def recording_server(talk: Callable[[socket.socket], object], times: int = 1) -> Iterator[int]:
    """Run a server that is no SSH server: `talk` has each connection; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(times):
                connection, _ = server.accept()
                with connection:
                    talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(30)
        assert not thread.is_alive()


def test_every_key_of_server_is_fetched_once_best_first(sshd: Starter) -> None:
    with sshd() as server:
        keys = fetch_host_keys(server.host, server.port, 30).keys
        wanted = [fingerprint_of(server.host_key(kind)) for kind in KINDS]
    assert [PublicKey.of(key).fingerprint for key in keys] == wanted


def test_server_with_one_key_has_one(sshd: Starter) -> None:
    with sshd(kinds=("rsa",)) as server:
        (key,) = fetch_host_keys(server.host, server.port, 30).keys
        assert PublicKey.of(key).fingerprint == fingerprint_of(server.host_key("rsa"))


@pytest.mark.parametrize("kind", KINDS)
def test_server_with_several_keys_sends_pinned_one(sshd: Starter, kind: str) -> None:
    with (
        sshd() as server,
        socket.create_connection((server.host, server.port)) as plain,
        ObservedTransport(plain) as transport,
    ):
        pins = PinnedKeys.read("offsite", server.host_key(kind).with_suffix(".pub").read_text(), None)
        first = pins.algorithms(server.host, server.port)
        transport.get_security_options().key_types = (*first, *(t for t in EVERY_ALGORITHM if t not in first))
        key = shake_hands(transport, server.host, server.port, 30)
        pins.check(server.host, server.port, key)
        assert PublicKey.of(key) == pins.keys(server.host, server.port)[0]


def test_server_that_only_signs_with_sha1_is_too_old(sshd: Starter) -> None:
    with sshd("HostKeyAlgorithms ssh-rsa") as server, pytest.raises(ServerTooOld) as refused:
        fetch_host_keys(server.host, server.port, 30)
    assert refused.value.message.startswith(
        f"127.0.0.1:{server.port} offers no safe host key algorithm: it offers ssh-rsa; backupd supports ssh-ed25519, "
    )
    assert "ed25519" in refused.value.hint


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("KexAlgorithms diffie-hellman-group14-sha1,diffie-hellman-group1-sha1", "key exchange"),
        ("Ciphers aes256-cbc,3des-cbc", "cipher"),
    ],
)
def test_server_with_only_broken_algorithms_is_too_old(sshd: Starter, line: str, what: str) -> None:
    with sshd(line) as server, pytest.raises(ServerTooOld) as refused:
        fetch_host_keys(server.host, server.port, 30)
    names = line.split()[1].replace(",", ", ")
    assert f"offers no safe {what} algorithm: it offers {names}; backupd supports " in refused.value.message


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com,diffie-hellman-group14-sha1", "key exchange"),
        ("Ciphers chacha20-poly1305@openssh.com", "cipher"),
        ("MACs umac-128-etm@openssh.com\nCiphers aes128-ctr", "MAC"),
    ],
)
def test_server_with_algorithms_unknown_to_client_is_not_called_unsafe(sshd: Starter, line: str, what: str) -> None:
    with sshd(line) as server, pytest.raises(ServerIncompatible) as refused:
        fetch_host_keys(server.host, server.port, 30)
    names = line.split()[1].replace(",", ", ")
    assert not isinstance(refused.value, ServerTooOld)
    assert (
        f"offers no {what} algorithm that backupd supports: it offers {names}; backupd supports "
        in refused.value.message
    )
    assert f"({line.partition(' ')[0]} in sshd_config)" in refused.value.hint
    assert len(refused.value.message) < 600


def test_server_with_newer_type_of_host_key_is_not_called_unsafe() -> None:
    def talk(connection: socket.socket) -> None:
        with Transport(connection) as server:
            server.server_key_dict["sk-ssh-ed25519@openssh.com"] = ECDSAKey.generate()
            server._preferred_keys = ("sk-ssh-ed25519@openssh.com", "ssh-rsa")
            server.start_server(threading.Event(), ServerInterface())
            server.join(30)

    with recording_server(talk) as port, pytest.raises(ServerIncompatible) as refused:
        fetch_host_keys("127.0.0.1", port, 30)
    assert not isinstance(refused.value, ServerTooOld)
    assert (
        "offers no host key algorithm that backupd supports: it offers sk-ssh-ed25519@openssh.com; "
        in refused.value.message
    )


def test_received_keys_are_returned_when_later_connection_fails(sshd: Starter) -> None:
    with sshd() as server, relayed(server.port, times=2) as port:
        found = fetch_host_keys(server.host, port, 30)
        assert [key.get_name() for key in found.keys] == ["ssh-ed25519", "ecdsa-sha2-nistp256"]
        assert found.missing == ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
        assert f"127.0.0.1:{port} " in str(found.problem)


def test_closed_port_is_unreachable() -> None:
    port = free_port()
    with pytest.raises(ReplicaUnreachable, match=rf"127.0.0.1:{port} cannot be reached: Connection refused") as refused:
        fetch_host_keys("127.0.0.1", port, 30)
    assert refused.value.exit_code == 75
    assert refused.value.hint


def test_unknown_host_name_is_unreachable() -> None:
    with pytest.raises(ReplicaUnreachable, match=r"nowhere.invalid:22 cannot be reached: "):
        fetch_host_keys("nowhere.invalid", 22, 30)


def test_http_server_at_port_is_not_ssh_server() -> None:
    with (
        recording_server(lambda connection: connection.sendall(b"HTTP/1.1 400 \x1b[2JBad Request\r\n" * 200)) as port,
        pytest.raises(ReplicaUnreachable, match="answers, but not as an SSH server") as refused,
    ):
        fetch_host_keys("127.0.0.1", port, 30)
    assert refused.value.message.isprintable()


def test_connection_closed_at_once_is_unreachable() -> None:
    with (
        recording_server(lambda _: None) as port,
        pytest.raises(ReplicaUnreachable, match="closed the connection before it sent a host key"),
    ):
        fetch_host_keys("127.0.0.1", port, 30)


def test_server_that_sends_key_of_other_type_than_agreed_is_error() -> None:
    def talk(connection: socket.socket) -> None:
        with Transport(connection) as server:
            server.server_key_dict["ecdsa-sha2-nistp256"] = ECDSAKey.generate(bits=521)
            server.start_server(
                threading.Event(), ServerInterface()
            )  # without an event it raises when the client leaves
            server.join(30)

    with (
        recording_server(talk, times=2) as port,
        pytest.raises(ReplicaUnreachable, match="sent a host key of another type than the agreed one"),
    ):
        fetch_host_keys("127.0.0.1", port, 30)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-slow\r\n"])
def test_silent_server_is_error_after_timeout(said: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(said)
        while connection.recv(65536):  # until the other side gives up
            pass

    began = time.monotonic()
    with recording_server(talk) as port, pytest.raises(ReplicaUnreachable, match="did not negotiate within"):
        fetch_host_keys("127.0.0.1", port, 1)
    assert time.monotonic() - began < 10
