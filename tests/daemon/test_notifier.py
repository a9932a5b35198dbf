"""The notifier with real runs, catalog, Apprise and servers, and a clock set by the test."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from backupd import __version__
from backupd.catalog import open_catalog
from backupd.daemon.notifier import INTERVAL_S, Notifier
from backupd.health import Limit
from backupd.notifications.apprise import Sender
from backupd.notifications.delivery import NotificationOptions, examine_messages
from backupd.notifications.deploy import App
from backupd.notifications.message import Channel, Message, parse_channels
from backupd.pings import Monitor
from backupd.report import RunDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.schedule import Schedule
from backupd.status.current import StatusScope, read_status
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, rebuild_catalog
from backupd.tasks.requests import BackupRequest, RetentionRule
from support.command import log_lines
from support.daemon import wait_until
from support.recording_server import CannedResponse, ReceivedRequest, RecordingServer, recording_server

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LIMITS = (Limit("backup", "tasks", 93_600),)
RULE = RetentionRule(RetentionPolicy(), UTC)
MISSING = "the database of tasks is missing: no backup can be made"
NO_CATALOG = "the catalog cannot be used: the result of recent runs is unknown; backups continue without it"


@dataclass
class Clock:
    """Returns the time that it was set to: at first a Wednesday at noon."""

    now: datetime = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class NotifierHarness:
    """The notifier of a daemon, which a test runs step by step, or replaces by that of a restarted daemon."""

    context: TaskContext
    clock: Clock
    options: NotificationOptions
    sender: Sender = field(default_factory=Sender)
    is_owner: bool = True
    others: frozenset[str] = frozenset()  # sources of other daemons
    errors: tuple[str, ...] = ()
    status: tuple[str, ...] = ("healthy",)
    notifier: Notifier | None = None

    def restart(self) -> "NotifierHarness":
        self.notifier = Notifier(
            self.options,
            self.context,
            lambda: self.is_owner,
            lambda scope: scope not in self.others,
            lambda: self.errors,
            lambda: self.status,
            threading.Event(),
            self.sender,
        )
        return self

    def run_once(self, after: timedelta = MINUTE) -> float:
        self.clock.now += after
        assert self.notifier is not None
        return self.notifier.run_once()

    def deployed(self) -> "NotifierHarness":
        """Run until the verdict on the own version is sent."""
        self.restart().run_once()
        self.run_once()
        return self


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def harness(context: TaskContext, clock: Clock) -> NotifierHarness:
    order = NotificationOptions("tasks", "tasks", UTC, frozenset({"tasks", "local"}), LIMITS)
    return NotifierHarness(replace(context, clock=clock), clock, order).restart()


def notifying(harness: NotifierHarness, *urls: str, **more: object) -> NotifierHarness:
    harness.options = replace(harness.options, channels=parse_channels(urls), **more)  # type: ignore[arg-type] - the fields of NotificationOptions
    return harness.restart()


def titles(there: RecordingServer) -> list[str]:
    return [asked.json["title"].removeprefix("backupd tasks: ") for asked in there.requests]


def events(context: TaskContext, event: str) -> list[str]:
    return [line["message"] for line in log_lines(context.store.directory) if line["event.action"] == event]


def record_run(harness: NotifierHarness, outcome: str, task: str = "backup", code: int = 0) -> None:
    """Record a finished run in the catalog."""
    now = harness.clock()
    kind = "unproven" if task == "drill" else "missing"
    report = RunReport(
        task, "tasks", now, RunDetails(), outcome, error="it is gone", hint="put it back", error_kind=kind
    )  # type: ignore[arg-type] - the test says what
    report = replace(report, exit_code=code)
    with open_catalog(harness.context.catalog_path) as catalog:
        catalog.record_run(report, now)


@pytest.mark.parametrize("subjects", [{"notes", "tasks", "local"}, {"notes", "local"}], ids=["reordered", "renamed"])
def test_state_is_neither_lost_nor_doubled_when_another_source_is_the_first(
    harness: NotifierHarness, order: BackupRequest, subjects: set[str]
) -> None:
    with recording_server() as there:
        notifying(harness, there.url("/", "json")).deployed()
        order.path.rename(order.path.with_name("away.db"))
        backup(order, harness.context)
        harness.run_once()
        backup(order, harness.context)
        harness.run_once()
        told = titles(there)
        assert told[1:] == [MISSING]
        harness.options = replace(harness.options, scope="notes", subjects=frozenset(subjects))
        harness.restart().run_once()
        harness.run_once()
        assert MISSING not in titles(there)[len(told) :]
        assert not [title for title in titles(there)[len(told) :] if title.startswith("deploy")]
        with open_catalog(harness.context.catalog_path) as catalog:
            assert catalog.notification_scopes() == ("notes",)


def test_message_on_its_way_is_sent_once_by_a_daemon_whose_first_source_is_another(harness: NotifierHarness) -> None:
    codes = [500]
    with recording_server(lambda _asked: CannedResponse(codes[-1])) as there:
        notifying(harness, there.url("/", "json")).deployed()
        failed = len(there.requests)
        assert failed
        codes.append(200)
        harness.options = replace(harness.options, scope="notes", subjects=frozenset({"notes", "local"}))
        harness.restart().run_once(after=2 * MINUTE)
        harness.run_once()
        assert titles(there)[failed:] == [f"deploy OK: backupd {__version__}"]


def test_state_of_another_daemon_that_runs_is_left_to_it(harness: NotifierHarness) -> None:
    with recording_server() as there:
        notifying(harness, there.url("/", "json")).deployed()
        harness.options = replace(harness.options, scope="notes", subjects=frozenset({"notes", "local"}))
        harness.others = frozenset({"tasks"})
        harness.deployed()
        with open_catalog(harness.context.catalog_path) as catalog:
            assert set(catalog.notification_scopes()) == {"notes", "tasks"}
            assert catalog.read_notification_state("tasks").notices


def test_failure_and_its_end_are_reported_once_across_restarts(harness: NotifierHarness, order: BackupRequest) -> None:
    away = order.path.with_name("away.db")
    with recording_server() as there:
        notifying(harness, there.url("/", "json")).deployed()
        assert titles(there) == [f"deploy OK: backupd {__version__}"]
        order.path.rename(away)
        backup(order, harness.context)
        harness.run_once()
        backup(order, harness.context)
        harness.run_once()
        harness.restart().run_once()
        assert titles(there)[1:] == [MISSING]
        body = there.requests[1].json["message"]
        assert f"what: no database at {order.path}" in body
        assert "since: Wed 2026-11-25 12:02 UTC" in body
        assert "next: check that its volume is mounted; " in body
        away.rename(order.path)
        backup(order, harness.context)
        harness.restart().run_once()
        harness.run_once()
        assert titles(there)[2:] == ["resolved: the database of tasks is no longer missing"]
    assert len(events(harness.context, "message.sent")) == 3


def test_refused_message_is_kept_retried_and_shown(harness: NotifierHarness) -> None:
    healthy = [False]

    def answering(asked: ReceivedRequest) -> CannedResponse:
        return CannedResponse(200 if healthy[0] or asked.path == "/well/" else 500)

    with recording_server(answering) as there:
        ill = there.url("/hunter2/", "json")
        notifying(harness, there.url("/well/", "json"), ill).deployed()
        assert sorted(asked.path for asked in there.requests) == ["/hunter2/", "/well/"]
        assert "hunter2" not in json.dumps(log_lines(harness.context.store.directory))
        (failed,) = events(harness.context, "message.failed")
        assert "json://[secret] (URL 2) did not accept the message" in failed
        assert "Failed to send JSON POST notification" in failed
        (finding,) = examine_messages("tasks", harness.context, UTC)
        assert not finding.ok
        assert "1 message could not be sent yet" in finding.detail
        figures = read_status(StatusScope((), LIMITS, RULE, {}, harness.context, harness.clock())).messages
        assert (figures.waiting, figures.refused_at, figures.accepted_at) == (1, harness.clock(), harness.clock())
        harness.run_once(timedelta(seconds=30))
        assert len(there.requests) == 2, "there is no attempt at once"
        healthy[0] = True
        harness.restart().run_once()
        assert [asked.path for asked in there.requests[2:]] == ["/hunter2/"], "only the channel that refused it"
        assert len({asked.json["message"] for asked in there.requests}) == 1
    assert list(examine_messages("tasks", harness.context, UTC)) == []


class Crash(BaseException):
    """A power cut."""


class Crashing(Sender):
    """Sends, and crashes before the result is saved."""

    def send(self, message: Message, channels: Sequence[Channel]) -> Mapping[Channel, str]:
        super().send(message, channels)
        raise Crash


def test_crash_before_saving_sends_message_again_with_same_reference(harness: NotifierHarness) -> None:
    with recording_server() as there:
        harness.sender = Crashing()
        notifying(harness, there.url("/", "json")).restart().run_once()
        with pytest.raises(Crash):
            harness.run_once()
        harness.sender = Sender()
        harness.restart().run_once()
        harness.run_once()
        first, second = (asked.json for asked in there.requests)
    assert first["message"] == second["message"]
    assert "\n\nref " in first["message"]


def test_message_refused_for_days_is_dropped_and_logged(harness: NotifierHarness) -> None:
    with recording_server(CannedResponse(500)) as there, recording_server() as well:
        notifying(harness, there.url("/", "json"), well.url("/", "json")).deployed()
        harness.run_once(4 * DAY)
        assert events(harness.context, "message.dropped") == [], "a clock that was set does not expire a message"
    harness.sender = Sender(["/no/such/program"])
    for _ in range(8):
        harness.restart().run_once(timedelta(hours=1))
    (dropped,) = events(harness.context, "message.dropped")
    assert dropped.endswith("is dropped: json://[secret] (URL 1) did not accept it within 3 days")
    assert [title for title in titles(well) if "deploy" in title] == titles(well)[:1]
    notifying(harness, "json://elsewhere")
    harness.options = replace(harness.options, channels=())
    harness.restart().run_once()


def test_broken_catalog_is_reported_and_earlier_reports_are_not_repeated(harness: NotifierHarness) -> None:
    with recording_server() as there:
        notifying(harness, there.url("/", "json")).deployed()
        record_run(harness, "failed", code=1)
        harness.run_once()
        harness.context.catalog_path.write_bytes(b"no database" * 1000)
        harness.run_once()
        harness.run_once(timedelta(minutes=20))
        rebuild_catalog(harness.context)
        harness.run_once()
        sent = titles(there)[1:]
    assert sent[:2] == [MISSING, NO_CATALOG]
    assert sent.count(MISSING) == 1


def test_catalog_broken_from_the_start_is_reported_after_a_while(harness: NotifierHarness) -> None:
    with recording_server() as there:
        notifying(harness, there.url("/", "json"))
        harness.context.catalog_path.write_bytes(b"no database" * 1000)
        assert harness.restart().run_once() == INTERVAL_S
        for _ in range(3):
            harness.run_once(timedelta(minutes=16))
        assert NO_CATALOG in titles(there)


def test_each_deploy_of_the_app_gets_one_verdict_across_restarts(harness: NotifierHarness) -> None:
    life = {"version": "1.0", "status": 200}

    def answering(asked: ReceivedRequest) -> CannedResponse:
        if asked.path != "/health":
            return CannedResponse()
        return CannedResponse(life["status"], json.dumps({"build": {"version": life["version"]}}).encode())  # type: ignore[arg-type]

    with recording_server(answering) as there:
        app = App(there.url("/health"), version_field="build.version")
        notifying(harness, there.url("/", "json"), app=app).deployed()
        life.update(version="1.1", status=503)
        for _ in range(8):
            harness.restart().run_once()
        life.update(status=200)
        harness.restart().run_once()
        life.update(version="1.2")
        assert harness.restart().run_once() < INTERVAL_S, "during a deploy the app is checked often"
        for _ in range(3):
            harness.restart().run_once()
        sent = [asked.json for asked in there.requests if asked.path != "/health"]
    assert {one["title"] for one in sent[:2]} == {
        f"backupd tasks: deploy OK: backupd {__version__}",
        "backupd tasks: deploy OK: app 1.0",
    }
    assert [one["title"] for one in sent[2:]] == [
        "backupd tasks: deploy unhealthy: app 1.1 (before: 1.0)",
        "backupd tasks: deploy OK: app 1.2 (before: 1.1)",
    ]
    assert "its health_url answered 503" in sent[2]["message"]


def test_app_that_never_answers_after_its_deploy_is_reported_once_across_restarts(harness: NotifierHarness) -> None:
    life = {"status": 200, "body": b'{"version": "1.0"}'}
    with recording_server(
        lambda asked: CannedResponse(**life) if asked.path == "/health" else CannedResponse()
    ) as there:  # type: ignore[arg-type]
        notifying(harness, there.url("/", "json"), app=App(there.url("/health"))).deployed()
        life.update(status=502, body=b"<h1>Bad Gateway</h1>")
        for _ in range(10):
            harness.restart().run_once()
        life.update(status=200, body=b'{"version": "1.1"}')
        for _ in range(3):
            harness.restart().run_once()
        sent = [asked.json for asked in there.requests if asked.path != "/health"]
    assert [one["title"].removeprefix("backupd tasks: ") for one in sent[2:]] == [
        "deploy unhealthy: app (before: 1.0) does not answer its health check",
        "deploy OK: app 1.1",
    ]
    assert "its health_url answered 502" in sent[2]["message"]


def test_own_deploy_that_does_not_work_is_reported_as_unhealthy(harness: NotifierHarness) -> None:
    harness.errors = ("the worker has ended",)
    with recording_server() as there:
        notifying(harness, there.url("/", "json")).restart()
        for _ in range(8):
            harness.run_once()
        assert titles(there) == [f"deploy unhealthy: backupd {__version__}"]
        assert "the worker has ended" in there.requests[0].json["message"]


def test_daily_ping_is_sent_once_a_day_and_only_while_healthy(harness: NotifierHarness, order: BackupRequest) -> None:
    with recording_server() as there:
        daily = {"daily": Monitor.parse(there.url("/api/push/t0ken")), "daily_schedule": Schedule.parse("07:00", UTC)}
        notifying(harness, **daily)
        harness.run_once()
        assert there.requests == [], "there is no backup yet"
        backup(order, harness.context)
        for _ in range(3):
            harness.restart().run_once()
        assert [asked.query["status"] for asked in there.requests] == ["up"]
        assert there.requests[0].query["msg"] == "everything is within its limits: backup tasks"
        harness.run_once(DAY)
        assert len(there.requests) == 2, "the next day"
        harness.run_once(DAY)
        assert len(there.requests) == 2, "the backup is too old: no ping, which the monitor notices"
        backup(order, harness.context)
        there.answering = lambda _asked: CannedResponse(404)
        harness.run_once()
        harness.run_once(timedelta(seconds=30))
        assert len(there.requests) == 3, "a failed ping is not repeated at once"
        with open_catalog(harness.context.catalog_path) as catalog:
            (daily,) = catalog.pings()
        assert (str(daily), daily.accepted, daily.failed, daily.failing) == ("daily", 2, 1, True)
        there.answering = lambda _asked: CannedResponse()
        harness.run_once(timedelta(minutes=3))
        harness.run_once(timedelta(minutes=3))
        assert len(there.requests) == 4


def test_digest_is_sent_at_its_time(harness: NotifierHarness) -> None:
    harness.status = ("healthy", "verified backup  tasks: 3 h ago")
    with recording_server() as there:
        notifying(harness, there.url("/", "json"), digest=Schedule.parse("thu 08:00", UTC), limits=()).deployed()
        harness.restart().run_once(timedelta(hours=20))
        harness.run_once()
        assert titles(there)[1:] == ["status"]
        assert "verified backup  tasks: 3 h ago" in there.requests[1].json["message"]


def test_standby_daemon_reports_nothing_and_the_next_owner_repeats_nothing(harness: NotifierHarness) -> None:
    with recording_server() as there:
        notifying(harness, there.url("/", "json")).deployed()
        other = NotifierHarness(harness.context, harness.clock, harness.options, is_owner=False).restart()
        record_run(harness, "failed", code=1)
        other.run_once()
        harness.run_once()
        other.is_owner = True
        other.run_once()
        assert titles(there)[1:] == [MISSING]


def test_drill_is_reported_when_it_passes_and_when_its_failure_repeats(harness: NotifierHarness) -> None:
    with recording_server() as there:
        limits = (Limit("backup", "tasks", 1e9), Limit("drill", "local", 1e9))
        notifying(harness, there.url("/", "json"), limits=limits).deployed()
        record_run(harness, "done", task="drill")
        harness.run_once()
        for wait in (2, 4, 8):
            record_run(harness, "failed", task="drill", code=1)
            harness.run_once(wait * MINUTE)
        assert titles(there)[1:] == ["the drill of tasks passed in 0 s"]
        harness.run_once(MINUTE)
        assert titles(there)[2:] == ["the drill of tasks failed 3 times in a row: the restored copy did not pass"]


def test_defect_is_logged_once_and_the_next_minute_comes(harness: NotifierHarness) -> None:
    wake = threading.Event()

    def broken() -> bool:
        raise ZeroDivisionError

    order = replace(harness.options, channels=parse_channels(["json://127.0.0.1:9"]))
    notifier = Notifier(order, harness.context, broken, lambda _scope: True, lambda: (), lambda: (), wake)
    notifier.start()
    for _ in range(3):
        wait_until(lambda: not wake.is_set() and events(harness.context, "notification.failed"), "a turn")
        wake.set()
    notifier.stop()
    assert events(harness.context, "notification.failed") == ["notifications failed: ZeroDivisionError: "]


def test_notifier_without_channels_starts_no_thread(harness: NotifierHarness) -> None:
    assert harness.notifier is not None
    harness.notifier.start()
    assert not harness.notifier._thread.is_alive()
