"""Which store and which sources a command means."""

from backupd.config import Config
from backupd.errors import UsageError
from backupd.jobs.inventory import Inventory
from backupd.model import LOCAL_STORE


def require_local(store: str, config: Config) -> None:
    """Accept the local store; raises UsageError for another, and says whether there is one of that name."""
    if store == LOCAL_STORE:
        return
    if store in config.replicas:
        raise UsageError(f"this version cannot reach the replica {store!r} yet", "use the local store")
    raise UsageError(f"there is no store {store!r}", f"the configuration ({config.origin}) has: {LOCAL_STORE}")


def require_sources(names: tuple[str, ...], config: Config, inventory: Inventory) -> None:
    """Accept sources that are configured or have left generations behind; raises UsageError for any other."""
    known = {*config.sources, *(generation.source for generation in inventory.generations)}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no source {name!r}", f"there are: {', '.join(sorted(known))}")
