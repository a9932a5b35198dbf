"""Looks at what there may be to tell of; changes nothing."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from backupd.catalog import CatalogUnavailable, RunRecord, read_catalog
from backupd.formatting import printable
from backupd.health import Limit
from backupd.notifications.deploy import AppVersion
from backupd.notifications.problems import Observation
from backupd.system.http import HttpResponse, RequestFailed, send_request
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import read_health_facts

_ANSWER_S = 5.0
_OK = 200
_LONGEST_VERSION = 100


@dataclass(frozen=True, slots=True)
class App:
    """The app beside: where it tells whether it is well, and where its version is told; see `[app]`."""

    health_url: str
    version: str | None = None
    version_file: Path | None = None
    version_header: str | None = None
    version_field: str = "version"
    timeout: timedelta = timedelta(minutes=5)


def observe(limits: Iterable[Limit], subjects: frozenset[str], context: TaskContext) -> Observation:
    """Look at all that health depends on, and at the last drills; raises nothing: what could not be seen is named."""
    drills = tuple[RunRecord, ...]()
    with suppress(CatalogUnavailable), read_catalog(context.catalog_path) as catalog:
        drills = tuple(last.run for last in catalog.last_runs(context.clock()) if last.run.task == "drill")
    return Observation(read_health_facts(limits, context), subjects, drills)


def check_app(app: App) -> AppVersion:
    """Ask the app whether it is well and which version it has."""
    reply = None
    try:
        reply = send_request(app.health_url, timeout_s=_ANSWER_S, direct=True)
        key = urlsplit(app.health_url).query
        trouble = "" if reply.status == _OK else f"its health_url {reply.words(key)}"
    except RequestFailed as error:
        trouble = f"its health_url: {error}"
    version = app.version or _from_file(app) or (_from_reply(app, reply) if reply else "")
    return AppVersion("app", printable(version.strip())[:_LONGEST_VERSION] or None, trouble)


def _from_file(app: App) -> str:
    if app.version_file is not None:
        with suppress(OSError), app.version_file.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(_LONGEST_VERSION + 1)
    return ""


def _from_reply(app: App, reply: HttpResponse) -> str:
    if app.version_header is not None and app.version_header.lower() in reply.headers:
        return reply.headers[app.version_header.lower()]
    try:
        value = json.loads(reply.body)
        for name in app.version_field.split("."):
            value = value[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return str(value) if isinstance(value, str | int | float) else ""
