"""Responses of the daemon over HTTP, through a real socket."""

import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest

from backupd.web import cached_response
from support.web_site import ILL, FakeService, eventually, serving

PATHS = ("/livez", "/health", "/metrics", "/api/status", "/")


def test_livez_without_reasons_is_200() -> None:
    with serving() as site:
        reply = site.ask("/livez")
    assert (reply.status, reply.json) == (200, {"alive": True, "reasons": []})


def test_livez_with_reasons_is_503_with_reasons() -> None:
    with serving(FakeService(reasons=("the scheduler has stopped",))) as site:
        reply = site.ask("/livez")
    assert (reply.status, reply.json) == (503, {"alive": False, "reasons": ["the scheduler has stopped"]})


def test_health_within_limits_is_200() -> None:
    with serving() as site:
        reply = site.ask("/health")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["healthy"] is True
    assert reply.json["checked_at"] == "2026-11-25T12:00:00+00:00"
    assert reply.json["reasons"] == reply.json["warnings"] == []
    assert reply.json["freshness"][0] == {
        "task": "backup",
        "subject": "tasks",
        "last_at": "2026-11-25T09:00:00+00:00",
        "age_s": 10_800,
        "limit_s": 93_600,
        "within_limit": True,
    }


def test_health_beyond_limits_is_503_with_late_or_missing_check() -> None:
    with serving(FakeService(known_health=ILL)) as site:
        reply = site.ask("/health")
    assert reply.status == 503
    assert reply.json["healthy"] is False
    assert reply.json["reasons"] == list(ILL.reasons)
    assert len(reply.json["reasons"]) == 3
    assert reply.json["warnings"] == ["the replication to offsite failed: the replica cannot be reached"]
    shrunk, *_, warning = reply.json["problems"]
    assert (shrunk["kind"], shrunk["severity"], shrunk["subject"]) == ("shrunk", "unhealthy", "tasks")
    assert "backupd restore latest --source tasks" in shrunk["next_step"]
    assert (warning["severity"], warning["cause"]) == ("warning", "unreachable")
    assert "nas.example" not in reply.text, "strangers may read it"
    never = reply.json["freshness"][2]
    assert (never["last_at"], never["age_s"], never["within_limit"]) == (None, None, False)
    assert [standing["within_limit"] for standing in reply.json["freshness"]] == [False, True, False]


def test_metrics_are_prometheus_text() -> None:
    with serving() as site:
        reply = site.ask("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nbackupd_healthy 1.0\n" in reply.text


@pytest.mark.parametrize("path", PATHS)
def test_head_response_is_get_response_without_body(path: str) -> None:
    with serving(cache_s=60) as site:
        full, head = site.ask(path), site.ask(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(full.body))


@pytest.mark.parametrize("path", ["/nothing", "/health/", "/livez/x", "//", "/metrics%2f", "/../etc/passwd", "/docs"])
def test_unknown_path_is_not_found(path: str) -> None:
    with serving() as site:
        reply = site.ask(path)
    assert (reply.status, reply.text) == (404, "Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_other_methods_are_refused_with_allowed_ones(method: str) -> None:
    with serving() as site:
        reply = site.ask("/health", method)
    assert reply.status == 405
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_each_response_has_protective_headers(path: str) -> None:
    with serving() as site:
        headers = site.ask(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert parsedate_to_datetime(headers["date"]).utcoffset() is not None
    assert "server" not in headers


@pytest.mark.parametrize("path", PATHS)
def test_internal_error_is_logged_and_not_sent_to_client(path: str) -> None:
    with serving(FakeService(error=RuntimeError("cannot read /data/secret.db\nat all"))) as site:
        replies = [site.ask(path) for _ in range(3)]
    assert {reply.status for reply in replies} == {500}
    assert replies[0].json == {"error": "internal error", "hint": "see the log of backupd"}
    assert len(site.errors) == 1, "the same trouble is told once"
    assert "RuntimeError: cannot read /data/secret.db" in site.errors[0]
    assert "web_site.py" in site.errors[0]
    assert "\n" not in site.errors[0]


def test_returning_error_is_logged_again() -> None:
    service = FakeService(error=OSError("no space"))
    with serving(service) as site:
        assert site.ask("/health").status == 500
        service.error = None
        assert site.ask("/health").status == 200
        service.error = OSError("no space")
        assert site.ask("/health").status == 500
    assert len(site.errors) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that is what happens here
def test_failing_log_delays_no_response() -> None:
    def full(_: str) -> None:
        raise OSError("no space for the log either")

    with serving(FakeService(error=OSError("no space")), on_error=full) as site:
        assert site.ask("/health").status == 500
        eventually(lambda: all(thread.name != "backupd-http-answer" for thread in threading.enumerate()))


def test_system_without_free_threads_still_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with serving() as site:
        monkeypatch.setattr(cached_response.Thread, "start", refuse)
        reply = site.ask("/livez")
        monkeypatch.undo()
        assert site.ask("/livez").status == 200
    assert (reply.status, reply.json) == (500, {"error": "internal error", "hint": "see the log of backupd"})
    assert "can't start new thread" in site.errors[0]


def test_hundred_requests_call_service_once() -> None:
    with serving(cache_s=60) as site, ThreadPoolExecutor(8) as crowd:
        replies = list(crowd.map(lambda _: site.ask("/health"), range(100)))
    assert {reply.status for reply in replies} == {200}
    assert site.service.calls == ["health"]


def test_expired_response_is_computed_again() -> None:
    with serving(cache_s=0.2) as site:
        assert site.ask("/health").status == 200
        site.service.known_health = ILL
        eventually(lambda: site.ask("/health").status == 503)


def test_hanging_service_fails_only_its_own_response() -> None:
    service = FakeService(hanging=frozenset({"status"}))
    with serving(service, timeout_s=0.2) as site:
        before = threading.active_count()
        late = [site.ask("/metrics") for _ in range(5)]
        assert {reply.status for reply in late} == {503}
        assert late[0].json["reasons"] == ["no answer within 0.2 s"]
        assert service.calls == ["status"], "nobody asks again while it hangs"
        assert threading.active_count() <= before + 1
        assert site.ask("/livez").status == site.ask("/health").status == 200
        service.released.set()
        eventually(lambda: site.ask("/metrics").status == 200)


def test_livez_with_hanging_service_is_503() -> None:
    with serving(FakeService(hanging=frozenset({"alive"})), timeout_s=0.2) as site:
        reply = site.ask("/livez")
    assert (reply.status, reply.json["alive"]) == (503, False)
