"""Whether a new version of the app works: the app is asked, and one verdict is decided for each deploy."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from backupd.catalog import NoticeRecord
from backupd.errors import TargetRefused
from backupd.formatting import human_duration, printable
from backupd.notifications.planner import Notice, Plan, not_in_future
from backupd.system.http import HttpRequest, HttpResponse, RequestFailed, send_request
from backupd.system.links import reach

# Outages of an app that fails again and again are reported no more often than this.
OUTAGE_INTERVAL = timedelta(hours=1)
# A version that was seen for less time may be one of two that answer in turn while one replaces the other.
SETTLE_TIME = timedelta(seconds=10)
_ENDED = "ended"
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
    timeout: timedelta = timedelta(minutes=5)  # a new version that is not healthy by then is an unhealthy deploy


@dataclass(frozen=True, slots=True)
class AppVersion:
    """What an app or backupd itself just reported."""

    name: str
    version: str | None  # None where it reports none
    error: str = ""  # why it is not healthy; empty when it is


def check_app(app: App) -> AppVersion:
    """Ask the app for its health and its version."""
    reply = None
    try:
        reply = send_request(HttpRequest(app.health_url), timeout_s=_TIMEOUT_S, direct=True)
        key = urlsplit(app.health_url).query
        error = "" if reply.status == _OK else f"its health_url {reply.words(key)}"
    except RequestFailed as failed:
        error = f"its health_url: {failed}"
    version = app.version or _version_from_file(app) or (_version_from_reply(app, reply) if reply else "")
    return AppVersion("app", printable(version.strip())[:_MAX_VERSION] or None, error)


def _version_from_file(app: App) -> str:
    """Return the first line of the file, which the app may have replaced by a link to a file that it may not read."""
    if app.version_file is not None:
        with suppress(OSError, TargetRefused):
            directory, name = reach(app.version_file.absolute())
            with directory:
                return directory.read(name).decode(errors="replace").partition("\n")[0]
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


def plan_deploy(app: AppVersion, record: Mapping[str, NoticeRecord], timeout: timedelta, now: datetime) -> Plan:
    """Decide whether there is a verdict on the version that `app` reports; `is_pending` tells of one still to come.

    A new version is OK when it is healthy after `SETTLE_TIME`, and unhealthy when it is not within `timeout`. An app
    that for `timeout` neither is healthy nor reports a version is unhealthy too; the next version it reports is new.
    """
    plan = _plan_version(app, record, timeout, now)
    new, outage_key, deploy_key = dict(plan.record), f"outage {app.name}", f"deploy {app.name}"
    known = new.pop(outage_key, None)
    if app.version is not None or not app.error:
        recent = known and known.notified_at and now - known.notified_at < OUTAGE_INTERVAL
        return Plan(plan.notices, {**new, outage_key: replace(known, value=_ENDED)} if known and recent else new)
    outage = new[outage_key] = _continued(known, now)
    notices, verdict = plan.notices, new.get(deploy_key)
    awaited = is_pending(app.name, new) or (verdict is not None and not verdict.value)  # a healthy version is due
    if not notices and not awaited and _is_due(outage, timeout, now):
        detail = f"for {human_duration((now - outage.since).total_seconds())}: {app.error}"
        headline = f"deploy unhealthy: {_with_previous(app.name, verdict)} does not answer its health check"
        next_step = "look at its log; if a deploy has failed, deploy the previous version again"
        notices = (Notice("failure", headline, detail, outage.since, next_step),)
        new[deploy_key] = NoticeRecord("", outage.since, now)
    if notices:
        new[outage_key] = replace(outage, notified_at=now)
    return Plan(notices, new)


def is_pending(name: str, record: Mapping[str, NoticeRecord]) -> bool:
    """Return whether a version of `name` was seen that has no verdict yet."""
    return f"deploying {name}" in record


def _plan_version(app: AppVersion, record: Mapping[str, NoticeRecord], timeout: timedelta, now: datetime) -> Plan:
    verdict_key, pending_key = f"deploy {app.name}", f"deploying {app.name}"
    new = dict(record)
    verdict = new.get(verdict_key)
    pending = not_in_future(new[pending_key], now) if pending_key in new else None
    version = app.version or (pending.value if pending else None)
    if version is None or (verdict and verdict.value == version):
        new.pop(pending_key, None)
        return Plan((), new)
    if pending is None or pending.value != version:
        pending = NoticeRecord(version, now)
    new[pending_key] = pending
    notice = _verdict(app, pending, verdict, timeout, now)
    if notice is None:
        return Plan((), new)
    del new[pending_key]
    new[verdict_key] = NoticeRecord(version, pending.since, now)
    return Plan((notice,), new)


def _verdict(
    app: AppVersion, pending: NoticeRecord, last: NoticeRecord | None, timeout: timedelta, now: datetime
) -> Notice | None:
    age = now - pending.since
    took, what = human_duration(age.total_seconds()), _with_previous(f"{app.name} {pending.value}", last)
    if not app.error and age >= SETTLE_TIME:
        return Notice("success", f"deploy OK: {what}", f"healthy {took} after it was first seen")
    if app.error and age >= timeout:
        detail = f"not healthy within {took}: {app.error}"
        next_step = "look at its log; deploy the previous version again if that was healthy"
        return Notice("failure", f"deploy unhealthy: {what}", detail, pending.since, next_step)
    return None


def _with_previous(what: str, verdict: NoticeRecord | None) -> str:
    return f"{what} (before: {verdict.value})" if verdict and verdict.value else what


def _continued(known: NoticeRecord | None, now: datetime) -> NoticeRecord:
    """Return the outage that goes on: `known`, or a new one where that has ended."""
    if known is None or known.value == _ENDED:
        return NoticeRecord("", now, known.notified_at if known else None)
    return not_in_future(known, now)


def _is_due(outage: NoticeRecord, timeout: timedelta, now: datetime) -> bool:
    """Return whether `outage` has lasted for `timeout` and is not reported yet."""
    last = outage.notified_at
    reported = last is not None and (last >= outage.since or now - last < OUTAGE_INTERVAL)
    return not reported and now - outage.since >= timeout
