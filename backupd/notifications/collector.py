"""What notifications are made from: the options, and observations of the backups and of the app; changes nothing."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from pathlib import Path
from urllib.parse import urlsplit

from backupd.catalog import CatalogUnavailable, RunRecord, read_catalog
from backupd.formatting import printable
from backupd.health import Limit
from backupd.notifications.deploy import AppVersion
from backupd.notifications.message import Channel
from backupd.notifications.planner import Observation
from backupd.pings import Monitor
from backupd.schedule import Schedule
from backupd.system.http import HttpResponse, RequestFailed, send_request
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import read_health_facts

_TIMEOUT_S = 5.0
_OK = 200
_MAX_VERSION = 100


@dataclass(frozen=True, slots=True)
class App:
    """The app whose database is backed up: where to ask for its health and its version; see `[app]`."""

    health_url: str
    version: str | None = None
    version_file: Path | None = None
    version_header: str | None = None
    version_field: str = "version"
    timeout: timedelta = timedelta(minutes=5)
    """A new version that is not healthy for so long is reported as an unhealthy deploy."""


@dataclass(frozen=True, slots=True)
class NotificationOptions:
    """What a daemon reports, and to whom."""

    scope: str
    """The first source: the daemon that holds its claim is the one that notifies."""
    name: str
    """What messages call this backupd."""
    zone: tzinfo
    subjects: frozenset[str]
    """The sources and stores that are configured."""
    limits: tuple[Limit, ...]
    channels: tuple[Channel, ...] = ()
    digest: Schedule | None = None
    """When the whole status is sent."""
    daily: Monitor | None = None
    """The monitor that is pinged on healthy days, by `daily_schedule`."""
    daily_schedule: Schedule | None = None
    app: App | None = None

    @property
    def enabled(self) -> bool:
        """Whether there is a channel or a daily monitor."""
        return bool(self.channels) or self.daily is not None


def observe(limits: Iterable[Limit], subjects: frozenset[str], context: TaskContext) -> Observation:
    """Read all that health depends on, and the last drills; raises nothing: the facts name what could not be read."""
    drills = tuple[RunRecord, ...]()
    with suppress(CatalogUnavailable), read_catalog(context.catalog_path) as catalog:
        drills = tuple(last.run for last in catalog.last_runs(context.clock()) if last.run.task == "drill")
    return Observation(read_health_facts(limits, context), subjects, drills)


def check_app(app: App) -> AppVersion:
    """Ask the app for its health and its version."""
    reply = None
    try:
        reply = send_request(app.health_url, timeout_s=_TIMEOUT_S, direct=True)
        key = urlsplit(app.health_url).query
        error = "" if reply.status == _OK else f"its health_url {reply.words(key)}"
    except RequestFailed as failed:
        error = f"its health_url: {failed}"
    version = app.version or _version_from_file(app) or (_version_from_reply(app, reply) if reply else "")
    return AppVersion("app", printable(version.strip())[:_MAX_VERSION] or None, error)


def _version_from_file(app: App) -> str:
    if app.version_file is not None:
        with suppress(OSError), app.version_file.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(_MAX_VERSION + 1)
    return ""


def _version_from_reply(app: App, reply: HttpResponse) -> str:
    if app.version_header is not None and app.version_header.lower() in reply.headers:
        return reply.headers[app.version_header.lower()]
    try:
        value = json.loads(reply.body)
        for name in app.version_field.split("."):
            value = value[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return str(value) if isinstance(value, str | int | float) else ""
