"""A monitor gets a ping for each run, and no run depends on a monitor: real servers, real runs."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from backupd.pings import MAX_MESSAGE, Monitor, Pinger
from backupd.report import RunDetails
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.command import Backupd, log_lines
from support.daemon import free_port
from support.recording_server import HANG, HANG_UP, CannedResponse, ReceivedRequest, RecordingServer, recording_server

PING = "/ping/1111-2222-t0ken"
PUSH = "/api/push/t0ken"
JSON = {"Content-Type": "application/json; charset=utf-8"}


def healthchecks(asked: ReceivedRequest) -> CannedResponse:
    """Answer as the protocol specifies: https://healthchecks.io/docs/http_api/."""
    wanted = rf"{PING}(/start|/fail|/log|/(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5]))?"
    if re.fullmatch(wanted, asked.path) is None or asked.method not in ("HEAD", "GET", "POST"):
        return CannedResponse(404, b"not found")
    try:
        UUID(asked.query["rid"])
    except (KeyError, ValueError):
        return CannedResponse(400, b"invalid uuid format")
    return CannedResponse()


def uptime_kuma(asked: ReceivedRequest) -> CannedResponse:
    """Answer as server/routers/api-router.js does, and refuse what it would take silently for something else."""
    if asked.path != PUSH:
        return CannedResponse(404, b'{"ok":false,"msg":"Monitor not found or not active."}', JSON)
    query = asked.query  # each parameter once, or `dict` would hide one: Kuma takes two of a kind for a list
    strange = set(query) - {"status", "msg", "ping"} or asked.target.count("&") + 1 != len(query)
    if strange or query.get("status") not in ("up", "down") or not 0 < len(query.get("msg", "")) <= MAX_MESSAGE:
        return CannedResponse(400, b'{"ok":false,"msg":"nothing that it documents"}', JSON)
    if asked.method != "GET" or asked.body:
        return CannedResponse(404, b"Cannot POST")  # before version 2 it knew GET alone
    took = query.get("ping", "0")
    if not took.isdecimal() or int(took) > 86_400_000:
        return CannedResponse(400, b'{"ok":false,"msg":"Invalid ping value"}', JSON)
    return CannedResponse(200, b'{"ok":true}', JSON)


@contextmanager
def monitored(
    context: TaskContext, listener: RecordingServer, path: str = PING, **addresses: str
) -> Iterator[TaskContext]:
    found = {name: Monitor.parse(url) for name, url in (addresses or {"backup": listener.url(path)}).items()}
    yield replace(context, watch=Pinger(found, context.log, timeout_s=1.0).watch)


def failed_pings(context: TaskContext) -> list[str]:
    return [line["message"] for line in log_lines(context.store.directory) if line["event.action"] == "ping.failed"]


def test_start_and_success_reach_healthchecks_with_one_run_id(order: BackupRequest, context: TaskContext) -> None:
    with recording_server(healthchecks) as there, monitored(context, there) as watched:
        assert backup(order, watched).outcome == "published"
        assert [asked.path for asked in there.requests] == [f"{PING}/start", PING]
        assert len({asked.query["rid"] for asked in there.requests}) == 1
        assert there.requests[1].body.startswith(b"backup of tasks: published")
        backup(order, watched)
        assert len({asked.query["rid"] for asked in there.requests}) == 2
    assert failed_pings(context) == []


def test_failed_run_pings_exit_code_and_last_lines_of_log(order: BackupRequest, context: TaskContext) -> None:
    order.path.unlink()
    with recording_server(healthchecks) as there, monitored(context, there) as watched:
        backup(order, watched)
    assert [asked.path for asked in there.requests] == [f"{PING}/start", f"{PING}/1"]
    lines = there.requests[1].body.decode().splitlines()
    assert lines[0].startswith(f"backup of tasks: failed: no database at {order.path}")
    assert lines[1].startswith("INFO backup of tasks begins")
    assert lines[-1].startswith("ERROR backup of tasks: failed")


def test_end_of_run_reaches_uptime_kuma_with_duration(order: BackupRequest, context: TaskContext) -> None:
    with recording_server(uptime_kuma) as there, monitored(context, there, f"{PUSH}?status=up&msg=OK&ping=") as watched:
        backup(order, watched)
        away = order.path.rename(order.path.with_name("no & such=db? " + "#%+é\u202e" * 30))
        backup(replace(order, path=away.with_name(away.name[:-1])), watched)
    up, down = (asked.query for asked in there.requests)
    assert (up["status"], up["msg"]) == ("up", "backup of tasks: published")
    assert float(up["ping"]) > 0
    assert (down["status"], down["msg"][:40]) == ("down", "backup of tasks: failed: no database at ")
    assert (len(down["msg"]), "no & such=db? #%+é" in down["msg"]) == (MAX_MESSAGE, True), "cut, and quoted"
    assert failed_pings(context) == []


