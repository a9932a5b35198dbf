"""Strangers at the door: large, slow, ambiguous and repeated requests, with and without the token."""

import socket
import time
from collections.abc import Iterator

import pytest

from backupd.web import connection
from support.door import BACKUP_TOKEN, DOWNLOAD_TOKEN, PAGE_TOKEN, FakeBackups, bearer, door_site
from support.web_site import WebSite, eventually, received

AUTHORIZED = f"Authorization: Bearer {BACKUP_TOKEN}\r\nContent-Type: application/json\r\n"
POST = f"POST /api/backups HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}"
STRANGER = "POST /api/backups HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
def door() -> Iterator[tuple[WebSite, FakeBackups]]:
    with door_site() as found:
        yield found


def answer_to(site: WebSite, head: str, body: bytes = b"") -> bytes:
    """Send a raw request, and return the whole answer."""
    with site.connect(f"{head}\r\n".encode() + body) as client:
        return received(client)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "head",
    [
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: 2,3\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length : 2\r\n",
        "Host: y\r\nContent-Length: 2\r\n",
    ],
)
def test_ambiguous_length_is_refused(door: tuple[WebSite, FakeBackups], head: str) -> None:
    site, backups = door
    assert status_of(answer_to(site, POST + head, b"2\r\n{}\r\n0\r\n\r\n")) in {400, 501}
    assert backups.wanted == []


def test_second_request_in_body_is_no_request(door: tuple[WebSite, FakeBackups]) -> None:
    site, backups = door
    smuggled = f"{POST}Content-Length: 2\r\n\r\n{{}}".encode()
    answer = answer_to(site, f"{POST}Content-Length: 2\r\n", b"{}" + smuggled)
    assert (status_of(answer), answer.count(b"HTTP/1.1 "), len(backups.wanted)) == (202, 1, 1)
    answer = answer_to(site, f"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: {len(smuggled)}\r\n", smuggled)
    assert (status_of(answer), len(backups.wanted)) == (200, 1)


@pytest.mark.parametrize("name", ["Authorization", "Idempotency-Key", "Content-Type"])
def test_repeated_header_is_refused(door: tuple[WebSite, FakeBackups], name: str) -> None:
    site, backups = door
    values = {
        "Authorization": f"Bearer {BACKUP_TOKEN}",
        "Idempotency-Key": "k",
        "Content-Type": "application/json",
    }
    lines = "".join(f"{key}: {value}\r\n" * (1 + (key == name)) for key, value in values.items())
    head = f"POST /api/backups HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 2\r\n"
    assert status_of(answer_to(site, head, b"{}")) in {401, 415, 422}
    assert backups.wanted == []


