"""Whether a new version is well: pure, one verdict for each deploy."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.catalog import Told
from backupd.spans import human_span
from backupd.told.plan import Item, Plan, believed

# Seen for less long, a version may be one of two that answer in turn while one replaces the other.
SETTLE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was just seen of `name`: its version (None: it does not tell), and whether it is well, else why not."""

    name: str
    version: str | None
    trouble: str = ""


def plan_deploy(seen: Seen, told: Mapping[str, Told], timeout: timedelta, now: datetime) -> Plan:
    """Decide whether there is a verdict on the version that was seen; see `is_pending` for one that is still open.

    A new version is well when it is so once it has settled, and unhealthy when it is not so within `timeout`.
    """
    settled_key, pending_key = f"deploy {seen.name}", f"deploying {seen.name}"
    book = dict(told)
    settled = book.get(settled_key)
    pending = believed(book[pending_key], now) if pending_key in book else None
    version = seen.version or (pending.value if pending else None)
    if version is None or (settled and settled.value == version):
        book.pop(pending_key, None)
        return Plan((), book)
    if pending is None or pending.value != version:
        pending = Told(version, now)
    book[pending_key] = pending
    item = _verdict(seen, pending, settled, timeout, now)
    if item is None:
        return Plan((), book)
    del book[pending_key]
    book[settled_key] = Told(version, pending.since, now)
    return Plan((item,), book)


def is_pending(name: str, told: Mapping[str, Told]) -> bool:
    """Tell whether a version of `name` was seen that there is no verdict on yet."""
    return f"deploying {name}" in told


def _verdict(seen: Seen, pending: Told, settled: Told | None, timeout: timedelta, now: datetime) -> Item | None:
    age = now - pending.since
    what = f"{seen.name} {pending.value}" + (f" (before: {settled.value})" if settled else "")
    if not seen.trouble and age >= SETTLE:
        return Item("success", f"deploy OK: {what}", f"well {human_span(age.total_seconds())} after it was first seen")
    if seen.trouble and age >= timeout:
        detail = f"not well within {human_span(age.total_seconds())}: {seen.trouble}"
        next_step = "look at its log; deploy the version before it again where that was well"
        return Item("failure", f"deploy unhealthy: {what}", detail, pending.since, next_step)
    return None