def test_stopped_run_pings_no_end_and_broken_run_a_failure(context: TaskContext) -> None:
    with recording_server(healthchecks) as there, monitored(context, there, drill=there.url(PING)) as watched:
        with pytest.raises(SystemExit), watched.run("drill", "tasks", RunDetails()):
            raise SystemExit
        there.wait_for(1)
        with pytest.raises(ZeroDivisionError), watched.run("drill", "tasks", RunDetails()):
            raise ZeroDivisionError
        assert [asked.path for asked in there.wait_for(3)] == [f"{PING}/start", f"{PING}/start", f"{PING}/1"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (CannedResponse(404, f"Cannot POST {PING}".encode()), r"it answered 404: Cannot POST /\[secret\]"),
        (CannedResponse(404, b"x" * 185 + f" {PING}".encode()), r"it answered 404: x{185} /\[secret"),
        (CannedResponse(500, b"<html>"), "it answered 500"),
        (HANG_UP, "Remote end closed connection without response"),
        (HANG, "no answer within 1 s|timed out"),
        (None, "Connection refused"),
    ],
)
def test_failing_monitor_delays_run_by_seconds_and_is_logged(
    order: BackupRequest, context: TaskContext, said: CannedResponse | None, why: str
) -> None:
    with recording_server(said) as there:
        url = there.url(PING) if said else f"http://127.0.0.1:{free_port()}{PING}"
        with monitored(context, there, backup=url) as watched:
            began = time.monotonic()
            report = backup(order, watched)
            over_s = time.monotonic() - began - report.duration_s
    assert report.outcome == "published"
    assert over_s < 15, "two tries of 1 s each, of the start and of the end, and a busy machine"
    first, second = failed_pings(context)
    pattern = (
        rf"^the healthchecks monitor for the backup of tasks did not accept the (start|success) ping: (it )?({why})"
    )
    assert re.search(pattern, first), first
    assert re.search(pattern, second), second
    assert "1111" not in (context.store.directory / "backup.log").read_text()


def test_temporary_failure_of_monitor_is_retried_once(order: BackupRequest, context: TaskContext) -> None:
    with recording_server(lambda _asked: CannedResponse(503 if len(there.requests) % 2 else 200)) as there:  # noqa: SIM117 - the name
        with monitored(context, there) as watched:
            backup(order, watched)
    assert [asked.path for asked in there.requests] == [f"{PING}/start"] * 2 + [PING] * 2
    assert failed_pings(context) == []


def test_manual_backup_pings(backupd: Backupd, backups: Path, database: Path) -> None:
    with recording_server(healthchecks) as hc, recording_server(uptime_kuma) as kuma:
        pings = {"BACKUPD_PINGS__BACKUP": hc.url(PING), "BACKUPD_PINGS__PRUNE_TASKS": kuma.url(PUSH)}
        assert backupd("backup", **pings).code == 0
        assert backupd("prune", **pings).code == 0
        database.unlink()
        answer = backupd("backup", **pings)
        assert answer.code == 1
        assert [asked.path.removeprefix(PING) for asked in hc.requests] == ["/start", "", "/start", "/1"]
        assert [asked.query["status"] for asked in kuma.requests] == ["up"]
    assert "t0ken" not in (backups / "backup.log").read_text() + answer.err + answer.out


def test_pings_are_counted_and_doctor_reports_failing_monitor(backupd: Backupd) -> None:
    with recording_server(healthchecks) as hc, recording_server(uptime_kuma) as kuma:
        pings = {
            "BACKUPD_PINGS__BACKUP": hc.url(PING),
            "BACKUPD_PINGS__PRUNE": kuma.url(PUSH),
            "BACKUPD_PINGS__DAILY": kuma.url(PUSH),
        }
        down = backupd("doctor", "--notify", "--json", **pings)
        assert [asked.query["status"] for asked in kuma.requests] == ["down", "up"], "there is no backup yet"
        assert [one["ok"] for one in down.json if one["check"] == "pings"] == [True] * 3
        assert backupd("prune", **pings).code == 0
        hc.answering = lambda _asked: CannedResponse(404, f"no {PING}".encode())
        assert backupd("backup", **pings).code == 0
        facts = backupd("notify", "--json", **pings).json["pings"]
        assert [(one["task"], one["source"], one["accepted"], one["failed"]) for one in facts] == [
            ("backup", "tasks", 0, 2),
            ("prune", "tasks", 1, 0),
        ]
        failed_pings = backupd("notify", **pings).out.splitlines()
        assert re.fullmatch(
            r"pings     backup of tasks: 0 accepted, 2 failed; .* UTC: it answered 404: .*", failed_pings[-2]
        ), failed_pings
        found = backupd("doctor", **pings)
        assert found.code == 1
        assert "pings: the last ping of backup of tasks failed at " in found.out
        status = backupd("status", "--json", BACKUPD_PINGS__PRUNE=kuma.url(PUSH)).json
        assert [one["task"] for one in status["pings"]] == ["prune"], "only configured monitors are shown"
        tried = backupd("notify", "--test", **pings)
        assert tried.code == 1
        assert tried.out.splitlines() == [
            "backup (healthchecks) refused a test: it answered 404: no /[secret]/[secret]",
            "daily (uptime-kuma) accepted a test: up",
            "prune (uptime-kuma) accepted a test: up",
        ]
        assert hc.requests[0].path == hc.requests[-1].path == f"{PING}/log", "no change of the state"
        assert "t0ken" not in failed_pings[-2] + found.out + tried.out + tried.err
