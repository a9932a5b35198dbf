"""Delivery of messages and pings: what is sent to whom, and whether it arrives.

The result is recorded, checked by the doctor, and tested on request.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, tzinfo
from uuid import uuid4

from backupd.catalog import CatalogUnavailable, NotificationState, PingRecord, open_catalog
from backupd.formatting import counted, local_time
from backupd.health import Health, Limit
from backupd.notifications.apprise import Sender
from backupd.notifications.deploy import App, check_app
from backupd.notifications.message import Channel, compose_lines
from backupd.notifications.outbox import REFUSED
from backupd.pings import DAILY, Monitor, Ping, PingRecorder, Signal, monitor_for, send_ping
from backupd.runbook import DOCS_URL
from backupd.schedule import Schedule
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding

_MESSAGES = "messages"
_PINGS = "pings"
_MESSAGE_HINT = "see what the service needs at https://github.com/caronc/apprise/wiki, then run backupd notify --test"
_PING_HINT = "check its URL under [pings], and the network; then run backupd notify --test"
_TEST = ("This is a test message from backupd.", "Problems are reported here, each with what to do.")


@dataclass(frozen=True, slots=True)
class NotificationOptions:
    """What a daemon reports, and to whom."""

    scope: str  # the first source: the daemon that holds its claim is the one that notifies
    name: str  # what messages call this backupd
    zone: tzinfo
    subjects: frozenset[str]  # the sources and stores that are configured
    limits: tuple[Limit, ...]
    channels: tuple[Channel, ...] = ()
    digest: Schedule | None = None  # when the whole status is sent
    daily: Monitor | None = None  # the monitor that is pinged on healthy days, by `daily_schedule`
    daily_schedule: Schedule | None = None
    app: App | None = None
    docs_url: str = DOCS_URL  # where messages link to the runbook


def ping_recorder(context: TaskContext) -> PingRecorder:
    """Return the function that counts pings in the catalog; without a usable catalog nothing is counted."""

    def record(task: str, source: str, error: str) -> None:
        if os.path.lexists(context.catalog_path):
            with suppress(CatalogUnavailable), open_catalog(context.catalog_path) as catalog:
                catalog.record_ping(task, source, context.clock(), context.log.mask(error))

    return record


def read_pings(monitors: Mapping[str, object], context: TaskContext) -> tuple[PingRecord, ...]:
    """Return the records of what `monitors` still watch; none when the catalog cannot be read."""
    records = context.ask_catalog(lambda catalog: catalog.pings(), tuple[PingRecord, ...]())
    return tuple(one for one in records if monitor_for(one.task, one.source, monitors) is not None)


def examine_messages(scope: str, context: TaskContext, zone: tzinfo) -> Iterator[Finding]:
    """Yield a finding where messages wait because a channel refused them."""
    state = context.ask_catalog(lambda catalog: catalog.read_notification_state(scope), NotificationState())
    waiting = [one for one in state.outbox if one.attempts]
    if waiting:
        error = state.notices[REFUSED].value if REFUSED in state.notices else ""
        since = local_time(waiting[0].made_at, zone)
        what = f"{counted(len(waiting), 'message')} could not be sent yet, the oldest since {since}: {error}"
        yield Finding(_MESSAGES, ok=False, detail=what, hint=_MESSAGE_HINT)


def examine_app(app: App) -> Iterator[Finding]:
    """Yield whether the app is healthy and reports its version: without a version no deploy is noticed."""
    found = check_app(app)
    if found.error:
        yield Finding("app", ok=False, detail=found.error, hint="is it running, and is [app].health_url right?")
    elif found.version is None:
        hint = "set version, version_file, version_header or version_field under [app]: docs/messages.md"
        detail = "it is healthy but reports no version, so its deploys go unnoticed"
        yield Finding("app", ok=False, detail=detail, hint=hint)
    else:
        yield Finding("app", ok=True, detail=f"it is healthy, version {found.version}")


def examine_pings(monitors: Mapping[str, object], context: TaskContext, zone: tzinfo) -> Iterator[Finding]:
    """Yield a finding for each monitor that refused the last ping."""
    for one in read_pings(monitors, context):
        if one.failing and one.failed_at:
            what = f"the last ping of {one} failed at {local_time(one.failed_at, zone)}: {one.reason}"
            yield Finding(_PINGS, ok=False, detail=what, hint=_PING_HINT)


def try_channels(channels: tuple[Channel, ...], name: str, now: datetime) -> Iterator[Finding]:
    """Send a test message to each channel, and yield a finding for each."""
    message = compose_lines(_TEST, "test message", name, now)
    for channel, error in Sender().send(message, channels).items():
        detail = f"{channel.masked} {f'refused the test message: {error}' if error else 'accepted a test message'}"
        yield Finding(_MESSAGES, ok=not error, detail=detail, hint=_MESSAGE_HINT if error else "")


def try_pings(monitors: Mapping[str, Monitor], health: Health) -> Iterator[Finding]:
    """Ping each monitor without raising a false alarm, and yield a finding for each.

    A healthchecks monitor gets a line for its log, which does not change its state. Uptime Kuma knows only up and down:
    it gets whether what it watches is within its limit.
    """
    for name, monitor in monitors.items():
        problems = health.reasons if name == DAILY else tuple(_problems_of(name, monitors, health))
        kuma = monitor.kind == "uptime-kuma"
        signal: Signal = ("failure" if problems else "success") if kuma else "log"
        summary = f"a manual test: {'; '.join(problems) or 'what is watched here is within its limit'}"
        error = send_ping(monitor, Ping(signal, str(uuid4()), summary))
        effect = ("down" if problems else "up") if kuma else "a line for its log"
        detail = f"{name} ({monitor.kind}) " + (f"refused a test: {error}" if error else f"accepted a test: {effect}")
        yield Finding(_PINGS, ok=not error, detail=detail, hint=_PING_HINT if error else "")


def _problems_of(name: str, monitors: Mapping[str, Monitor], health: Health) -> Iterator[str]:
    """Yield the unhealthy problems of what the monitor `name` watches."""
    for one in health.problems:
        of_drills = one.task == "drill" and name.startswith("drill")  # pings of drills are by source, limits by store
        watched = of_drills or monitor_for(one.task or "", one.subject, monitors) is monitors[name]
        if one.unhealthy and watched:
            yield str(one)
