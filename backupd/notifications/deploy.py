"""Whether a new version is well: pure, one verdict for each deploy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backupd.catalog import NoticeRecord
from backupd.formatting import human_duration
from backupd.notifications.planner import Notice, Plan, not_in_future

# An app that comes and goes is told as fallen silent no more often than this; what is silent then is told then.
APART = timedelta(hours=1)
_OVER = "over"
# Seen for less long, a version may be one of two that answer in turn while one replaces the other.
SETTLE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class AppVersion:
    """What was just seen of `name`: its version (None: it does not tell), and whether it is well, else why not."""

    name: str
    version: str | None
    trouble: str = ""


def plan_deploy(seen: AppVersion, told: Mapping[str, NoticeRecord], timeout: timedelta, now: datetime) -> Plan:
    """Decide whether there is a verdict on the version that was seen; see `is_pending` for one that is still open.

    A new version is well when it is so once it has settled, and unhealthy when it is not so within `timeout`. What is
    not well and tells no version for as long is told as well; whatever version comes after that is a new one.
    """
    plan = _plan_version(seen, told, timeout, now)
    book, silent_key = dict(plan.told), f"silent {seen.name}"
    kept = book.pop(silent_key, None)
    if seen.version is not None or not seen.trouble:
        ended = silence_ended(kept, now)
        return Plan(plan.items, {**book, silent_key: ended} if ended else book)
    silence = book[silent_key] = silence_now(kept, now)
    items, settled = plan.items, book.get(f"deploy {seen.name}")
    waits = is_pending(seen.name, book) or (settled is not None and not settled.value)  # for a version that is well
    if not items and not waits:
        item = silence_verdict(_named(seen.name, settled), seen.trouble, silence, timeout, now)
        if item is None:
            return Plan((), book)
        items, book[f"deploy {seen.name}"] = (item,), NoticeRecord("", silence.since, now)
    if items:
        book[silent_key] = replace(silence, notified_at=now)
    return Plan(items, book)


def is_pending(name: str, told: Mapping[str, NoticeRecord]) -> bool:
    """Tell whether a version of `name` was seen that there is no verdict on yet."""
    return f"deploying {name}" in told


def _plan_version(seen: AppVersion, told: Mapping[str, NoticeRecord], timeout: timedelta, now: datetime) -> Plan:
    settled_key, pending_key = f"deploy {seen.name}", f"deploying {seen.name}"
    book = dict(told)
    settled = book.get(settled_key)
    pending = not_in_future(book[pending_key], now) if pending_key in book else None
    version = seen.version or (pending.value if pending else None)
    if version is None or (settled and settled.value == version):
        book.pop(pending_key, None)
        return Plan((), book)
    if pending is None or pending.value != version:
        pending = NoticeRecord(version, now)
    book[pending_key] = pending
    item = _verdict(seen, pending, settled, timeout, now)
    if item is None:
        return Plan((), book)
    del book[pending_key]
    book[settled_key] = NoticeRecord(version, pending.since, now)
    return Plan((item,), book)


def _verdict(
    seen: AppVersion, pending: NoticeRecord, settled: NoticeRecord | None, timeout: timedelta, now: datetime
) -> Notice | None:
    age = now - pending.since
    what = _named(f"{seen.name} {pending.value}", settled)
    if not seen.trouble and age >= SETTLE:
        return Notice(
            "success", f"deploy OK: {what}", f"well {human_duration(age.total_seconds())} after it was first seen"
        )
    if seen.trouble and age >= timeout:
        detail = f"not well within {human_duration(age.total_seconds())}: {seen.trouble}"
        next_step = "look at its log; deploy the version before it again where that was well"
        return Notice("failure", f"deploy unhealthy: {what}", detail, pending.since, next_step)
    return None


def _named(what: str, settled: NoticeRecord | None) -> str:
    return f"{what} (before: {settled.value})" if settled and settled.value else what


def silence_ended(kept: NoticeRecord | None, now: datetime) -> NoticeRecord | None:
    """Return what is still to be remembered of a silence that is over: that it was told a short while ago."""
    recent = kept and kept.notified_at and now - kept.notified_at < APART
    return replace(kept, value=_OVER) if kept and recent else None


def silence_now(kept: NoticeRecord | None, now: datetime) -> NoticeRecord:
    """Return the silence that goes on: `kept`, or where that one is over one that begins `now`."""
    if kept is None or kept.value == _OVER:
        return NoticeRecord("", now, kept.notified_at if kept else None)
    return not_in_future(kept, now)


def silence_verdict(what: str, trouble: str, silence: NoticeRecord, timeout: timedelta, now: datetime) -> Notice | None:
    """Return what is to be said of `what` once it has been silent for `timeout`; each silence is told once."""
    notified_at = silence.notified_at
    if notified_at is not None and (notified_at >= silence.since or now - notified_at < APART):
        return None
    lasted = now - silence.since
    if lasted < timeout:
        return None
    detail = f"for {human_duration(lasted.total_seconds())}: {trouble}"
    next_step = "look at its log: if a deploy has not come up, deploy the version before it again"
    headline = f"deploy unhealthy: {what} tells neither that it is well nor its version"
    return Notice("failure", headline, detail, silence.since, next_step)
