"""Strangers at the HTTP server: 200 sources, a flood of requests, token guesses, and many slow clients."""

import http.client
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from backupd.archive.manifest import encode_manifest
from backupd.bootstrap.tasks import build_context, limits, planned_tasks, retention_rule
from backupd.catalog import open_catalog
from backupd.config import load_config
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, generation_id
from backupd.report import BackupDetails, RunReport
from backupd.status.current import StatusScope
from backupd.status.history import StatusService
from backupd.stores.local import DirectoryStore
from backupd.web import connection
from backupd.web.access import Guesses, address_of
from backupd.web.cached_response import SharedValue, fresh_for_s
from backupd.web.connection import MOST_CONNECTIONS
from backupd.web.routes import make_app
from backupd.web.server import HttpServer
from support.catalog_values import manifest
from support.web_site import eventually, serving

SOURCES = 200
GENERATIONS = 3
TOKEN = "a-token-of-the-tests"
STRANGER, OPERATOR = "127.0.0.2", "127.0.0.3"
WITHIN_S = 1.0


@dataclass(frozen=True)
class Site:
    """The real server before a real store of 200 sources."""

    port: int

    def ask(self, path: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> StatusService:
    """200 sources that are all up to date, in a store that was made as backups would have made it."""
    home = tmp_path_factory.mktemp("large")
    store = DirectoryStore("local", home / "backups")
    store.prepare()
    lines = [f'backups_dir = "{store.directory}"']
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    names = [f"app{number:03d}" for number in range(SOURCES)]
    for name in names:
        lines.append(f'[sources.{name}]\npath = "{home}/data/{name}.db"')
        for day in range(GENERATIONS):
            taken_at = now - timedelta(days=day, minutes=1)
            made = replace(manifest(generation_id(name, taken_at)), source=name, taken_at=taken_at)
            (store.directory / f"{made.id}{ARCHIVE_SUFFIX}").write_bytes(bytes(made.archive.size_bytes))
            (store.directory / f"{made.id}{MANIFEST_SUFFIX}").write_bytes(encode_manifest(made))
    catalog_path = store.hidden / "catalog.sqlite3"
    with open_catalog(catalog_path) as catalog:
        for task in ("backup", "prune", "scrub"):
            catalog.record_run(RunReport(task, names[0], now, BackupDetails(), outcome="published"), now)
    with closing(sqlite3.connect(catalog_path)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(run)")]
        copied = ", ".join(name for name in columns if name not in ("id", "source"))
        for name in names[1:]:
            connection.execute(f"INSERT INTO run (source, {copied}) SELECT ?, {copied} FROM run WHERE id <= 3", (name,))
    (home / "config.toml").write_text("\n".join(lines))
    config = load_config(home / "config.toml", {})
    context = build_context(config, writing=False)
    scope = StatusScope(planned_tasks(config), limits(config), retention_rule(config), {}, context, now)
    return StatusService(scope, tuple)


@contextmanager
def served(service: StatusService) -> Iterator[Site]:
    web = HttpServer("127.0.0.1:0", make_app(service, None, print), print)
    web.start()
    try:
        yield Site(web.port)
    finally:
        web.stop()


@pytest.mark.no_cover  # measuring coverage doubles the time
@pytest.mark.parametrize("path", ["/health", "/metrics", "/api/status", "/"])
def test_each_response_about_200_sources_takes_less_than_a_second(large: StatusService, path: str) -> None:
    """What counts is the time on a core, and the better of three attempts: other programs share the machine."""
    costs = []
    for _ in range(3):
        with served(large) as site:
            before, give_up = time.process_time(), time.monotonic() + 60
            while b'"answered": false' in (answer := site.ask(path))[1]:
                assert time.monotonic() < give_up
            costs.append(time.process_time() - before)
        assert (answer[0] in {200, 503}, len(answer[1]) > 1000) == (True, True)
    assert min(costs) < 2 * WITHIN_S, "twice, since other tests share the caches of the cores"


def test_flood_of_requests_causes_few_computations(large: StatusService) -> None:
    with served(large) as site:
        site.ask("/health")
        before, began, answers = time.process_time(), time.monotonic(), 0
        while time.monotonic() - began < 3:
            site.ask("/health")
            answers += 1
    cpu_s, took_s = time.process_time() - before, time.monotonic() - began
    assert answers > 20
    # A request and its connection cost less than 6 ms, client and server together, and computing a fifth of the time.
    assert cpu_s < answers * 0.006 + took_s * 0.25, f"{cpu_s:.1f} s of CPU for {answers} answers in {took_s:.1f} s"


def test_slow_computation_is_shared_for_longer() -> None:
    assert [fresh_for_s(2.0, took_s) for took_s in (0.01, 0.5, 3.0)] == [2.0, 2.0, 12.0]
    assert fresh_for_s(0.0, 3.0) == 0.0


def test_page_and_api_share_one_computation() -> None:
    with serving(cache_s=30) as site:
        for path in ("/", "/api/status"):
            for language in ("en", "es"):
                assert site.ask(path, Accept_Language=language).status == 200
        assert site.service.calls == ["history"]


def test_failed_computation_is_retried() -> None:
    results: list[Exception | str] = [OSError("no disk"), "there"]

    def compute() -> str:
        found = results.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    shared = SharedValue(compute, cache_s=30)
    with pytest.raises(OSError, match="no disk"):
        shared.get()
    assert (shared.get(), shared.get()) == ("there", "there")


# --- Guesses ---


def test_token_guesses_are_slowed_and_operator_is_not_locked_out() -> None:
    with serving(token=TOKEN, cache_s=30) as site:
        assert site.ask("/api/status", Authorization=f"Bearer {TOKEN}").status == 200
        for _ in range(5):
            assert site.ask("/", source=STRANGER, Authorization="Bearer guess").status == 401
        began, guesses = time.monotonic(), 0
        while time.monotonic() - began < 3:
            assert site.ask("/", source=STRANGER, Authorization="Bearer guess").status == 401
            guesses += 1
        assert guesses < 10, "without a delay it would be hundreds"
        began = time.monotonic()
        assert site.ask("/", source=OPERATOR, Authorization=f"Bearer {TOKEN}").status == 200
        assert time.monotonic() - began < WITHIN_S, "another address does not wait"
        assert site.ask("/", source=STRANGER, Authorization=f"Bearer {TOKEN}").status == 200, "it waits, and is served"
        assert site.ask("/", source=STRANGER).status == 401
        assert site.ask("/health", source=STRANGER).status == 200


def test_storm_of_token_guesses_leaves_operator_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "is_loopback", lambda _address: False)
    stop = threading.Event()
    with serving(token=TOKEN, cache_s=30) as site:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess\r\n\r\n"

        def storm() -> None:
            while not stop.is_set():
                with ExitStack() as waiting, suppress(OSError):
                    for _ in range(2 * MOST_CONNECTIONS):
                        waiting.enter_context(site.connect(request, STRANGER))

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            eventually(lambda: len(site.server._open) >= MOST_CONNECTIONS)
            answers = [site.ask("/", source=OPERATOR, Authorization=f"Bearer {TOKEN}").status for _ in range(5)]
        finally:
            stop.set()
            thread.join()
    assert answers == [200] * 5


def test_delay_of_guesses_grows_ends_and_is_forgotten() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    delays = []
    for _ in range(20):
        delays.append(guesses.delay_s("192.0.2.1"))
        guesses.add("192.0.2.1")
    assert delays[:6] == [0.0] * 6
    assert delays == sorted(delays)
    assert delays[-1] == 2.0
    assert guesses.delay_s("192.0.2.2") == 0.0
    now[0] += 3600
    assert guesses.delay_s("192.0.2.1") == 0.0


def test_guesses_from_many_addresses_use_bounded_memory() -> None:
    guesses = Guesses()
    for number in range(5000):
        guesses.add(f"192.0.{number // 256}.{number % 256}")
    assert len(guesses._wrong) == 1024


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_addresses_of_one_host_count_as_one(one: str, other: str) -> None:
    assert address_of(one) == address_of(other)
    assert address_of("no address") == "no address"


# --- Slow clients ---


def test_health_probe_is_answered_beside_500_slow_clients() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with serving() as site, ExitStack() as clients:
            for _ in range(500):
                clients.enter_context(site.connect(b"GET /health HTTP/1.1\r\nX: ", STRANGER))
            assert site.ask("/livez").status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
