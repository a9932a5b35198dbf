"""The daemon tells people: real runs, a real catalog, the real Apprise, real servers, and a clock that a test sets."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from backupd import __version__
from backupd.catalog import open_catalog
from backupd.daemon.notifier import LOOK_EVERY_S, Notifier
from backupd.health import Limit
from backupd.notifications.apprise_sender import Sender
from backupd.notifications.collector import App
from backupd.notifications.message import Channel, Message, parse_channels
from backupd.notifications.options import NotificationOptions
from backupd.notifications.self_test import examine_messages
from backupd.pings.monitors import Monitor
from backupd.report import RunDetails, RunReport
from backupd.schedule import Schedule
from backupd.status.current import read_status
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, rebuild_catalog
from backupd.tasks.requests import BackupRequest
from support.command import log_lines
from support.daemon import wait_until
from support.recording_server import CannedResponse, ReceivedRequest, RecordingServer, recording_server

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LIMITS = (Limit("backup", "tasks", 93_600),)
MISSING = "the database of tasks is missing: no backup can be made"
NO_CATALOG = "the catalog cannot be used: how the last runs ended is not known; backups go on without it"


@dataclass
class Clock:
    """Tells the time that it was set to: a Wednesday, at noon."""

    now: datetime = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@dataclass
class NotifierHarness:
    """A daemon's teller, which a test lets look now and then, or replaces by that of a daemon that was started anew."""

    context: TaskContext
    clock: Clock
    order: NotificationOptions
    sender: Sender = field(default_factory=Sender)
    mine: bool = True
    alive: tuple[str, ...] = ()
    status: tuple[str, ...] = ("healthy",)
    teller: Notifier | None = None

    def restart(self) -> "NotifierHarness":
        self.teller = Notifier(
            self.order,
            self.context,
            lambda: self.mine,
            lambda: self.alive,
            lambda: self.status,
            threading.Event(),
            self.sender,
        )
        return self

    def look(self, after: timedelta = MINUTE) -> float:
        self.clock.now += after
        assert self.teller is not None
        return self.teller.turn()

    def deployed(self) -> "NotifierHarness":
        """Let the message of the first deploy be behind us, and be taken by nobody's leave."""
        self.restart().look()
        self.look()
        return self


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def harness(context: TaskContext, clock: Clock) -> NotifierHarness:
    order = NotificationOptions("tasks", "tasks", UTC, frozenset({"tasks", "local"}), LIMITS)
    return NotifierHarness(replace(context, clock=clock), clock, order).restart()


def telling(harness: NotifierHarness, *urls: str, **more: object) -> NotifierHarness:
    harness.order = replace(harness.order, channels=parse_channels(urls), **more)  # type: ignore[arg-type] - the fields of TellOrder
    return harness.restart()


def titles(there: RecordingServer) -> list[str]:
    return [asked.json["title"].removeprefix("backupd tasks: ") for asked in there.requests]


def events(context: TaskContext, event: str) -> list[str]:
    return [line["message"] for line in log_lines(context.store.directory) if line["event.action"] == event]


def note(harness: NotifierHarness, outcome: str, task: str = "backup", code: int = 0) -> None:
    """Let a run end in the catalog."""
    now = harness.clock()
    kind = "unproven" if task == "drill" else "missing"
    report = RunReport(
        task, "tasks", now, RunDetails(), outcome, error="it is gone", hint="put it back", error_kind=kind
    )  # type: ignore[arg-type] - the test says what
    report = replace(report, exit_code=code)
    with open_catalog(harness.context.catalog_path) as catalog:
        catalog.record_run(report, now)


