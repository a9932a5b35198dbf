"""How the monitors of `[pings]` fare: noted of each ping, found by a doctor, and tried by hand."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from uuid import uuid4

from backupd.catalog import CatalogUnavailable, PingRecord, open_catalog
from backupd.health import Health
from backupd.pings.monitors import DAILY, Monitor, Ping, Signal, monitor_for
from backupd.pings.pinger import PingRecorder, deliver
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding

_CHECK = "pings"
_HINT = "check its URL under [pings], and the network between; then: backupd notify --test"


def ping_recorder(context: TaskContext) -> PingRecorder:
    """Return what counts each ping in the catalog; where there is none that works, nothing is counted."""

    def note(task: str, source: str, reason: str) -> None:
        if os.path.lexists(context.catalog_path):
            with suppress(CatalogUnavailable), open_catalog(context.catalog_path) as catalog:
                catalog.record_ping(task, source, context.clock(), reason)

    return note


def configured_pings(records: Iterable[PingRecord], addresses: Mapping[str, Monitor]) -> tuple[PingRecord, ...]:
    """Return what is known of monitors that are still configured."""
    return tuple(one for one in records if monitor_for(one.task, one.source, addresses))


def examine_pings(addresses: Mapping[str, Monitor], context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for each monitor that did not take the last ping."""
    for one in configured_pings(context.ask_catalog(lambda catalog: catalog.pings(), ()), addresses):
        if one.failing and one.failed_at:
            what = f"the last ping of {one} was not taken, at {one.failed_at:%F %T} UTC: {one.reason}"
            yield Finding(_CHECK, ok=False, detail=what, hint=_HINT)


def try_pings(addresses: Mapping[str, Monitor], health: Health) -> Iterator[Finding]:
    """Ping each monitor, in words that are true, and yield a finding for each.

    That of a healthchecks gets a line for its log, which changes nothing. Uptime Kuma knows up and down alone: it hears
    whether what it watches is within its limit.
    """
    for name, address in addresses.items():
        wrong = health.reasons if name == DAILY else tuple(_late(name, addresses, health))
        kuma = address.kind == "uptime-kuma"
        signal: Signal = ("failure" if wrong else "success") if kuma else "log"
        words = f"a test by hand: {'; '.join(wrong) or 'what is watched here is within its limit'}"
        reason = deliver(address, Ping(signal, str(uuid4()), words))
        how = ("down" if wrong else "up") if kuma else "a line for its log"
        detail = f"{name} ({address.kind}) " + (f"did not take a test: {reason}" if reason else f"took a test: {how}")
        yield Finding(_CHECK, ok=not reason, detail=detail, hint=_HINT if reason else "")


def _late(name: str, addresses: Mapping[str, Monitor], health: Health) -> Iterator[str]:
    """Say why what the monitor `name` is pinged for is not well."""
    for one in health.problems:
        of_drills = one.task == "drill" and name.startswith("drill")  # drills ping by source, their proofs are by store
        watched = of_drills or monitor_for(one.task or "", one.subject, addresses) is addresses[name]
        if one.unhealthy and watched:
            yield str(one)
