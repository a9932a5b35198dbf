"""What is known of a site: how old the last proofs are, what the store holds, and what became of each task."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from backupd.catalog import CatalogUnavailable, read_catalog
from backupd.health import HealthFacts, Standing
from backupd.jobs.inventory import Inventory, take_inventory
from backupd.jobs.site import Site


def read_health_facts(limits: Mapping[str, timedelta], site: Site) -> HealthFacts:
    """Read how old the last verified backup of each source is, and which sources are frozen.

    `limits` says by source how old a backup may be. Changes nothing, and raises nothing: what could not be found out
    is named.
    """
    try:
        inventory = take_inventory(site.store, site.clock(), site.marks.ids())
        holds = tuple(hold for source in limits if (hold := site.holds.get(source)) is not None)
    except OSError:
        standings = tuple(Standing("backup", source, None, limit.total_seconds()) for source, limit in limits.items())
        return HealthFacts(standings, unknown=("the directory of the backups cannot be read",))
    standings = tuple(
        Standing("backup", source, last_proof(source, inventory, site), limit.total_seconds())
        for source, limit in limits.items()
    )
    return HealthFacts(standings, holds)


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
    held = run is not None and run.generation == newest.id
    return max(newest.taken_at, run.started_at) if run is not None and held else newest.taken_at