def test_a_failure_is_told_once_and_its_end_once_also_across_restarts(
    harness: NotifierHarness, order: BackupRequest
) -> None:
    away = order.path.with_name("away.db")
    with recording_server() as there:
        telling(harness, there.url("/", "json")).deployed()
        assert titles(there) == [f"deploy OK: backupd {__version__}"]
        order.path.rename(away)
        backup(order, harness.context)
        harness.look()
        backup(order, harness.context)
        harness.look()
        harness.restart().look()
        assert titles(there)[1:] == [MISSING]
        body = there.requests[1].json["message"]
        assert f"what: no database at {order.path}" in body
        assert "since: Wed 2026-11-25 12:02 UTC" in body
        assert "next: is its volume mounted? " in body
        away.rename(order.path)
        backup(order, harness.context)
        harness.restart().look()
        harness.look()
        assert titles(there)[2:] == ["over: the database of tasks is no longer missing"]
    assert len(events(harness.context, "message.sent")) == 3


def test_a_message_that_is_not_taken_is_kept_tried_again_and_seen(harness: NotifierHarness) -> None:
    well = [False]

    def answering(asked: ReceivedRequest) -> CannedResponse:
        return CannedResponse(200 if well[0] or asked.path == "/well/" else 500)

    with recording_server(answering) as there:
        ill = there.url("/hunter2/", "json")
        telling(harness, there.url("/well/", "json"), ill).deployed()
        assert sorted(asked.path for asked in there.requests) == ["/hunter2/", "/well/"]
        assert "hunter2" not in json.dumps(log_lines(harness.context.store.directory))
        (failed,) = events(harness.context, "message.failed")
        assert "was not taken by json://[secret] (URL 2): Failed to send JSON POST notification" in failed
        (finding,) = examine_messages("tasks", harness.context)
        assert not finding.ok
        assert "1 message could not be sent yet" in finding.detail
        figures = read_status((), LIMITS, harness.context, harness.clock(), {}).messages
        assert (figures.waiting, figures.refused_at, figures.taken_at) == (1, harness.clock(), harness.clock())
        harness.look(timedelta(seconds=30))
        assert len(there.requests) == 2, "it is not tried again at once"
        well[0] = True
        harness.restart().look()
        assert [asked.path for asked in there.requests[2:]] == ["/hunter2/"], "who has taken it gets it no more"
        assert len({asked.json["message"] for asked in there.requests}) == 1
    assert list(examine_messages("tasks", harness.context)) == []


class Crash(BaseException):
    """The power goes."""


class Crashing(Sender):
    """Sends, and crashes before that can be noted."""

    def send(self, message: Message, channels: Sequence[Channel]) -> Mapping[Channel, str]:
        super().send(message, channels)
        raise Crash


def test_a_crash_before_the_note_sends_the_same_message_again_with_the_same_reference(harness: NotifierHarness) -> None:
    with recording_server() as there:
        harness.sender = Crashing()
        telling(harness, there.url("/", "json")).restart().look()
        with pytest.raises(Crash):
            harness.look()
        harness.sender = Sender()
        harness.restart().look()
        harness.look()
        first, second = (asked.json for asked in there.requests)
    assert first["message"] == second["message"]
    assert "\n\nref " in first["message"]


def test_what_nobody_takes_for_days_is_given_up_and_said(harness: NotifierHarness) -> None:
    with recording_server(CannedResponse(500)) as there, recording_server() as well:
        telling(harness, there.url("/", "json"), well.url("/", "json")).deployed()
        harness.look(4 * DAY)
        assert events(harness.context, "message.dropped") == [], "a clock that was set makes no message old"
    harness.sender = Sender(["/no/such/program"])
    for _ in range(8):
        harness.restart().look(timedelta(hours=1))
    (dropped,) = events(harness.context, "message.dropped")
    assert dropped.endswith("is given up: json://[secret] (URL 1) did not take it within 3 days")
    assert [title for title in titles(well) if "deploy" in title] == titles(well)[:1]
    telling(harness, "json://elsewhere")
    harness.order = replace(harness.order, channels=())
    harness.restart().look()


