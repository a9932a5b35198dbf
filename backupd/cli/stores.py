"""Which store and which sources a command means."""

from collections.abc import Iterator
from contextlib import contextmanager

from backupd.cli.common import print_warning
from backupd.config import Config
from backupd.errors import UsageError
from backupd.jobs.adopt import adopt
from backupd.jobs.generations import local_inventory, read_inventory
from backupd.jobs.inventory import Inventory
from backupd.jobs.order import Expiry
from backupd.jobs.provenance import Claims, claims_of
from backupd.jobs.site import Site
from backupd.model import LOCAL_STORE, Manifest
from backupd.stores.contract import Archives
from backupd.wiring import expiry


@contextmanager
def opened(name: str, config: Config, site: Site) -> Iterator[tuple[Archives, Inventory]]:
    """Lend the store of that name, the local one or a replica, with all that is in it.

    Raises UsageError when there is none of that name, ReplicaUnreachable and what else connecting raises.
    """
    require_store(name, config)
    if name == LOCAL_STORE:
        yield site.store, local_inventory(site)
        return
    from backupd.replicas import opened_store  # brings paramiko, which nobody needs to look at local copies

    with opened_store(config, name, site) as found:
        yield found


def require_store(name: str, config: Config) -> None:
    """Raise UsageError when there is no store of that name."""
    if name not in (LOCAL_STORE, *config.replicas):
        known = ", ".join((LOCAL_STORE, *config.replicas))
        hint = f"the configuration ({config.origin}) has: {known}"
        if "/" in name:
            hint += "; a directory is read as a replica: BACKUPD_REPLICAS__OLD__URL=file:/PATH, and the store is old"
        raise UsageError(f"there is no store {name!r}", hint)


def default_source(source: str | None, config: Config) -> str | None:
    """Return the source that is meant: the one that is named, else the only one that is configured."""
    return source or (next(iter(config.sources)) if len(config.sources) == 1 else None)


def claims_at(
    name: str, there: Inventory, source: str | None, site: Site, *, adopting: bool = False, dry_run: bool = False
) -> Claims:
    """Return whose generations at replica `name` count as this store's own, once it was `adopting` those of others.

    A local store that cannot be read keeps nobody from a restore: nothing counts as own then, and all is usable.
    """
    try:
        here = read_inventory(site)
        claims = claims_of(here, site)
    except OSError as error:
        if adopting:
            raise
        print_warning(
            f"{site.store.directory} cannot be read ({error.strerror}): which copies are its own is not known"
        )
        return Claims(None, {}, frozenset())
    if not adopting:
        return claims
    return adopt(claims.foreign(there, source), here, there, name, site, dry_run=dry_run)


def tell_whose(manifest: Manifest, there: Inventory, claims: Claims, name: str) -> None:
    """Print of which store a generation at replica `name` is, where that is another one: after a disaster."""
    for group in claims.foreign(there, manifest.source):
        if manifest.id in group.ids:
            way_on = f"this store goes on with them after: backupd replicate --to {name} --adopt"
            print_warning(f"{name} holds {group.words(there.now)}: {way_on}")


def expiry_of(name: str, config: Config) -> Expiry:
    """Return what may stay in the store of that name."""
    if name == LOCAL_STORE:
        return expiry(config)
    from backupd.replicas import replica_order

    return replica_order(config, name).expiry


def require_sources(names: tuple[str, ...], config: Config, inventory: Inventory) -> None:
    """Accept sources that are configured or have left generations behind; raises UsageError for any other."""
    known = {*config.sources, *(generation.source for generation in inventory.generations)}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no source {name!r}", f"there are: {', '.join(sorted(known))}")
