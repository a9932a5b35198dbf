"""The door: who may request backups and download archives, what a request may contain, and how a client waits."""

import hashlib
import http.client
import io
import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from backupd.errors import CopyCorrupt
from backupd.model import generation_id
from backupd.remote.run import read_run
from backupd.tasks.requests import REQUESTED_STAYS, PinRequest
from backupd.web import archive_response, connection, door
from support.catalog_values import manifest
from support.door import (
    BACKUP_TOKEN,
    DOWNLOAD_TOKEN,
    NOON,
    PAGE_TOKEN,
    FakeArchives,
    FakeBackups,
    bearer,
    door_site,
)
from support.web_site import Reply, WebSite, eventually, received, serving

ID = generation_id("tasks", NOON)
ARCHIVE = f"/api/generations/{ID}/archive"
JSON = {"Content_Type": "application/json"}
REASON = "requested over HTTP"


@pytest.fixture
def site() -> Iterator[WebSite]:
    with door_site() as (site, _):
        yield site


def post(site: WebSite, body: object = None, **headers: str) -> Reply:
    """Request a backup; a body that is no text is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {**bearer(BACKUP_TOKEN), **({} if data is None else JSON), **headers}
    return site.ask("/api/backups", "POST", body=data, **given)


def refused_words(reply: Reply) -> dict[str, str]:
    words: dict[str, str] = reply.json
    assert set(words) == {"error", "hint"}
    assert all(words.values())
    return words


# --- Who may enter ---


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/backups"), ("GET", "/api/runs/run-1"), ("GET", ARCHIVE), ("HEAD", ARCHIVE)]
)
def test_closed_door_is_unknown_path_whatever_the_token(method: str, path: str) -> None:
    with serving(token=PAGE_TOKEN) as site:
        for headers in ({}, bearer(PAGE_TOKEN), bearer(BACKUP_TOKEN), bearer(DOWNLOAD_TOKEN)):
            reply = site.ask(path, method, **headers)
            assert (reply.status, reply.body in (b"", b"Not Found\n")) == (404, True)


def test_each_token_opens_its_own_routes_only(site: WebSite) -> None:
    routes = {
        ("POST", "/api/backups"): BACKUP_TOKEN,
        ("GET", "/api/runs/run-1"): BACKUP_TOKEN,
        ("GET", ARCHIVE): DOWNLOAD_TOKEN,
        ("GET", "/"): PAGE_TOKEN,
        ("GET", "/metrics"): PAGE_TOKEN,
        ("GET", "/api/status"): PAGE_TOKEN,
    }
    opened = {
        (route, token)
        for number, route in enumerate(routes)
        for token in (PAGE_TOKEN, BACKUP_TOKEN, DOWNLOAD_TOKEN)
        if site.ask(route[1], route[0], source=f"127.0.1.{number + 1}", **bearer(token)).status != 401
    }
    assert opened == set(routes.items())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic " + b64encode(f"x:{BACKUP_TOKEN}".encode()).decode(),
        BACKUP_TOKEN,
        f"Bearer {BACKUP_TOKEN[:-1]}",
        f"Bearer {BACKUP_TOKEN} x",
        "Bearer ",
    ],
)
def test_request_without_bearer_token_is_refused_and_no_browser_asks_for_a_password(site: WebSite, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    reply = site.ask("/api/backups", "POST", **headers)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="backupd"'
    assert "http.backup_token" in refused_words(reply)["hint"]


def test_wrong_tokens_are_delayed_with_those_of_the_page(site: WebSite) -> None:
    for _ in range(12):
        site.ask("/", source="127.0.2.1", **bearer("guess"))
    began = time.monotonic()
    assert post(site).status == 202
    assert site.ask("/api/backups", "POST", source="127.0.2.1", **bearer("guess")).status == 401
    assert time.monotonic() - began >= 1


# --- What may be requested ---


@pytest.mark.parametrize(
    ("body", "sources", "pin"),
    [
        (None, (), PinRequest(REASON, REQUESTED_STAYS)),
        ({}, (), PinRequest(REASON, REQUESTED_STAYS)),
        (
            {"sources": ["tasks", "notes"], "label": " deploy 1a2b3c "},
            ("tasks", "notes"),
            PinRequest(REASON, REQUESTED_STAYS, "deploy 1a2b3c"),
        ),
        ({"sources": None, "label": None, "pin": None}, (), PinRequest(REASON, REQUESTED_STAYS)),
        ({"label": "v2", "pin": True}, (), PinRequest(REASON, None, "v2")),
        ({"pin": "90d"}, (), PinRequest(REASON, timedelta(days=90))),
        ({"pin": False}, (), None),
        ({"label": "ñandú ✓"}, (), PinRequest(REASON, REQUESTED_STAYS, "ñandú ✓")),
    ],
)
def test_request_names_sources_label_and_pin(body: object, sources: tuple[str, ...], pin: PinRequest | None) -> None:
    with door_site() as (site, backups):
        reply = post(site, body, Idempotency_Key="k-1")
        assert reply.status == 202
        assert reply.headers["location"] == "/api/runs/run-1"
        assert backups.wanted == [(door.WantedBackup(sources, pin), "k-1")]
        assert reply.json == site.ask("/api/runs/run-1", **bearer(BACKUP_TOKEN)).json
    run = read_run(reply.body)
    assert (run.state, run.succeeded, run.label) == ("waiting", None, pin.label if pin else "")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"source": ["tasks"]}, "unknown field"),
        ({"sources": "tasks"}, "sources"),
        ({"sources": []}, "sources"),
        ({"sources": [1]}, "sources"),
        ({"sources": {"tasks": 1}}, "sources"),
        ({"label": 7}, "label"),
        ({"label": "two\nlines"}, "cannot be shown"),
        ({"label": "\x1b[2J"}, "cannot be shown"),
        ({"label": "\ud800"}, "cannot be shown"),
        ({"label": "x" * 201}, "cannot be shown"),
        ({"label": "v2", "pin": False}, "a label is part of a pin"),
        ({"pin": 30}, "pin"),
        ({"pin": "0"}, "pin"),
        ({"pin": "for ever"}, "pin"),
        ({"pin": "999999w"}, "pin"),
        ({"pin": []}, "pin"),
        ([], "object"),
        ("tasks", "object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"pin": NaN}', "not JSON"),
        (b'{"pin": true, "pin": false}', "not JSON"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"sources": [' + b"9" * 10_000 + b"]}", "not JSON"),
    ],
)
def test_unusable_body_is_refused_and_not_echoed(body: object, error: str) -> None:
    with door_site() as (site, backups):
        reply = post(site, body)
        assert reply.status == 422
        assert error in refused_words(reply)["error"]
        assert reply.headers["content-type"] == "application/json"
        assert b"\x1b" not in reply.body
        assert backups.wanted == []
        assert site.errors == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/jsonp"},
        {"Content_Encoding": "gzip"},
    ],
)
def test_body_of_another_type_is_refused(site: WebSite, headers: dict[str, str]) -> None:
    assert post(site, {}, **headers).status == 415


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_is_recognized_in_every_spelling(site: WebSite, content_type: str) -> None:
    assert post(site, {}, Content_Type=content_type).status == 202


@pytest.mark.parametrize("key", ["", "two words", "x" * 129, "\xe9", "a\tb"])
def test_unusable_key_is_refused(site: WebSite, key: str) -> None:
    assert "Idempotency-Key" in refused_words(post(site, Idempotency_Key=key))["error"]


def test_large_body_is_refused(site: WebSite) -> None:
    reply = post(site, {"label": "x" * (17 << 10)})
    assert (reply.status, "16 KiB" in refused_words(reply)["error"]) == (413, True)


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5", "", "٣"])
def test_unusable_wait_is_refused(site: WebSite, wait: str) -> None:
    post(site)
    assert site.ask(f"/api/runs/run-1?wait={quote(wait)}", **bearer(BACKUP_TOKEN)).status == 422


def test_unknown_run_is_404_with_what_to_do(site: WebSite) -> None:
    reply = site.ask("/api/runs/run-7?wait=60", **bearer(BACKUP_TOKEN))
    assert (reply.status, "same key" in refused_words(reply)["hint"]) == (404, True)


def test_error_of_backups_is_500_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise OSError("/secret/path")

    monkeypatch.setattr(FakeBackups, "request", fail)
    with door_site() as (site, _):
        reply = post(site)
        assert (reply.status, b"secret" in reply.body) == (500, False)
        assert len(site.errors) == 1


# --- Waiting ---


def test_wait_is_answered_as_soon_as_run_ends() -> None:
    with door_site() as (site, backups), ThreadPoolExecutor() as pool:
        post(site)
        waiting = pool.submit(site.ask, "/api/runs/run-1?wait=15", **bearer(BACKUP_TOKEN))
        eventually(lambda: any(one._expiry.when() - one._began > 20 for one in tuple(site.server._open)))
        assert not waiting.done()
        began = time.monotonic()
        backups.end("run-1")
        run = read_run(waiting.result().body)
        assert time.monotonic() - began < 12
    assert (run.state, run.succeeded, run.generations) == ("ended", True, (ID,))


def test_wait_ends_with_state_of_that_moment(site: WebSite) -> None:
    post(site)
    began = time.monotonic()
    assert read_run(site.ask("/api/runs/run-1?wait=1", **bearer(BACKUP_TOKEN)).body).state == "waiting"
    assert 1 <= time.monotonic() - began < 10


def test_hundred_waiting_clients_delay_neither_probe_nor_page() -> None:
    wait = f"GET /api/runs/run-1?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BACKUP_TOKEN}\r\n\r\n"
    with door_site() as (site, backups):
        post(site)
        clients = [site.connect(wait.encode(), source="127.0.0.9") for _ in range(100)]
        began = time.monotonic()
        assert site.ask("/livez").status == 200
        assert site.ask("/", source="127.0.0.8", **bearer(PAGE_TOKEN)).status == 200
        assert time.monotonic() - began < 20
        eventually(lambda: len(site.server._open) <= door.MOST_WAITING)
        backups.end("run-1")
        answers = [received(client) for client in clients]
        for client in clients:
            client.close()
    states = [json.loads(answer.partition(b"\r\n\r\n")[2])["state"] for answer in answers if answer]
    assert 0 < states.count("ended") <= door.MOST_WAITING, "the oldest may have made room for the probe"
    assert states.count("waiting") >= 50


# --- Archives ---


@pytest.fixture
def archives(tmp_path: Path) -> FakeArchives:
    path = tmp_path / "archive.gz"
    path.write_bytes(bytes(range(256)) * (3 << 14))  # 12 MiB, more than two sockets buffer
    made = manifest(ID)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = replace(made.archive, size_bytes=path.stat().st_size, sha256=digest)
    return FakeArchives(replace(made, archive=facts), path)


def test_archive_is_sent_with_size_and_digest(archives: FakeArchives) -> None:
    digest = hashlib.sha256(archives.path.read_bytes()).digest()
    with door_site(archives) as (site, _):
        reply = site.ask(ARCHIVE, **bearer(DOWNLOAD_TOKEN))
        assert (reply.status, reply.body) == (200, archives.path.read_bytes())
        assert reply.headers["repr-digest"] == f"sha-256=:{b64encode(digest).decode()}:"
        assert reply.headers["etag"] == f'"{digest.hex()}"'
        assert reply.headers["content-length"] == str(len(reply.body))
        head = site.ask(ARCHIVE, "HEAD", **bearer(DOWNLOAD_TOKEN))
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", reply.headers["etag"])
        assert site.ask("/api/generations/tasks-20261125-1201/archive", **bearer(DOWNLOAD_TOKEN)).status == 404
        assert site.errors == []


def test_third_download_at_a_time_is_refused_and_slow_client_loses_its_connection(
    archives: FakeArchives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_response, "PART_S", 2.0)
    request = f"GET {ARCHIVE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DOWNLOAD_TOKEN}\r\n\r\n".encode()
    with door_site(archives) as (site, _), site.connect(request) as one, site.connect(request) as other:
        for client in (one, other):
            assert client.recv(9) == b"HTTP/1.1 "
        third = site.ask(ARCHIVE, **bearer(DOWNLOAD_TOKEN))
        assert (third.status, third.headers["retry-after"]) == (429, "10")
        assert site.ask("/livez").status == 200
        eventually(lambda: not site.server._open)
        assert len(received(one)) < archives.manifest.archive.size_bytes
        eventually(lambda: site.ask(ARCHIVE, "HEAD", **bearer(DOWNLOAD_TOKEN)).status == 200)


def test_hanging_disk_delays_no_other_client_and_keeps_its_place(
    archives: FakeArchives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_response, "PART_S", 0.5)
    released = threading.Event()

    class HangingFile(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            assert released.wait(60)
            return b""

    archives.opened = HangingFile
    with door_site(archives) as (site, _), ThreadPoolExecutor() as pool:
        lost = [pool.submit(site.ask, ARCHIVE, **bearer(DOWNLOAD_TOKEN)) for _ in range(door.MOST_DOWNLOADS)]
        assert site.ask("/livez").status == 200
        for one in lost:
            assert isinstance(one.exception(), http.client.IncompleteRead)
        assert site.ask(ARCHIVE, "HEAD", **bearer(DOWNLOAD_TOKEN)).status == 429, "the reads still hang"
        released.set()
        eventually(lambda: site.ask(ARCHIVE, "HEAD", **bearer(DOWNLOAD_TOKEN)).status == 200)


@pytest.mark.parametrize(
    ("error", "status"),
    [(CopyCorrupt("it is damaged", "see"), 409), (OSError(5, "Input/output error", "/secret"), 503)],
)
def test_archive_that_cannot_be_sent_is_error_without_path_and_frees_its_place(error: Exception, status: int) -> None:
    def fail(_: str) -> Any:
        raise error

    with serving(door=door.Door(FakeBackups(), fail, BACKUP_TOKEN, DOWNLOAD_TOKEN)) as site:
        for _ in range(door.MOST_DOWNLOADS + 1):
            reply = site.ask(ARCHIVE, **bearer(DOWNLOAD_TOKEN))
            assert (reply.status, b"/secret" in reply.body) == (status, False)
        assert refused_words(reply)
        assert site.errors == []


def test_archives_cannot_be_downloaded_without_their_token() -> None:
    with serving(door=door.Door(FakeBackups(), FakeArchives.open, BACKUP_TOKEN)) as site:  # type: ignore[arg-type] - never called
        assert site.ask(ARCHIVE, **bearer(BACKUP_TOKEN)).status == 404
        assert site.ask("/api/backups", "POST", **bearer(BACKUP_TOKEN)).status == 202


def test_download_outlives_the_lifetime_of_other_connections(
    archives: FakeArchives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LIFETIME_S", 1.0)
    request = f"GET {ARCHIVE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DOWNLOAD_TOKEN}\r\n\r\n".encode()
    with door_site(archives) as (site, _), site.connect(request) as client:
        first = client.recv(1000)
        with site.connect() as idle:
            assert received(idle) == b"", "its lifetime is over"
        whole = first + received(client)
    assert whole.endswith(archives.path.read_bytes())
