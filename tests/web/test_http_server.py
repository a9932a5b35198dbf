"""The server binds or reports why not, sleeps while idle, and stops at once."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backupd.errors import BackupdError
from backupd.web.routes import make_app
from backupd.web.server import HttpServer
from support.web_site import FakeService, eventually, received, serving

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def recording_server(listen: str) -> Iterator[HttpServer]:
    server = HttpServer(listen, make_app(FakeService(), None, print))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def livez(address: str, port: int) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("listen", "addresses"),
    [
        ("127.0.0.1:0", ["127.0.0.1"]),
        ("0.0.0.0:0", ["127.0.0.1", "127.0.0.2"]),
        ("localhost:0", ["localhost"]),
        ("[::1]:0", ["::1"]),
        ("[::]:0", ["::1", "127.0.0.1"]),
    ],
)
def test_server_answers_on_every_configured_address(listen: str, addresses: list[str]) -> None:
    with recording_server(listen) as server:
        assert server.running
        assert server.port > 0
        assert [livez(address, server.port) for address in addresses] == [200] * len(addresses)


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_port_in_use_is_error_with_hint(address: str) -> None:
    with recording_server("127.0.0.1:0") as first:
        taken = f"{address}:{first.port}"
        with pytest.raises(BackupdError, match=f"cannot listen on {taken}: Address already in use") as refused:
            HttpServer(taken, make_app(FakeService(), None, print)).start()
        assert "BACKUPD_HTTP__LISTEN" in refused.value.hint
        assert livez("127.0.0.1", first.port) == 200


@pytest.mark.parametrize(
    ("listen", "hint"),
    [("192.0.2.1:8080", "no such address"), ("no-such-host.invalid:8080", "HOST:PORT"), ("127.0.0.1:x", "HOST:PORT")],
)
def test_foreign_address_is_error_with_hint(listen: str, hint: str) -> None:
    server = HttpServer(listen, make_app(FakeService(), None, print))
    with pytest.raises(BackupdError, match=f"cannot listen on {listen}: ") as refused:
        server.start()
    assert hint in refused.value.hint
    server.stop()
    assert not server.running


@pytest.mark.parametrize("send", [b"", b"GET /hea", HEALTH])
def test_server_stops_within_a_second_with_any_clients(send: bytes) -> None:
    service = FakeService(hanging=frozenset({"health"}))
    with serving(service) as site, site.connect(send) as client:
        if send == HEALTH:
            eventually(lambda: service.calls == ["health"])
        began = time.monotonic()
        site.server.stop(timeout_s=5)
        took_s = time.monotonic() - began
        assert not site.server.running
        assert received(client) == b""
        with pytest.raises(ConnectionRefusedError):
            site.connect()
    assert took_s < 1
    assert site.errors == []


def test_response_nearly_ready_at_stop_is_sent() -> None:
    service = FakeService(hanging=frozenset({"health"}))
    with serving(service) as site, site.connect(HEALTH) as client:
        eventually(lambda: service.calls == ["health"])
        site.server.stop(timeout_s=0)
        service.released.set()
        assert received(client).startswith(b"HTTP/1.1 200 ")


def test_port_of_stopped_server_is_free_at_once() -> None:
    with recording_server("127.0.0.1:0") as first:
        port = first.port
        assert livez("127.0.0.1", port) == 200
    with recording_server(f"127.0.0.1:{port}") as second:
        assert livez("127.0.0.1", second.port) == 200


def test_stop_twice_or_before_start_does_nothing() -> None:
    server = HttpServer("127.0.0.1:0", make_app(FakeService(), None, print))
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.running


def test_error_in_event_loop_is_logged_and_ends_nothing() -> None:
    with serving() as site:
        assert site.server._loop is not None
        site.server._loop.call_soon_threadsafe(int, "no number")
        eventually(lambda: len(site.errors) == 1)
        assert site.ask("/livez").status == 200
    assert "ValueError" in site.errors[0]


def test_server_that_cannot_start_raises_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_server", fail)
    errors: list[str] = []
    server = HttpServer("127.0.0.1:0", make_app(FakeService(), None, errors.append), errors.append)
    with pytest.raises(BackupdError, match="does not start"):
        server.start()
    eventually(lambda: not server.running)
    assert errors[0].startswith("the HTTP server ended: RuntimeError: out of luck")
    with pytest.raises(ConnectionRefusedError):
        livez("127.0.0.1", server.port)
    server.stop()


def test_server_that_ends_unexpectedly_is_logged() -> None:
    errors: list[str] = []
    server = HttpServer("127.0.0.1:0", make_app(FakeService(), None, errors.append), errors.append)
    server.start()
    assert server._loop is not None
    server._loop.call_soon_threadsafe(server._loop.stop)
    eventually(lambda: not server.running)
    assert errors[0].startswith("the HTTP server ended: RuntimeError: Event loop stopped before Future completed.")
    with pytest.raises(ConnectionRefusedError):
        livez("127.0.0.1", server.port)
    server.stop()


def test_connections_during_stop_are_closed() -> None:
    with recording_server("127.0.0.1:0") as server, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(100)]
        server.stop(timeout_s=5)
        assert not server.running
        assert [received(client) for client in clients] == [b""] * len(clients)


PROGRAM = """
import signal
from support.web_site import serving
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with serving() as site:
    print(site.server.port, flush=True)
    signal.sigwait({signal.SIGTERM})
"""


@contextmanager
def idle_process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that does nothing but serve, and its port."""
    path = os.pathsep.join(map(str, (Path(__file__).parent, *Path(__file__).parents[1:3])))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)


def wake_ups(pid: int) -> int:
    """How often any thread of the process has gone to sleep so far."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    lines = [line for status in statuses for line in status.splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_idle_server_sleeps() -> None:
    with idle_process() as (process, port):
        assert livez("127.0.0.1", port) == 200
        with socket.create_connection(("127.0.0.1", port)):  # someone who asks nothing is no reason to wake up either
            eventually(lambda: settled(process.pid))
            before = wake_ups(process.pid)
            time.sleep(2)  # what is counted is what happens in a span of time
            assert wake_ups(process.pid) - before <= 1


def settled(pid: int) -> bool:
    before = wake_ups(pid)
    time.sleep(0.1)
    return wake_ups(pid) == before


def test_server_prints_nothing() -> None:
    with idle_process() as (process, port):
        assert livez("127.0.0.1", port) == 200
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"noise\r\n\r\n")
            assert received(client).startswith(b"HTTP/1.1 400 ")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("", "", 0)
