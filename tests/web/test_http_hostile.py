"""Slow, greedy and broken clients lose their connection, and affect no other client."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from backupd.web import connection
from backupd.web.connection import LIFETIME_S, MOST_CONNECTIONS
from support.web_site import FakeService, WebSite, eventually, received, serving

HALF_A_REQUEST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
STRANGER = "127.0.0.2"


@pytest.fixture
def only_one_local_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that is loopback, only 127.0.0.1 counts as this host, so that the rest can be strangers."""
    monkeypatch.setattr(connection, "is_loopback", lambda address: address == "127.0.0.1")


@contextmanager
def crowd(site: WebSite, size: int, send: bytes, source: str = STRANGER) -> Iterator[list[socket.socket]]:
    """So many connections that have sent `send` and wait."""
    with ExitStack() as stack:
        yield [stack.enter_context(site.connect(send, source)) for _ in range(size)]


def open_connections(site: WebSite) -> int:
    return len(site.server._open)


def requests_in_work(site: WebSite) -> int:
    return sum(connection._response is not None for connection in tuple(site.server._open))


def send_on_and_on(client: socket.socket, piece: bytes, pause_s: float) -> None:
    """Send until the other side ends the connection, which raises ConnectionError."""
    client.settimeout(pause_s)
    while True:
        with suppress(TimeoutError):
            client.sendall(piece)
            if client.recv(65536) == b"":
                raise ConnectionResetError


@pytest.mark.parametrize("path", ["/livez", "/health"])
@pytest.mark.parametrize("source", ["127.0.0.1", STRANGER])
@pytest.mark.usefixtures("only_one_local_address")
def test_crowd_of_unfinished_requests_delays_no_response(path: str, source: str) -> None:
    with serving() as site, crowd(site, 4 * MOST_CONNECTIONS, HALF_A_REQUEST):
        began = time.monotonic()
        assert site.ask(path, source=source).status == 200
        assert time.monotonic() - began < LIFETIME_S / 2, "it was not the crowd's end that it waited for"
        assert open_connections(site) <= MOST_CONNECTIONS


@pytest.mark.usefixtures("only_one_local_address")
def test_crowd_waiting_for_hanging_service_delays_no_local_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "LIFETIME_S", 60)
    service = FakeService(hanging=frozenset({"health"}))
    with serving(service) as site, crowd(site, MOST_CONNECTIONS, HEALTH) as waiting:
        eventually(lambda: requests_in_work(site) == MOST_CONNECTIONS)
        with site.connect(source=STRANGER) as one_more:
            assert received(one_more) == b"", "one more stranger is sent away"
        assert site.ask("/livez").status == 200
        service.released.set()
        answers = [received(client) for client in waiting]
    assert answers[0] == b"", "the oldest stranger made room for the probe"
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers[1:])


@pytest.mark.parametrize(
    "send", [b"", b"G", HALF_A_REQUEST, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"]
)
def test_connection_ends_in_time_in_every_state(send: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LIFETIME_S", 0.3)
    with serving() as site, site.connect(send) as client:
        received(client)
        eventually(lambda: open_connections(site) == 0)


def test_dripping_request_does_not_extend_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LIFETIME_S", 0.5)
    with serving() as site, site.connect(HALF_A_REQUEST) as client:
        with pytest.raises(ConnectionError):
            send_on_and_on(client, b"x", pause_s=0.05)
        assert site.ask("/livez").status == 200


@pytest.mark.parametrize(
    "noise",
    [
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1 x\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
    ids=range(15),
)
def test_noise_is_answered_by_refusal_only(noise: bytes) -> None:
    with serving() as site:
        with site.connect(noise) as client:
            client.shutdown(socket.SHUT_WR)
            answer = received(client)
        assert site.ask("/livez").status == 200
        eventually(lambda: open_connections(site) == 0)
    assert answer == b"" or answer.split(b" ")[1] in {b"400", b"405"}
    assert b"Traceback" not in answer
    assert site.errors == [], "noise of strangers is none of the log's business"


def test_connection_serves_one_request() -> None:
    with serving() as site, site.connect(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 5) as client:
        answer = received(client)
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert b"connection: close" in answer.lower()


def test_upgrade_request_is_ignored() -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with serving() as site, site.connect(request) as client:
        assert received(client).startswith(b"HTTP/1.1 200 ")
    assert site.errors == []


@pytest.mark.parametrize("more", [b"", b"\r\n", b"GET /livez HTTP/1.0\r\n\r\n"])
def test_http_1_0_request_is_answered_with_any_trailing_bytes(more: bytes) -> None:
    with serving() as site, site.connect(b"GET /livez HTTP/1.0\r\n\r\n" + more) as client:
        assert received(client).startswith(b"HTTP/1.1 200 ")


def test_client_that_disconnects_at_once_is_ignored() -> None:
    with serving() as site:
        for _ in range(50):
            site.connect(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").close()
        assert site.ask("/livez").status == 200
        eventually(lambda: open_connections(site) == 0)
    assert site.errors == []


def test_large_request_body_is_not_read() -> None:
    with (
        serving() as site,
        site.connect(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n") as client,
    ):
        with pytest.raises(ConnectionError):
            send_on_and_on(client, b"x" * 1_000_000, pause_s=5)
        assert site.ask("/livez").status == 200
