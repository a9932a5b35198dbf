"""The doctor's look at a store: what lies there that somebody should know of."""

import os
from collections.abc import Iterable, Iterator

from backupd.catalog import read_catalog
from backupd.errors import BackupdError
from backupd.jobs.finding import Finding, finding
from backupd.jobs.generations import local_inventory
from backupd.jobs.inventory import Inventory
from backupd.jobs.site import Site
from backupd.jobs.words import human_bytes
from backupd.log import LOG_NAME, require_log_writable
from backupd.model import CLOCK_TOLERANCE
from backupd.spans import human_age
from backupd.sqlite.kept import KEPT_FOR


def examine_store(sources: Iterable[str], site: Site) -> Iterator[Finding]:
    """Yield a finding for each part of the store that can be used."""
    inventory = local_inventory(site)
    yield finding("catalog", lambda: _catalog(inventory, site))
    yield finding("log", lambda: _log(site))
    yield from _generations(inventory, site)
    strays = site.store.strays()
    if strays:
        hint = "backupd never removes what it does not know; look at them, then delete them"
        yield Finding("stray files", ok=False, detail=", ".join(strays), hint=hint)
    for source in sources:
        yield from _hold(source, site)
    yield from _quarantine(site)


def _catalog(inventory: Inventory, site: Site) -> str:
    path = site.catalog_path
    if not os.path.lexists(path):
        if inventory.generations:
            raise BackupdError(f"there is no catalog {path}", "run backupd catalog rebuild: it reads the manifests")
        return f"the first backup makes {path}"
    with read_catalog(path) as catalog:
        catalog.runs(limit=1)
    if not os.access(path, os.W_OK, effective_ids=True):  # SQLite would open it all the same, to read
        raise BackupdError(f"{path} cannot be written: no run will be remembered", "give it to backupd's user (chown)")
    return f"{path} is usable"


def _log(site: Site) -> str:
    require_log_writable(site.store.directory)
    return f"{site.store.directory / LOG_NAME} can be written"


def _hold(source: str, site: Site) -> Iterator[Finding]:
    hold = site.holds.get(source)
    if hold is not None:
        detail = f"pruning of {source} is frozen since {hold.since:%F}: {hold.reason}"
        hint = f"after a look at it: backupd prune --unfreeze --source {source}"
        yield Finding("rotation", ok=False, detail=detail, hint=hint)


def _quarantine(site: Site) -> Iterator[Finding]:
    now = site.clock()
    for copy in site.quarantine.copies():
        age = human_age((now - copy.since).total_seconds())
        detail = f"{copy.name} is a damaged copy, {age} old, of {human_bytes(copy.size_bytes)}"
        hint = f"read findings.txt in {copy.place}; backupd clean removes it once it is {KEPT_FOR.days} days old"
        yield Finding("quarantine", ok=False, detail=detail, hint=hint)


def _generations(inventory: Inventory, site: Site) -> Iterator[Finding]:
    ahead = [g.id for g in inventory.generations if g.taken_at - site.clock() > CLOCK_TOLERANCE]
    damaged = [g.id for g in inventory.generations if g.damaged and g.id not in inventory.refused]
    if ahead:
        hint = "set the clock; generations that lie in the future never count"
        yield Finding("generations", ok=False, detail=f"{', '.join(ahead)} lie in the future", hint=hint)
    if inventory.refused:
        hint = "; ".join(map(inventory.way_out, inventory.refused))
        yield Finding("generations", ok=False, detail="; ".join(inventory.refused.values()), hint=hint)
    if damaged:
        hint = "they never count; delete archive and manifest once nothing more is to be learnt from them"
        yield Finding("generations", ok=False, detail=f"{', '.join(damaged)} failed a check", hint=hint)
    if not (ahead or inventory.refused or damaged):
        yield Finding("generations", ok=True, detail=f"{len(inventory.generations)} in {site.store.directory}")
