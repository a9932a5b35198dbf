"""Requests to monitors in their own protocols, and which URL means which kind."""

from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.pings import (
    MAX_BODY,
    MAX_MESSAGE,
    Monitor,
    Ping,
    PingRequest,
    monitor_for,
    ping_request,
    require_ping_names,
)

RUN = "0f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0"
HC = "https://hc-ping.com/11111111-2222-3333-4444-555555555555"
SLUG = "https://hc.example/ping/pingkey/nightly?create=1"
KUMA = "https://kuma.example/api/push/t0ken?status=up&msg=OK&ping="


def request_for(url: str, ping: Ping) -> PingRequest | None:
    return ping_request(Monitor.parse(url), ping)


def target(url: str, ping: Ping) -> str:
    request = request_for(url, ping)
    assert request is not None
    return request.url


@pytest.mark.parametrize(
    ("ping", "suffix"),
    [
        (Ping("start", RUN), "/start"),
        (Ping("success", RUN), ""),
        (Ping("success", RUN, exit_code=3), ""),
        (Ping("failure", RUN, exit_code=1), "/1"),
        (Ping("failure", RUN, exit_code=75), "/75"),
        (Ping("failure", RUN, exit_code=0), "/fail"),
        (Ping("failure", RUN, exit_code=-9), "/fail"),
        (Ping("failure", RUN, exit_code=300), "/fail"),
    ],
)
def test_healthchecks_request_has_signal_and_id_of_run(ping: Ping, suffix: str) -> None:
    assert target(HC, ping) == f"{HC}{suffix}?rid={RUN}"
    assert target(f"{HC}/", ping) == f"{HC}{suffix}?rid={RUN}"
    assert target(SLUG, ping) == f"https://hc.example/ping/pingkey/nightly{suffix}?create=1&rid={RUN}"


def test_healthchecks_body_is_cut_to_summary_and_last_lines() -> None:
    lines = tuple(f"INFO line {number} {'x' * 900}" for number in range(20))
    request = request_for(HC, Ping("failure", RUN, "backup of tasks: failed: no database", lines, 1))
    assert request is not None
    assert request.body is not None
    assert len(request.body) == MAX_BODY
    assert request.body.startswith(b"backup of tasks: failed: no database")
    assert request.body.endswith(lines[-1].encode())


def test_uptime_kuma_request_has_state_and_duration_and_none_is_sent_for_start() -> None:
    assert request_for(KUMA, Ping("start", RUN)) is None
    up = target(KUMA, Ping("success", RUN, "backup of tasks: published", duration_s=1.5))
    assert up == "https://kuma.example/api/push/t0ken?status=up&msg=backup+of+tasks%3A+published&ping=1500"
    down = target(KUMA, Ping("failure", RUN, "no & such = ? database", exit_code=1, duration_s=90_000))
    assert dict(parse_qsl(urlsplit(down).query)) == {"status": "down", "msg": "no & such = ? database"}


@given(summary=st.text(), line=st.text(), code=st.integers(-1000, 1000), took=st.none() | st.floats(0, 1e9))
def test_request_of_any_summary_can_be_sent(summary: str, line: str, code: int, took: float | None) -> None:
    for url in (HC, SLUG, KUMA):
        request = request_for(url, Ping("failure", str(uuid4()), summary, (line,), code, took))
        assert request is not None
        assert request.url.isascii()
        assert request.url.isprintable()
        assert len(request.body or b"") <= MAX_BODY
        query = dict(parse_qsl(urlsplit(request.url).query, keep_blank_values=True))
        assert len(query.get("msg", "")) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (HC, "healthchecks"),
        (KUMA, "uptime-kuma"),
        ("https://proxy.example/sub/api/push/abc", "uptime-kuma"),
        ("uptime-kuma:https://short.example/x", "uptime-kuma"),
        ("healthchecks:https://odd.example/api/push/x", "healthchecks"),
        ("http://127.0.0.1:8000/ping/x", "healthchecks"),
    ],
)
def test_kind_of_monitor_follows_from_url_or_prefix(text: str, kind: str) -> None:
    address = Monitor.parse(text)
    assert address.kind == kind
    assert address.url == text.removeprefix(f"{kind}:")
    assert address.url not in repr(address)


@pytest.mark.parametrize(
    "text", ["", "hunter2", "ftp://hunter2/x", "https:///hunter2", "https://[hunter2", "gotify:https"]
)
def test_invalid_url_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a URL that begins with https:// or http://$") as request_for:
        Monitor.parse(text)
    assert "hunter2" not in str(request_for.value)


def test_run_pings_its_own_monitor_before_that_of_its_task() -> None:
    one, other = Monitor.parse(HC), Monitor.parse(SLUG)
    addresses = {"backup": one, "backup_my_app": other}
    assert monitor_for("backup", "tasks", addresses) == one
    assert monitor_for("backup", "My-App", addresses) == other
    assert monitor_for("drill", "tasks", addresses) is None


def test_name_of_no_run_is_refused_with_known_names() -> None:
    require_ping_names(["backup", "daily", "drill-My.App", "replicate_nas", "scrub"], ["My.App"], ["nas"])
    for wrong in ("backp", "backup-nas", "replicate-My.App", "daily-nas"):
        with pytest.raises(ValueError, match=f"'{wrong}' is not a task: use backup, replicate"):
            require_ping_names([wrong], ["My.App"], ["nas"])
