"""Notifies people: once a minute it observes, decides, saves the messages, and sends them; once a day it pings.

It has a thread of its own: neither the scheduler nor a run waits for a service that hangs.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import uuid4

from backupd import __version__
from backupd.catalog import CatalogUnavailable, NoticeRecord, NotificationState, RunRecord, read_catalog
from backupd.health import Health, Limit
from backupd.log import Event
from backupd.notifications.apprise import Sender
from backupd.notifications.delivery import NotificationOptions, ping_recorder
from backupd.notifications.deploy import AppVersion, check_app, is_pending, plan_deploy
from backupd.notifications.message import Message, compose, compose_lines
from backupd.notifications.outbox import Outbox, outbox_message
from backupd.notifications.planner import Observation, facts_of, not_in_future, plan_digest, plan_notices
from backupd.pings import DAILY, Monitor, Ping, Pinger
from backupd.schedule import Schedule, TaskHistory, plan_next_run
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import read_health_facts

INTERVAL_S: Final = 60.0
# While a deploy has no verdict, and while another daemon may hold the claim on the source.
_SHORT_INTERVAL_S: Final = 5.0
_OWN_DEPLOY_TIMEOUT: Final = timedelta(minutes=5)
_DAILY_KEY: Final = "daily ping"
_MAX_FAILURES: Final = 10


class Notifier:
    """Reports what `options` ask for, while `is_owner` says that this daemon is responsible for the sources.

    `errors` returns why the daemon does not work, `digest` the lines of the whole status; setting `wake` makes it run
    at once.
    """

    def __init__(
        self,
        options: NotificationOptions,
        context: TaskContext,
        is_owner: Callable[[], bool],
        is_free: Callable[[str], bool],
        errors: Callable[[], tuple[str, ...]],
        digest: Callable[[], tuple[str, ...]],
        wake: threading.Event,
        sender: Sender | None = None,
    ) -> None:
        self._options, self._context, self._is_owner = options, context, is_owner
        self._errors, self._digest, self._wake, self._sender = errors, digest, wake, sender or Sender()
        self._outbox = Outbox(options.scope, options.subjects, is_free, context)
        self._daily: DailyPing | None = None
        if options.daily is not None and options.daily_schedule is not None:
            pinger = Pinger({}, context.log, ping_recorder(context))
            self._daily = DailyPing(options.daily, options.daily_schedule, pinger)
        self._stopping = False
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Start the thread, where there is a channel or a daily monitor."""
        if self._options.channels or self._options.daily:
            self._thread.start()

    def stop(self) -> None:
        """Send nothing more; a message whose sending is cut short is sent again at the next start."""
        self._stopping = True
        self._sender.stop()
        self._wake.set()

    def run_once(self) -> float:
        """Observe, decide, save, and send what is due; return after how many seconds to do so again."""
        if not self._is_owner():
            self._outbox.unload()
            return _SHORT_INTERVAL_S
        state = self._outbox.load()
        if state is None:
            return INTERVAL_S
        observation = observe(self._options.limits, self._options.subjects, self._context)
        if self._options.channels:
            self._outbox.save(self._with_new_messages(state, observation))
            self._outbox.send_due(self._options.channels, self._sender)
            state = self._outbox.state or state
        if self._daily is not None:
            record = self._daily.ping(Health.of(observation.health, self._context.clock()), state.notices)
            self._outbox.save(NotificationState(record, state.outbox))
        pending = any(is_pending(name, state.notices) for name in ("backupd", "app"))
        return _SHORT_INTERVAL_S if pending else INTERVAL_S

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._wake.wait(self._run_safely())

    def _run_safely(self) -> float:
        try:
            return self.run_once()
        except Exception as error:  # noqa: BLE001 - the thread must survive any defect
            self._log_defect(f"notifications failed: {type(error).__name__}: {error}")
            return INTERVAL_S

    def _log_defect(self, what: str) -> None:
        if what != self._last_error and not self._stopping:
            self._context.log.error(Event.NOTIFICATION_FAILED, what, hint="report this with backup.log")
        self._last_error = what

    def _with_new_messages(self, state: NotificationState, observation: Observation) -> NotificationState:
        """Return `state` with the messages that are to be sent now in its outbox."""
        options, now = self._options, self._context.clock()
        plan = plan_notices(facts_of(observation, now), state.notices, now)
        messages = list[Message]()
        if plan.notices:
            messages.append(compose(plan.notices, options.name, options.zone, now, options.docs_url))
        record = plan.record
        for app, timeout in self._versions():
            plan = plan_deploy(app, record, timeout, now)
            record = plan.record
            messages += [compose((one,), options.name, options.zone, now, options.docs_url) for one in plan.notices]
        if options.digest is not None:
            due, record = plan_digest(options.digest, record, now)
            if due:
                messages.append(compose_lines(self._digest(), "status", options.name, now))
        new = (outbox_message(self._context.log.mask.of(message), options.channels, now) for message in messages)
        return NotificationState(record, (*state.outbox, *new))

    def _versions(self) -> list[tuple[AppVersion, timedelta]]:
        versions = [(AppVersion("backupd", __version__, "; ".join(self._errors())), _OWN_DEPLOY_TIMEOUT)]
        if self._options.app is not None:
            answer = self._context.log.mask.of(check_app(self._options.app))
            versions.append((answer, self._options.app.timeout))
        return versions


def observe(limits: Iterable[Limit], subjects: frozenset[str], context: TaskContext) -> Observation:
    """Read all that health depends on, and the last drills; raises nothing: the facts name what could not be read."""
    drills = tuple[RunRecord, ...]()
    with suppress(CatalogUnavailable), read_catalog(context.catalog_path) as catalog:
        drills = tuple(last.run for last in catalog.last_runs(context.clock()) if last.run.task == "drill")
    return Observation(read_health_facts(limits, context), subjects, drills)


class DailyPing:
    """Pings `monitor` by `schedule` while everything is healthy, later the same day where it is healthy only then."""

    def __init__(self, monitor: Monitor, schedule: Schedule, pinger: Pinger) -> None:
        self._monitor, self._schedule, self._pinger = monitor, schedule, pinger
        self._failed = TaskHistory()

    def ping(self, health: Health, record: Mapping[str, NoticeRecord]) -> Mapping[str, NoticeRecord]:
        """Ping if it is due and everything is healthy, again after a failure; return the new record."""
        now = health.checked_at
        last = not_in_future(record[_DAILY_KEY], now) if _DAILY_KEY in record else NoticeRecord("", now)
        history = replace(self._failed, succeeded_at=last.notified_at)
        if not health.healthy or plan_next_run(self._schedule, history, now).at > now:
            return record
        checked = ", ".join(f"{one.task} {one.subject}" for one in health.freshness)
        ping = Ping("success", str(uuid4()), f"everything is within its limits: {checked}")
        if not self._pinger.send(self._monitor, ping, DAILY):
            self._failed = TaskHistory(None, (*self._failed.failed_at, now)[-_MAX_FAILURES:])
            return record
        self._failed = TaskHistory()
        return {**record, _DAILY_KEY: replace(last, notified_at=now)}
