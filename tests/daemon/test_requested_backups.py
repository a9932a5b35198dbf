"""Backups that are requested from a real daemon over HTTP, with curl and with the client."""

import gzip
import json
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backupd.config import Config, load_config
from backupd.daemon.requested import MOST_ACTIVE, MOST_AN_HOUR, RequestedBackups
from backupd.daemon.task_queue import RunObserver, TaskQueue, TaskRequest, TaskResult
from backupd.errors import (
    RemoteBackupFailed,
    RemoteRunUnknown,
    SidecarRefused,
    SidecarUnreachable,
)
from backupd.remote.run import RemoteRun
from backupd.remote.sidecar import Sidecar
from backupd.report import BackupDetails, RunReport
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import PinRequest
from backupd.web.door import RequestRefused, WantedBackup
from support.command import Backupd, log_lines
from support.daemon import Daemon, free_port, running_daemon, wait_until

TOKEN = "token-to-request-backups"
DOWNLOAD_TOKEN = "token-to-fetch-archives"
DOOR = {
    "BACKUPD_HTTP__ACTIONS": "true",
    "BACKUPD_HTTP__BACKUP_TOKEN": TOKEN,
    "BACKUPD_HTTP__DOWNLOAD_TOKEN": DOWNLOAD_TOKEN,
}


@contextmanager
def door_daemon(backupd: Backupd, **environ: str) -> Iterator[tuple[Daemon, Sidecar]]:
    """A daemon that accepts requests and owns its source, and a client of it."""
    with running_daemon(backupd, **DOOR, **environ) as daemon:
        daemon.wait_for("is due: ")
        yield daemon, Sidecar(f"http://127.0.0.1:{daemon.port}", TOKEN, 60)


