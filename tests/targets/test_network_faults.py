"""The faulty proxy has the faults that are set, in front of a real OpenSSH server."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import network_faults as network_faults_module
from support.daemon import wait_until
from support.network_faults import DOWN, UP, FaultyProxy, NetworkFaults, running_proxy
from support.sshd import Sshd, running_sshd

pytestmark = pytest.mark.no_cover

SIZE = 4 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("wire") / "sshd") as server:
        yield server


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    file = tmp_path / "upload"
    file.write_bytes(os.urandom(SIZE))
    return file


@contextmanager
def echoing() -> Iterator[int]:
    """Run a server that says back what it is told, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo(connection: socket.socket) -> None:
            with connection:
                try:
                    while piece := connection.recv(1 << 16):
                        connection.sendall(piece)
                except OSError:
                    pass

        def serve() -> None:
            while True:
                try:
                    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    """A wire in front of an echo."""
    with echoing() as port, running_proxy(port) as proxy:
        yield proxy


def connected(proxy: FaultyProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def asked(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(1000)


def test_proxy_without_faults_forwards_and_counts_everything(server: Sshd, upload: Path) -> None:
    with running_proxy(server.port) as proxy:
        done = server.client(proxy.port).sftp(f"put {upload} {server.path}/a", f"get {server.path}/a {upload}.back")
        assert done.code == 0, done.err
        assert upload.with_name("upload.back").read_bytes() == upload.read_bytes()
        assert (proxy.connections, proxy.disturbed) == (1, 0)
        for direction in (UP, DOWN):
            assert SIZE < proxy.passed[direction] < 1.1 * SIZE


@pytest.mark.parametrize("reset", [False, True])
def test_upload_is_cut_at_byte_and_next_one_is_not(server: Sshd, upload: Path, reset: bool) -> None:
    with running_proxy(server.port, NetworkFaults(cut_up=SIZE / 2, reset=reset, times=1)) as proxy:
        client = server.client(proxy.port)
        cut = client.sftp(f"put {upload} {server.path}/cut")
        assert cut.code != 0
        assert (proxy.passed[UP], proxy.disturbed) == (SIZE / 2, 1)
        wait_until(lambda: not server.connections(), "the end of the session")
        assert 0 < (server.files / "cut").stat().st_size < SIZE / 2
        assert client.sftp(f"put {upload} {server.path}/cut").code == 0
        assert (server.files / "cut").read_bytes() == upload.read_bytes()


def test_every_download_is_cut(server: Sshd, upload: Path) -> None:
    (server.files / "there").write_bytes(upload.read_bytes())
    with running_proxy(server.port, NetworkFaults(cut_down=SIZE / 4)) as proxy:
        for _ in range(2):
            assert server.client(proxy.port).sftp(f"get {server.path}/there {upload}.back").code != 0
        assert proxy.passed[DOWN] == 2 * SIZE / 4


def test_turn_ends_at_reply(proxy: FaultyProxy) -> None:
    proxy.faults = NetworkFaults(cut_at_turn=3)
    with connected(proxy) as connection:
        assert [asked(connection, b"first"), asked(connection, b"second")] == [b"first", b"second"]
        assert asked(connection, b"third") == b""
    wait_until(lambda: proxy.passed == [11, 11], "the count of what passed")


def test_connection_can_be_cut_at_each_turn(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    with running_proxy(server.port) as proxy:
        turns = 0
        while True:
            turns += 1
            proxy.faults = NetworkFaults(cut_at_turn=turns)
            if server.client(proxy.port).sftp(f"put {tmp_path}/small {server.path}/turn{turns}").code == 0:
                break
        assert turns > 10
        assert proxy.disturbed in {turns - 1, turns}  # the last may have been cut when it said goodbye
        assert (server.files / f"turn{turns}").read_bytes() == b"small"
        assert not (server.files / "turn2").exists()


def test_idle_connection_is_cut_after_time(proxy: FaultyProxy) -> None:
    proxy.faults = NetworkFaults(cut_after_s=0.2)
    began = time.monotonic()
    with connected(proxy) as connection:
        assert connection.recv(1) == b""
    assert 0.2 <= time.monotonic() - began < 5


def test_reset_fault_sends_reset(proxy: FaultyProxy) -> None:
    proxy.faults = NetworkFaults(cut_up=3, reset=True)
    with connected(proxy) as connection:
        assert asked(connection, b"abc") == b"abc"
        with pytest.raises(ConnectionResetError):
            asked(connection, b"d")


def test_stalled_connection_stays_open_and_continues_without_fault(proxy: FaultyProxy) -> None:
    proxy.faults = NetworkFaults(stall_down=2)
    with connected(proxy) as connection:
        assert asked(connection, b"hello") == b"he"
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.faults = NetworkFaults()
        connection.settimeout(10)
        assert connection.recv(10) == b"llo"


def test_sender_into_stall_blocks(proxy: FaultyProxy) -> None:
    proxy.faults = NetworkFaults(stall_up=1000)
    with connected(proxy) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(64 << 20))
    assert proxy.passed[UP] == 1000


def test_slow_proxy_limits_rate(proxy: FaultyProxy) -> None:
    proxy.faults = NetworkFaults(rate=100_000)
    began = time.monotonic()
    with connected(proxy) as connection:
        connection.sendall(bytes(50_000))
        got = 0
        while got < 50_000:
            got += len(connection.recv(1 << 16))
    assert 0.45 < time.monotonic() - began < 5


def test_delay_affects_replies_but_not_throughput(server: Sshd) -> None:
    command = [sys.executable, network_faults_module.__file__, str(server.port), "40"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            began = time.monotonic()
            assert connection.recv(8) == b"SSH-2.0-"
            assert time.monotonic() - began >= 0.04
        process.communicate()
    with echoing() as echo, running_proxy(echo, NetworkFaults(delay_s=0.04)) as proxy, connected(proxy) as connection:
        began = time.monotonic()
        assert asked(connection, b"ping") == b"ping"
        assert 0.08 <= time.monotonic() - began < 2
        total, got = 16 << 20, 0
        began = time.monotonic()
        sender = threading.Thread(target=connection.sendall, args=(bytes(total),))
        sender.start()
        while got < total:
            got += len(connection.recv(1 << 20))
        sender.join()
        # One piece for each round trip would take 256 x 80 ms = 20 s.
        assert time.monotonic() - began < 8


def test_proxy_refuses_connections_until_accept(proxy: FaultyProxy) -> None:
    with connected(proxy) as before:
        assert asked(before, b"a") == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        assert asked(before, b"b") == b"b"
        proxy.accept()
        with connected(proxy) as after:
            assert asked(after, b"c") == b"c"
            proxy.cut()
            assert before.recv(1) == after.recv(1) == b""