@pytest.mark.parametrize("head", [POST, STRANGER], ids=["authorized", "stranger"])
@pytest.mark.parametrize("length", ["Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_endless_body_is_refused_early_and_answer_is_read(
    door: tuple[WebSite, FakeBackups], head: str, length: str
) -> None:
    site, backups = door
    piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with site.connect(f"{head}{length}\r\n".encode()) as client:
        client.settimeout(0.05)
        sent, answer = 0, b""
        while not answer and sent < 64 << 20:
            try:
                sent += client.send(piece)
            except (TimeoutError, ConnectionError):
                break
            try:
                answer = client.recv(4096)
            except TimeoutError:
                continue
        assert status_of(answer) == (413 if head == POST else 401)
        assert sent < 2 << 20
    eventually(lambda: not site.server._open)
    assert backups.wanted == []
    assert site.errors == []


def test_client_that_waits_for_100_continue_gets_it_only_with_token(door: tuple[WebSite, FakeBackups]) -> None:
    site, backups = door
    expecting = "Expect: 100-continue\r\nContent-Length: 2\r\n"
    with site.connect(f"{POST}{expecting}\r\n".encode()) as client:
        assert client.recv(4096) == b"HTTP/1.1 100 \r\n\r\n"
        client.sendall(b"{}")
        assert status_of(received(client)) == 202
    with site.connect(f"{STRANGER}{expecting}\r\n".encode()) as client:
        assert status_of(client.recv(4096)) == 401
    assert len(backups.wanted) == 1


def test_dripping_body_ends_with_its_connection(
    door: tuple[WebSite, FakeBackups], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LIFETIME_S", 0.5)
    site, backups = door
    with site.connect(f"{POST}Content-Length: 100\r\n\r\n{{".encode()) as client:
        began = time.monotonic()
        assert received(client) == b""
        assert time.monotonic() - began < 8
    assert backups.wanted == []


def test_crowd_of_unfinished_bodies_delays_no_other_client(door: tuple[WebSite, FakeBackups]) -> None:
    site, _ = door
    clients = [site.connect(f"{POST}Content-Length: 100\r\n\r\n{{".encode(), source="127.0.0.9") for _ in range(200)]
    began = time.monotonic()
    assert site.ask("/livez").status == 200
    assert site.ask("/api/backups", "POST", source="127.0.0.8", **bearer(BACKUP_TOKEN)).status == 202
    assert time.monotonic() - began < connection.LIFETIME_S / 2
    for client in clients:
        client.close()


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_refused(door: tuple[WebSite, FakeBackups], method: str) -> None:
    site, backups = door
    assert site.ask("/api/backups", method, **bearer(BACKUP_TOKEN)).status == 405
    assert backups.wanted == []


@pytest.mark.parametrize(
    "path",
    ["/api/backups/", "//api/backups", "/api/backups/x", "/api/../api/backups", "/api/backups%2f", "/API/BACKUPS"],
)
def test_other_spellings_of_path_are_unknown(door: tuple[WebSite, FakeBackups], path: str) -> None:
    site, backups = door
    assert site.ask(path, "POST", **bearer(BACKUP_TOKEN)).status == 404
    assert backups.wanted == []


@pytest.mark.parametrize(
    "generation", ["..%2f..%2fetc%2fpasswd", "../../etc/passwd", "tasks-20261123-0400%00", "%2e%2e", "x" * 300, "*"]
)
def test_archive_of_no_generation_is_not_found(door: tuple[WebSite, FakeBackups], generation: str) -> None:
    site, _ = door
    reply = site.ask(f"/api/generations/{generation}/archive", **bearer(DOWNLOAD_TOKEN))
    assert reply.status == 404
    assert b"passwd" not in reply.body


def test_answers_contain_no_token_and_are_not_stored(door: tuple[WebSite, FakeBackups]) -> None:
    site, _ = door
    for path, method in (("/api/backups", "POST"), ("/api/runs/run-1", "GET"), ("/api/runs/x", "GET"), ("/x", "GET")):
        for token in (BACKUP_TOKEN, PAGE_TOKEN, DOWNLOAD_TOKEN, "guess"):
            reply = site.ask(path, method, **bearer(token))
            text = reply.body + str(reply.headers).encode()
            assert not any(secret.encode() in text for secret in (BACKUP_TOKEN, PAGE_TOKEN, DOWNLOAD_TOKEN))
            assert reply.headers["cache-control"] == "no-store"


def test_client_that_leaves_while_it_waits_frees_its_place(door: tuple[WebSite, FakeBackups]) -> None:
    site, _ = door
    site.ask("/api/backups", "POST", **bearer(BACKUP_TOKEN))
    head = f"GET /api/runs/run-1?wait=60 HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}\r\n".encode()
    for _ in range(3):
        clients = [site.connect(head) for _ in range(8)]
        eventually(lambda: len(site.server._open) == 8)
        for client in clients:
            client.shutdown(socket.SHUT_RDWR)
            client.close()
        eventually(lambda: not site.server._open)
    began = time.monotonic()
    site.ask("/api/runs/run-1?wait=1", **bearer(BACKUP_TOKEN))
    assert time.monotonic() - began >= 1, "it may wait"
