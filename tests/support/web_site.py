"""The real server on a real socket, before a service that answers what a test gives it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from backupd.catalog import PingRecord
from backupd.health import Failure, Freshness, Health, HealthFacts
from backupd.model import Hold
from backupd.report import DrillReport
from backupd.status.model import History, MessageFigures, SourceFigures, Status, TaskFigures
from backupd.web.door import Door
from backupd.web.routes import make_app
from backupd.web.server import HttpServer
from support.page_states import healthy

NOW = datetime(2026, 11, 25, 12, 0, 0, 123_000, tzinfo=UTC)
BACKUP = Freshness("backup", "tasks", NOW - timedelta(hours=3), 93_600)
COPY = Freshness("replicate", "offsite", NOW - timedelta(days=2), 655_200)
DRILL = Freshness("drill", "offsite", NOW - timedelta(days=12), 2_901_600)
LATE_BACKUP = Freshness("backup", "tasks", NOW - timedelta(hours=30), 93_600)
NEVER_DRILLED = Freshness("drill", "offsite", None, 2_901_600)
SHRUNK = Hold("tasks", "shrink", NOW, "half of its rows are gone", None)

WELL = Health.of(HealthFacts((BACKUP, COPY, DRILL)), NOW)
CUT_OFF = Failure(
    "replicate", "offsite", "unreachable", NOW - timedelta(minutes=2), 1, "no route to nas.example", "check the route"
)
ILL = Health.of(HealthFacts((LATE_BACKUP, COPY, NEVER_DRILLED), (SHRUNK,), (CUT_OFF,)), NOW)


def status_of(health: Health) -> Status:
    return Status(
        taken_at=NOW,
        started_at=NOW - timedelta(days=1),
        health=health,
        migrations_ok=True,
        tasks=(
            TaskFigures(
                "backup", "tasks", NOW - timedelta(hours=3), {"published": 40, "failed": 2}, 1.5, {"copy": 0.5}
            ),
            TaskFigures("drill", "tasks", None, {}),
            TaskFigures(
                "drill",
                "notes",
                NOW - timedelta(days=12),
                {"done": 3},
                9.5,
                {"fetch": 7.5},
                generation="notes-20261113-0300",
                drill=DrillReport("offsite", 748_800, NOW - timedelta(days=13), 100_800, 8.25),
            ),
        ),
        sources=(
            SourceFigures("tasks", 12, 11, 3 << 20, 1 << 20, NOW - timedelta(hours=3), frozen=False),
            SourceFigures("notes", 0, 0, None, None, None, frozen=True),
        ),
        free_bytes={"local": 5 << 30},
        sqlite_version="3.54.1",
        messages=MessageFigures(2, NOW - timedelta(hours=1), NOW),
        pings=(PingRecord("daily", "", 40, 2, NOW - timedelta(hours=1), NOW, "it answered 404"),),
    )


@dataclass
class FakeService:
    """Raises `error` where there is any, and answers no call named in `hanging` until `released` is set."""

    reasons: tuple[str, ...] = ()
    known_health: Health = WELL
    known_history: History = field(default_factory=healthy)
    error: Exception | None = None
    hanging: frozenset[str] = frozenset()
    released: threading.Event = field(default_factory=threading.Event)
    calls: list[str] = field(default_factory=list)
    _calls_lock: threading.Lock = field(default_factory=threading.Lock)

    def alive(self) -> tuple[str, ...]:
        self._record_call("alive")
        return self.reasons

    def health(self) -> Health:
        self._record_call("health")
        return self.known_health

    def status(self) -> Status:
        self._record_call("status")
        return status_of(self.known_health)

    def history(self) -> History:
        self._record_call("history")
        return self.known_history

    def _record_call(self, call: str) -> None:
        with self._calls_lock:
            self.calls.append(call)
        if call in self.hanging:
            assert self.released.wait(60)
        if self.error:
            raise self.error


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class WebSite:
    """The server, where it is, and what was logged."""

    server: HttpServer
    service: FakeService
    errors: list[str]

    def ask(
        self, path: str, method: str = "GET", source: str = "127.0.0.1", body: bytes | None = None, **headers: str
    ) -> Reply:
        """Ask once; the underscores in the names of `headers` are dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20, source_address=(source, 0))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def connect(self, send: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """Open a raw connection, and send something."""
        client = socket.create_connection(("127.0.0.1", self.server.port), timeout=20, source_address=(source, 0))
        client.sendall(send)
        return client


@contextmanager
def serving(
    service: FakeService | None = None,
    token: str | None = None,
    *,
    door: Door | None = None,
    cache_s: float = 0.0,
    timeout_s: float = 20.0,
    on_error: Callable[[str], None] | None = None,
) -> Iterator[WebSite]:
    """Serve on a free port of 127.0.0.1; by default every response is computed again."""
    service, errors = service or FakeService(), list[str]()
    app = make_app(service, token, on_error or errors.append, door=door, cache_s=cache_s, timeout_s=timeout_s)
    server = HttpServer("127.0.0.1:0", app, errors.append)
    server.start()
    try:
        yield WebSite(server, service, errors)
    finally:
        service.released.set()
        server.stop()


def received(client: socket.socket) -> bytes:
    """Return all that comes until the other side ends the connection, in whichever way."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def eventually(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