def test_a_broken_catalog_is_told_and_what_was_said_is_not_said_again(harness: NotifierHarness) -> None:
    with recording_server() as there:
        telling(harness, there.url("/", "json")).deployed()
        note(harness, "failed", code=1)
        harness.look()
        harness.context.catalog_path.write_bytes(b"no database" * 1000)
        harness.look()
        harness.look(timedelta(minutes=20))
        rebuild_catalog(harness.context)
        harness.look()
        told = titles(there)[1:]
    assert told[:2] == [MISSING, NO_CATALOG]
    assert told.count(MISSING) == 1


def test_a_catalog_that_is_broken_from_the_start_is_told_in_the_end(harness: NotifierHarness) -> None:
    with recording_server() as there:
        telling(harness, there.url("/", "json"))
        harness.context.catalog_path.write_bytes(b"no database" * 1000)
        assert harness.restart().look() == LOOK_EVERY_S
        for _ in range(3):
            harness.look(timedelta(minutes=16))
        assert NO_CATALOG in titles(there)


def test_an_app_gets_one_verdict_for_each_deploy_also_across_restarts(harness: NotifierHarness) -> None:
    life = {"version": "1.0", "status": 200}

    def answering(asked: ReceivedRequest) -> CannedResponse:
        if asked.path != "/health":
            return CannedResponse()
        return CannedResponse(life["status"], json.dumps({"build": {"version": life["version"]}}).encode())  # type: ignore[arg-type]

    with recording_server(answering) as there:
        app = App(there.url("/health"), version_field="build.version")
        telling(harness, there.url("/", "json"), app=app).deployed()
        life.update(version="1.1", status=503)
        for _ in range(8):
            harness.restart().look()
        life.update(status=200)
        harness.restart().look()
        life.update(version="1.2")
        assert harness.restart().look() < LOOK_EVERY_S, "a deploy is looked at closely"
        for _ in range(3):
            harness.restart().look()
        told = [asked.json for asked in there.requests if asked.path != "/health"]
    assert {one["title"] for one in told[:2]} == {
        f"backupd tasks: deploy OK: backupd {__version__}",
        "backupd tasks: deploy OK: app 1.0",
    }
    assert [one["title"] for one in told[2:]] == [
        "backupd tasks: deploy unhealthy: app 1.1 (before: 1.0)",
        "backupd tasks: deploy OK: app 1.2 (before: 1.1)",
    ]
    assert "its health_url answered 503" in told[2]["message"]


def test_an_app_that_never_answers_after_its_deploy_is_told_once_also_across_restarts(harness: NotifierHarness) -> None:
    life = {"status": 200, "body": b'{"version": "1.0"}'}
    with recording_server(
        lambda asked: CannedResponse(**life) if asked.path == "/health" else CannedResponse()
    ) as there:  # type: ignore[arg-type]
        telling(harness, there.url("/", "json"), app=App(there.url("/health"))).deployed()
        life.update(status=502, body=b"<h1>Bad Gateway</h1>")
        for _ in range(10):
            harness.restart().look()
        life.update(status=200, body=b'{"version": "1.1"}')
        for _ in range(3):
            harness.restart().look()
        told = [asked.json for asked in there.requests if asked.path != "/health"]
    assert [one["title"].removeprefix("backupd tasks: ") for one in told[2:]] == [
        "deploy unhealthy: app (before: 1.0) tells neither that it is well nor its version",
        "deploy OK: app 1.1",
    ]
    assert "its health_url answered 502" in told[2]["message"]


def test_an_own_deploy_that_does_not_work_is_told_as_that(harness: NotifierHarness) -> None:
    harness.alive = ("the worker has ended",)
    with recording_server() as there:
        telling(harness, there.url("/", "json")).restart()
        for _ in range(8):
            harness.look()
        assert titles(there) == [f"deploy unhealthy: backupd {__version__}"]
        assert "the worker has ended" in there.requests[0].json["message"]