def curl(daemon: Daemon, path: str, *arguments: str) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of what curl prints."""
    command = ["curl", "-sS", "-i", "--max-time", "90", "-H", f"Authorization: Bearer {TOKEN}", *arguments]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{daemon.port}{path}"], capture_output=True, text=True, check=True
    )
    head, _, body = done.stdout.partition("\n\n")
    status, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)


def pins(backupd: Backupd) -> dict[str, tuple[bool, str | None, str]]:
    """Return by generation whether it is pinned, until when, and its label."""
    listed = json.loads(backupd("list", "--json").out)
    return {one["id"]: (one["pinned"], one["pinned_until"], one["label"]) for one in listed}


def test_curl_requests_backup_and_waits_for_verified_pinned_generation(backupd: Backupd, backups: Path) -> None:
    with door_daemon(backupd) as (daemon, _):
        body = json.dumps({"sources": ["tasks"], "label": "deploy 1a2b3c", "pin": True})
        asked = ("-X", "POST", "-H", "Content-Type: application/json", "-H", "Idempotency-Key: deploy-1", "-d", body)
        status, headers, run = curl(daemon, "/api/backups", *asked)
        assert (status, headers["location"]) == (202, f"/api/runs/{run['id']}")
        _, _, ended = curl(daemon, f"{headers['location']}?wait=60")
        assert (ended["state"], ended["succeeded"], ended["label"]) == ("ended", True, "deploy 1a2b3c")
        (source,) = ended["sources"]
        assert source["outcome"] in {"published", "unchanged"}, "the schedule may have been first"
        assert (source["verification"], source["exit_code"]) == ("full", 0)
        assert pins(backupd) == {source["generation"]: (True, None, "deploy 1a2b3c")}
        assert curl(daemon, "/api/backups", *asked)[2] == ended, "the key is remembered"
        assert curl(daemon, "/api/backups", *asked[:-1], "{}")[0] == 422, "for this request alone"
    requested = [line for line in log_lines(backups) if line["event.action"] == "run.requested"]
    assert [line["backupd.label"] for line in requested] == ["deploy 1a2b3c"]
    assert "requested over HTTP by 127.0.0.1: deploy 1a2b3c" in requested[0]["message"]
    archive = next(backups.glob("*.gz"))
    assert (source["archive_bytes"], source["generation"] in archive.name) == (archive.stat().st_size, True)


def test_client_gets_verified_archive_of_its_backup(backupd: Backupd, tmp_path: Path) -> None:
    with door_daemon(backupd) as (_, sidecar):
        run = sidecar.back_up(label="deploy 7", pin="30d")
        run.require_success()
        again = sidecar.back_up(pin=False)
        assert again.sources[0].outcome == "unchanged"
        assert again.generations == run.generations
        (generation,) = run.generations
        assert pins(backupd)[generation][2] == "deploy 7", "the second backup was not pinned, and ends no pin"
        copy = tmp_path / "copy.gz"
        sidecar.download(generation, DOWNLOAD_TOKEN, copy)
        database = tmp_path / "copy.db"
        database.write_bytes(gzip.decompress(copy.read_bytes()))
        assert sqlite3.connect(database).execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with pytest.raises(SidecarRefused, match="refuses the token"):
            sidecar.download(generation, TOKEN, tmp_path / "other.gz")
        with pytest.raises(FileExistsError):
            sidecar.download(generation, DOWNLOAD_TOKEN, copy)
        with pytest.raises(SidecarRefused, match="no such generation"):
            sidecar.download("tasks-20200101-0000", DOWNLOAD_TOKEN, tmp_path / "other.gz")
    assert not (tmp_path / "other.gz").exists()


def test_failed_backup_is_reported_with_error_and_hint(backupd: Backupd, database: Path) -> None:
    with door_daemon(backupd) as (_, sidecar):
        database.rename(database.with_suffix(".aside"))
        run = sidecar.back_up()
        (source,) = run.sources
        assert (run.succeeded, source.outcome, source.generation, source.exit_code) == (False, "failed", None, 1)
        assert source.error
        assert source.hint
        with pytest.raises(RemoteBackupFailed, match="the backup of tasks failed: ") as failed:
            run.require_success()
        assert failed.value.hint == source.hint


def test_hold_is_reported_though_copy_is_verified(backupd: Backupd, database: Path) -> None:
    with door_daemon(backupd) as (_, sidecar):
        sidecar.back_up().require_success()
        with sqlite3.connect(database) as app:
            app.execute("DELETE FROM account WHERE id > 10")
        run = sidecar.back_up()
        (source,) = run.sources
        assert (run.succeeded, source.outcome, source.exit_code) == (True, "degraded", 3)
        assert "shrank" in (source.hold or "")
        with pytest.raises(RemoteBackupFailed, match="its pruning is on hold: tasks shrank"):
            run.require_success()


def test_run_of_restarted_daemon_is_unknown_and_same_key_gives_same_generation(backupd: Backupd) -> None:
    with door_daemon(backupd) as (_, sidecar):
        first = sidecar.back_up(key="deploy-1")
    with door_daemon(backupd) as (_, sidecar):
        with pytest.raises(RemoteRunUnknown, match="restarted"):
            sidecar.wait_for(first.id)
        assert sidecar.back_up(key="deploy-1").generations == first.generations


def test_daemon_that_stops_answers_waiting_client_and_killed_run_is_reported(backupd: Backupd, database: Path) -> None:
    with door_daemon(backupd) as (daemon, sidecar):
        daemon.wait_for("scrub of tasks: done")
        app = sqlite3.connect(database, isolation_level=None)
        app.execute("PRAGMA locking_mode=EXCLUSIVE")
        app.execute("BEGIN IMMEDIATE")
        first, second = sidecar.request_backup(label="one"), sidecar.request_backup(label="two")
        wait_until(lambda: curl(daemon, f"/api/runs/{first.id}")[2]["state"] == "running", "its run")
        answers: dict[str, tuple[int, dict[str, str], Any]] = {}

        def wait(run: RemoteRun) -> None:
            answers[run.id] = curl(daemon, f"/api/runs/{run.id}?wait=60")

        threads = [threading.Thread(target=wait, args=(run,)) for run in (first, second)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(list(_connections(daemon.port))) >= len(threads), "both clients")
        daemon.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
    app.close()
    status, headers, refused = answers[second.id]
    assert (status, headers["retry-after"], refused["hint"]) == (503, "10", "request it again, with the same key")
    status, _, ended = answers[first.id]
    assert (status, ended["state"], ended["succeeded"]) == (200, "ended", False)
    assert ended["sources"][0]["error"]


def _connections(port: int) -> Iterator[str]:
    """Yield the established connections to `port` (proc(5), /proc/net/tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if local.endswith(f":{port:04X}") and state == "01":
            yield line


def test_daemon_that_stands_by_refuses_until_it_owns_source(backupd: Backupd) -> None:
    with door_daemon(backupd), running_daemon(backupd, **DOOR) as standby:
        standby.wait_for("standing by")
        status, headers, refused = curl(standby, "/api/backups", "-X", "POST")
    assert (status, headers["retry-after"]) == (503, "30")
    assert "stands by" in refused["error"]


def test_secrets_of_door_are_in_no_log_page_or_child(backupd: Backupd, backups: Path) -> None:
    with door_daemon(backupd) as (daemon, sidecar):
        sidecar.back_up(label=f"with {TOKEN}")
        page = daemon.ask("/")[1] + daemon.ask("/api/status")[1] + daemon.ask("/metrics")[1] + daemon.said()
    for text in (page, (backups / "backup.log").read_text()):
        assert TOKEN not in text
        assert DOWNLOAD_TOKEN not in text


# --- The client, where no backupd answers as it should ---


def test_nobody_there_is_unreachable_without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupd.remote.sidecar.RESTART_S", 0.5)
    monkeypatch.setattr("backupd.remote.sidecar._PAUSE_S", 0.1)
    with pytest.raises(SidecarUnreachable) as failed:
        Sidecar(f"http://127.0.0.1:{free_port()}", TOKEN, 30).request_backup()
    assert TOKEN not in f"{failed.value}{failed.value.hint}{failed.value!r}"


def test_closed_door_and_wrong_token_are_refused_at_once(backupd: Backupd) -> None:
    with running_daemon(backupd) as daemon:
        daemon.wait_until_alive()
        with pytest.raises(SidecarRefused, match="accepts no such request") as closed:
            Sidecar(f"http://127.0.0.1:{daemon.port}", TOKEN).request_backup()
        assert "http.actions" in closed.value.hint
    with door_daemon(backupd) as (daemon, _):
        with pytest.raises(SidecarRefused, match="refuses the token"):
            Sidecar(f"http://127.0.0.1:{daemon.port}", DOWNLOAD_TOKEN).request_backup()
        with pytest.raises(SidecarRefused, match="unknown source") as unknown:
            Sidecar(f"http://127.0.0.1:{daemon.port}", TOKEN).request_backup(("notes",))
        assert unknown.value.hint == "this backupd has: tasks"


# --- Bounds, keys and the queue, without processes ---


@dataclass
class HeldQueues:
    """Takes every request, and runs none until it is told to."""

    taken: list[TaskRequest] = field(default_factory=list)
    observer: RunObserver | None = None
    stopped: bool = False

    def submit(self, *requests: TaskRequest, observer: RunObserver) -> tuple[TaskRequest, ...]:
        if self.stopped:
            return ()
        self.taken += requests
        self.observer = observer
        return requests

    def end(self, request: TaskRequest, exit_code: int = 0) -> None:
        assert self.observer is not None
        details = BackupDetails(generation=f"{request.source}-20261125-1200")
        report = RunReport("backup", request.source, NOON, details, outcome="published", exit_code=exit_code)
        self.observer.began(request)
        self.observer.ended(request, TaskResult(NOON, NOON, exit_code, report))


NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
ALL = WantedBackup()


@pytest.fixture
def queues() -> HeldQueues:
    return HeldQueues()


@pytest.fixture
def now_s() -> list[float]:
    return [1000.0]


@pytest.fixture
def requested(queues: HeldQueues, context: TaskContext, now_s: list[float]) -> RequestedBackups:
    sources = ("tasks", "notes")
    return RequestedBackups(sources, queues, lambda _: True, context, lambda: now_s[0])  # type: ignore[arg-type]


def refusal_of(requested: RequestedBackups, wanted: WantedBackup = ALL, key: str = "") -> RequestRefused:
    with pytest.raises(RequestRefused) as refused:
        requested.request(wanted, key, "192.0.2.1")
    return refused.value


def test_run_is_running_from_first_source_to_last(requested: RequestedBackups, queues: HeldQueues) -> None:
    run = requested.request(ALL, "", "192.0.2.1")
    done = requested.done(run.id)
    assert [request.source for request in queues.taken] == ["tasks", "notes"]
    states = [run.state]
    for request in queues.taken:
        queues.end(request)
        found = requested.find(run.id)
        assert found is not None
        states.append(found.state)
    assert states == ["waiting", "running", "ended"]
    assert (found.succeeded, done.done(), found.ended_at is not None) == (True, True, True)


def test_what_waits_when_queue_stops_is_refused_with_its_key(requested: RequestedBackups, queues: HeldQueues) -> None:
    run = requested.request(ALL, "k", "192.0.2.1")
    done = requested.done(run.id)
    queues.end(queues.taken[0])
    requested.dropped(queues.taken[1])
    assert done.done()
    with pytest.raises(RequestRefused, match="being stopped"):
        requested.find(run.id)
    assert refusal_of(requested, key="k").status == 503
    queues.stopped = True
    refused = refusal_of(requested)
    assert (refused.status, refused.retry_after_s) == (503, 10)


def test_unknown_source_and_source_of_another_daemon_are_refused(queues: HeldQueues, context: TaskContext) -> None:
    requested = RequestedBackups(("tasks", "notes"), queues, lambda source: source == "tasks", context)  # type: ignore[arg-type]
    assert refusal_of(requested, WantedBackup(("blog", "tasks"))).status == 422
    assert refusal_of(requested).status == 503, "all sources, of which one is another's"
    run = requested.request(WantedBackup(("tasks", "tasks")), "", "192.0.2.1")
    assert [source.source for source in run.sources] == ["tasks"]
    assert requested.find("unknown") is None
    assert requested.done("unknown").done()


def test_fifth_active_request_is_refused_until_one_ends(requested: RequestedBackups, queues: HeldQueues) -> None:
    tasks = WantedBackup(("tasks",))
    for _ in range(MOST_ACTIVE):
        requested.request(tasks, "", "192.0.2.1")
    refused = refusal_of(requested)
    assert (refused.status, refused.retry_after_s) == (429, 10)
    queues.end(queues.taken[0])
    requested.request(tasks, "", "192.0.2.1")


def test_thirty_first_request_of_an_hour_is_refused_until_first_is_an_hour_old(
    requested: RequestedBackups, queues: HeldQueues, now_s: list[float]
) -> None:
    for _ in range(MOST_AN_HOUR):
        requested.request(WantedBackup(("tasks",)), "", "192.0.2.1")
        queues.end(queues.taken[-1])
        now_s[0] += 1
    refused = refusal_of(requested)
    assert (refused.status, refused.retry_after_s) == (429, 3600 - MOST_AN_HOUR)
    now_s[0] += refused.retry_after_s or 0
    requested.request(ALL, "", "192.0.2.1")
    assert refusal_of(requested).status == 429


def test_key_means_same_run_until_a_day_after_its_end(
    requested: RequestedBackups, queues: HeldQueues, now_s: list[float]
) -> None:
    wanted = WantedBackup(("tasks",), PinRequest("requested over HTTP", None, "v2"))
    run = requested.request(wanted, "k", "192.0.2.1")
    now_s[0] += 2 * 86400
    assert requested.request(wanted, "k", "192.0.2.1").id == run.id, "it still waits"
    queues.end(queues.taken[0])
    now_s[0] += 86400
    assert requested.request(wanted, "k", "192.0.2.1").id == run.id
    assert refusal_of(requested, ALL, "k").status == 422
    assert len(queues.taken) == 1
    now_s[0] += 1
    assert requested.request(wanted, "k", "192.0.2.1").id != run.id
    assert requested.find(run.id) is None


@pytest.fixture
def queue(database: Path, backups: Path, context: TaskContext) -> Iterator[TaskQueue]:
    environ = {"BACKUPD_DATABASE": str(database), "BACKUPD_BACKUPS_DIR": str(backups), "BACKUPD_SPACE__RESERVE": "0"}
    config: Config = load_config(None, environ)
    queue = TaskQueue(config, context.log, lambda: datetime.now(UTC))
    yield queue
    queue.stop()


def test_request_replaces_waiting_backup_of_schedule_and_precedes_other_tasks(queue: TaskQueue) -> None:
    scheduled, prune = TaskRequest("backup", "tasks"), TaskRequest("prune", "tasks")
    one, two = (replace(scheduled, run_id=name, pin=PinRequest("requested", None, name)) for name in ("one", "two"))
    assert queue.submit(prune)
    assert queue.submit(scheduled)
    assert queue.submit(one)
    assert not queue.submit(scheduled), "the requested one does the same"
    assert queue.submit(two)
    assert not queue.submit(two)
    assert list(queue._waiting) == [one, two, prune]
    queue.start()


def test_report_of_requested_run_reaches_observer(queue: TaskQueue, database: Path) -> None:
    heard = HeardRuns()
    queue.start()
    request = TaskRequest("backup", "tasks", "one", PinRequest("requested", None, "v2"))
    queue.submit(request, observer=heard)
    wait_until(lambda: heard.results, "the end")
    (result,) = heard.results
    assert result.report is not None
    assert (result.exit_code, result.report.outcome) == (0, "published")
    assert heard.words == ["began", "ended"]
    assert queue.results(TaskRequest("backup", "tasks"))[-1].succeeded, "the daemon remembers it as a backup"
    database.unlink()
    queue.submit(replace(request, run_id="two"), observer=heard)
    wait_until(lambda: len(heard.results) > 1, "the failure")
    report = heard.results[-1].report
    assert report is not None
    assert (report.outcome, report.error_kind) == ("failed", "missing")


def test_killed_run_has_a_report_too(queue: TaskQueue, database: Path) -> None:
    app = sqlite3.connect(database, isolation_level=None)
    app.execute("PRAGMA locking_mode=EXCLUSIVE")
    app.execute("BEGIN IMMEDIATE")
    heard = HeardRuns()
    queue.start()
    queue.submit(TaskRequest("backup", "tasks", "one"), observer=heard)
    wait_until(lambda: queue._process is not None, "its process")
    assert queue._process is not None
    queue._process.kill()
    wait_until(lambda: heard.results, "the end")
    app.close()
    report = heard.results[0].report
    assert report is not None
    assert (report.outcome, report.error) == ("failed", "the backup of tasks was killed by SIGKILL")


@dataclass
class HeardRuns:
    """What an observer learns."""

    words: list[str] = field(default_factory=list)
    results: list[TaskResult] = field(default_factory=list)

    def began(self, _request: TaskRequest) -> None:
        self.words.append("began")

    def ended(self, _request: TaskRequest, result: TaskResult) -> None:
        self.words.append("ended")
        self.results.append(result)

    def dropped(self, _request: TaskRequest) -> None:
        self.words.append("dropped")


def test_stopped_queue_drops_what_waits(queue: TaskQueue, context: TaskContext) -> None:
    heard = HeardRuns()
    with context.exclusive_lock("test"):  # for which the run waits
        queue.submit(TaskRequest("backup", "tasks", "one"), observer=heard)
        queue.start()
        wait_until(lambda: heard.words, "its start")
        queue.submit(TaskRequest("backup", "tasks", "two"), observer=heard)
        queue.stop()
        wait_until(lambda: heard.results, "the end")
    assert heard.words == ["began", "dropped", "ended"]
    report = heard.results[0].report
    assert report is not None
    assert (report.outcome, report.error_kind) == ("failed", "interrupted")
