"""Prove the set-up before the first night: each finding says what is wrong and what to do."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backupd.errors import BackupdError
from backupd.files import fsync_directory, write_durably
from backupd.jobs.generations import local_inventory
from backupd.jobs.inventory import Inventory
from backupd.jobs.order import BackupOrder
from backupd.jobs.site import Site
from backupd.jobs.space import bytes_needed, require_space, reserve_bytes
from backupd.jobs.words import human_bytes
from backupd.model import CLOCK_TOLERANCE
from backupd.sqlite.snapshot import probe_source
from backupd.sqlite.source import Source

# 3.53.3 can delete a hot journal without replaying it (docs/adr/0002-one-sqlite-library.md).
OLDEST_SQLITE = (3, 53, 4)
# Nothing was ever backed up by this program before it was written: an earlier clock is wrong.
_EARLIEST = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of the set-up said."""

    check: str
    ok: bool
    detail: str
    hint: str = ""


def examine(orders: tuple[BackupOrder, ...], site: Site) -> Iterator[Finding]:
    """Yield a finding for each part of the set-up, in the order in which a backup would need them."""
    yield _finding("clock", lambda: _clock(site))
    if orders:
        yield Finding("time zone", ok=True, detail=f"days are counted in {orders[0].expiry.timezone}")
    store = _finding("backups directory", lambda: _write_rename_delete(site))
    yield store
    for order in orders:
        yield from _examine_source(order, site, store_ready=store.ok)
    if store.ok:
        yield from _examine_store(orders, site)
    for warning in orders[0].warnings if orders else ():
        yield Finding("configuration", ok=False, detail=warning, hint="remove the section, or use a version that does")


def _finding(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, ok=True, detail=look())
    except BackupdError as error:
        return Finding(check, ok=False, detail=error.message, hint=error.hint)
    except OSError as error:
        return Finding(check, ok=False, detail=str(error), hint="check the path and its rights")


def _clock(site: Site) -> str:
    now = site.clock()
    if now < _EARLIEST:
        raise BackupdError(f"the clock says {now:%F %T} UTC, which is long past", "set the clock (NTP)")
    return f"{now:%F %T} UTC"


def _write_rename_delete(site: Site) -> str:
    site.store.prepare()
    name = f"doctor-{secrets.token_hex(4)}"
    first, second = site.store.hidden / f"{name}.a", site.store.hidden / f"{name}.b"
    try:
        write_durably(first, b"written, renamed and deleted by backupd doctor")
        first.rename(second)
        fsync_directory(site.store.hidden)
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
    return f"{site.store.directory}: write, fsync, rename and delete work"


def _examine_source(order: BackupOrder, site: Site, *, store_ready: bool) -> Iterator[Finding]:
    yield _finding(f"source {order.source}", lambda: _readable(order))
    if store_ready:
        yield _finding(f"space for {order.source}", lambda: _space(order, site))


def _source(order: BackupOrder) -> Source:
    return Source.inspect(order.path, allow_empty=order.allow_empty, allow_links=order.allow_links)


def _readable(order: BackupOrder) -> str:
    source = _source(order)
    seen = probe_source(source, order.settings, Path("/"))
    copier = seen["copier"]
    if tuple(int(part) for part in copier.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in OLDEST_SQLITE)
        raise BackupdError(f"SQLite {copier} has known bugs in recovery", f"install apsw {oldest} or later")
    return (
        f"{source.path}: {human_bytes(source.size_bytes)}, {seen['journal_mode']}, on {seen['filesystem']}, "
        f"uid {source.uid}, written by SQLite {seen['writer']}, readable with SQLite {copier}"
    )


def _space(order: BackupOrder, site: Site) -> str:
    source, directory = _source(order), site.store.directory
    last = local_inventory(site).last_verified(order.source)
    needed = bytes_needed(source, last, 2 if order.settings.method == "vacuum" else 1)
    reserve = reserve_bytes(directory, order.reserve_bytes)
    require_space(directory, needed, reserve, f"a backup of {order.source}")
    free = site.store.free_space()
    return f"{human_bytes(needed)} needed, {human_bytes(free)} free, {human_bytes(reserve)} kept in reserve"


def _examine_store(orders: tuple[BackupOrder, ...], site: Site) -> Iterator[Finding]:
    inventory = local_inventory(site)
    yield _catalog(site)
    yield from _generations(inventory, site)
    strays = site.store.strays()
    if strays:
        hint = "backupd never removes what it does not know; look at them, then delete them"
        yield Finding("stray files", ok=False, detail=", ".join(strays), hint=hint)
    for order in orders:
        hold = site.holds.get(order.source)
        if hold is not None:
            detail = f"pruning of {order.source} is frozen since {hold.since:%F}: {hold.reason}"
            hint = f"after a look at it: backupd prune --unfreeze --source {order.source}"
            yield Finding("rotation", ok=False, detail=detail, hint=hint)


def _catalog(site: Site) -> Finding:
    works = site.ask_catalog(lambda catalog: len(catalog.runs(limit=1)) >= 0, otherwise=False)
    if works:
        return Finding("catalog", ok=True, detail=f"{site.catalog_path} is usable")
    return Finding(
        "catalog", ok=False, detail=f"{site.catalog_path} cannot be used", hint="run backupd catalog rebuild"
    )


def _generations(inventory: Inventory, site: Site) -> Iterator[Finding]:
    ahead = [g.id for g in inventory.generations if g.taken_at - site.clock() > CLOCK_TOLERANCE]
    damaged = [g.id for g in inventory.generations if g.damaged and g.id not in inventory.refused]
    if ahead:
        hint = "set the clock; generations that lie in the future never count"
        yield Finding("generations", ok=False, detail=f"{', '.join(ahead)} lie in the future", hint=hint)
    if inventory.refused:
        hint = "their archives may still be sound: gunzip -t tells"
        yield Finding("generations", ok=False, detail="; ".join(inventory.refused.values()), hint=hint)
    if damaged:
        hint = "they never count; delete archive and manifest once nothing more is to be learnt from them"
        yield Finding("generations", ok=False, detail=f"{', '.join(damaged)} failed a check", hint=hint)
    if not (ahead or inventory.refused or damaged):
        yield Finding("generations", ok=True, detail=f"{len(inventory.generations)} in {site.store.directory}")