def test_the_daily_ping_is_sent_once_a_day_and_only_while_all_proofs_are_young(
    harness: NotifierHarness, order: BackupRequest
) -> None:
    with recording_server() as there:
        daily = {"daily": Monitor.parse(there.url("/api/push/t0ken")), "daily_schedule": Schedule.parse("07:00", UTC)}
        telling(harness, **daily)
        harness.look()
        assert there.requests == [], "there is no backup yet"
        backup(order, harness.context)
        for _ in range(3):
            harness.restart().look()
        assert [asked.query["status"] for asked in there.requests] == ["up"]
        assert there.requests[0].query["msg"] == "all proofs are within their limits: backup tasks"
        harness.look(DAY)
        assert len(there.requests) == 2, "the next day"
        harness.look(DAY)
        assert len(there.requests) == 2, "the backup is too old: silence, which the monitor notices"
        backup(order, harness.context)
        there.answering = lambda _asked: CannedResponse(404)
        harness.look()
        harness.look(timedelta(seconds=30))
        assert len(there.requests) == 3, "one that fails is not tried again at once"
        with open_catalog(harness.context.catalog_path) as catalog:
            (daily,) = catalog.pings()
        assert (str(daily), daily.accepted, daily.failed, daily.failing) == ("daily", 2, 1, True)
        there.answering = lambda _asked: CannedResponse()
        harness.look(timedelta(minutes=3))
        harness.look(timedelta(minutes=3))
        assert len(there.requests) == 4


def test_the_digest_comes_at_its_time(harness: NotifierHarness) -> None:
    harness.status = ("healthy", "verified backup  tasks: 3 h ago")
    with recording_server() as there:
        telling(harness, there.url("/", "json"), digest=Schedule.parse("thu 08:00", UTC), limits=()).deployed()
        harness.restart().look(timedelta(hours=20))
        harness.look()
        assert titles(there)[1:] == ["how it stands"]
        assert "verified backup  tasks: 3 h ago" in there.requests[1].json["message"]


def test_who_stands_by_says_nothing_and_who_takes_over_repeats_nothing(harness: NotifierHarness) -> None:
    with recording_server() as there:
        telling(harness, there.url("/", "json")).deployed()
        other = NotifierHarness(harness.context, harness.clock, harness.order, mine=False).restart()
        note(harness, "failed", code=1)
        other.look()
        harness.look()
        other.mine = True
        other.look()
        assert titles(there)[1:] == [MISSING]


def test_a_drill_is_told_however_it_ends_but_not_before_its_failure_repeats(harness: NotifierHarness) -> None:
    with recording_server() as there:
        limits = (Limit("backup", "tasks", 1e9), Limit("drill", "local", 1e9))
        telling(harness, there.url("/", "json"), limits=limits).deployed()
        note(harness, "done", task="drill")
        harness.look()
        for wait in (2, 4, 8):
            note(harness, "failed", task="drill", code=1)
            harness.look(wait * MINUTE)
        assert titles(there)[1:] == ["the drill of tasks has proven a restore in 0.0 s"]
        harness.look(MINUTE)
        assert titles(there)[2:] == ["the drill of tasks failed 3 times in a row: the restored copy did not pass"]


def test_a_defect_is_logged_once_and_the_next_minute_comes(harness: NotifierHarness) -> None:
    woken = threading.Event()

    def broken() -> bool:
        raise ZeroDivisionError

    order = replace(harness.order, channels=parse_channels(["json://127.0.0.1:9"]))
    teller = Notifier(order, harness.context, broken, lambda: (), lambda: (), woken)
    teller.start()
    for _ in range(3):
        wait_until(lambda: not woken.is_set() and events(harness.context, "telling.failed"), "a turn")
        woken.set()
    teller.stop()
    assert events(harness.context, "telling.failed") == ["could not find out what to tell: ZeroDivisionError: "]


def test_with_nobody_to_tell_there_is_no_thread(harness: NotifierHarness) -> None:
    assert harness.teller is not None
    harness.teller.start()
    assert not harness.teller._thread.is_alive()
