"""What is known of a site: how old the last proofs are, and which sources are frozen."""

import os
from collections.abc import Iterable
from datetime import datetime

from backupd.catalog import CatalogUnavailable, read_catalog
from backupd.health import STORE_UNREADABLE, HealthFacts, Limit, Standing
from backupd.jobs.inventory import Inventory, take_inventory
from backupd.jobs.site import Site


def read_health_facts(limits: Iterable[Limit], site: Site, inventory: Inventory | None = None) -> HealthFacts:
    """Read how old each proof is that has a limit, and which sources are frozen; `inventory` is read where not given.

    Changes nothing, and raises nothing: what could not be found out is named.
    """
    limits = tuple(limits)
    try:
        return health_facts(limits, inventory or present_inventory(site), site)
    except OSError:
        standings = (Standing(limit.task, limit.subject, None, limit.limit_s) for limit in limits)
        return HealthFacts(tuple(standings), unknown=(STORE_UNREADABLE,))


def present_inventory(site: Site) -> Inventory:
    """Return what the local store holds; one that is not there is no empty one. Raises OSError."""
    with os.scandir(site.store.directory):
        return take_inventory(site.store, site.clock(), site.marks.ids(), site.store.lost())


def health_facts(limits: Iterable[Limit], inventory: Inventory, site: Site) -> HealthFacts:
    """Return the same, given what is in the store. Raises OSError."""
    limits = tuple(limits)
    sources = [limit.subject for limit in limits if limit.task == "backup"]
    standings = [
        Standing(limit.task, limit.subject, _last_at(limit, sources, inventory, site), limit.limit_s)
        for limit in limits
    ]
    holds = (site.holds.get(standing.subject) for standing in standings if standing.task == "backup")
    return HealthFacts(tuple(standings), tuple(hold for hold in holds if hold is not None))


def _last_at(limit: Limit, sources: Iterable[str], inventory: Inventory, site: Site) -> datetime | None:
    """Return when there was the last proof."""
    if limit.task == "backup":
        return last_proof(limit.subject, inventory, site)
    if limit.task == "drill":
        return _last_drill(limit.subject, sources, inventory.now, site)
    return _last_copy(limit.subject, inventory, site) if limit.task == "replicate" else None


def _last_drill(store: str, sources: Iterable[str], now: datetime, site: Site) -> datetime | None:
    """Return since when every source has been restored from `store`; None where one never was."""
    try:
        with read_catalog(site.catalog_path) as catalog:
            runs = [catalog.last_success("drill", source, now, store) for source in sources]
    except CatalogUnavailable:
        return None
    proofs = [run.started_at for run in runs if run is not None]
    return min(proofs, default=None) if len(proofs) == len(runs) else None


def _last_copy(replica: str, inventory: Inventory, site: Site) -> datetime | None:
    """Return as of when a replica holds every source: when all that was wanted was there, and no later than its proof.

    None where it was never so.
    """
    try:
        with read_catalog(site.catalog_path) as catalog:
            run = catalog.last_success("replicate", replica, inventory.now)
    except CatalogUnavailable:
        return None
    if run is None:
        return None
    proofs = (last_proof(source, inventory, site) for source in {g.source for g in inventory.generations})
    return min((run.started_at, *(proof for proof in proofs if proof is not None)))


def last_proof(source: str, inventory: Inventory, site: Site) -> datetime | None:
    """Return when `source` was last known to be held, digest for digest, by a generation that still counts.

    That is when the newest such generation was taken, or when a later run found that nothing had changed since.
    """
    newest = inventory.last_verified(source)
    if newest is None:
        return None
    try:
        with read_catalog(site.catalog_path) as catalog:
            run = catalog.last_success("backup", source, inventory.now)
    except CatalogUnavailable:
        return newest.taken_at
    if run is None or run.generation != newest.id:
        return newest.taken_at
    return max(newest.taken_at, run.started_at)
