"""Make the catalog anew from the manifests."""

from backupd.catalog.rebuild import rebuild
from backupd.log import Event
from backupd.tasks.context import Site
from backupd.tasks.inventory import take_inventory


def rebuild_catalog(site: Site) -> int:
    """Replace the catalog by one made from the manifests of the local store; returns how many generations it has."""
    with site.locked("rebuild"):
        inventory = take_inventory(site.store, site.clock())
        count = rebuild(site.catalog_path, [(m, site.store.name) for m in inventory.manifests.values()])
    for generation, why in inventory.refused.items():
        site.log.warning(Event.MANIFEST_REFUSED, why, generation=generation, hint=inventory.way_out(generation))
    site.log.info(Event.CATALOG_REBUILT, f"catalog rebuilt from {count} manifests", generations=count)
    return count
