"""Make the catalog anew from the manifests."""

from backupd.catalog.rebuild import rebuild
from backupd.log import Event
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import take_inventory


def rebuild_catalog(context: TaskContext) -> int:
    """Replace the catalog by one made from the manifests of the local store; returns how many generations it has."""
    with context.exclusive_lock("rebuild"):
        context.recover()
        inventory = take_inventory(context.store, context.clock())
        count = rebuild(context.catalog_path, [(m, context.store.name) for m in inventory.manifests.values()])
    for generation, why in inventory.refused.items():
        context.log.warning(Event.MANIFEST_REFUSED, why, generation=generation, hint=inventory.way_out(generation))
    context.log.info(Event.CATALOG_REBUILT, f"catalog rebuilt from {count} manifests", generations=count)
    return count
