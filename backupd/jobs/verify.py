"""Prove generations again: digests, unpacking, integrity."""

import time
from dataclasses import dataclass, replace

from backupd.errors import CopyCorrupt, GenerationMissing, ManifestInvalid
from backupd.jobs.checks import remember_check
from backupd.jobs.generations import choose_generation
from backupd.jobs.inventory import Inventory
from backupd.jobs.site import Site
from backupd.jobs.space import reserve_bytes
from backupd.jobs.unpacked import unpack_proven
from backupd.jobs.workplace import workplace
from backupd.log import Event
from backupd.stores.contract import Archives


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check of one generation in one store said; `warning` when it could not be marked there."""

    id: str
    store: str
    sound: bool
    detail: str
    duration_s: float
    warning: str = ""


def verify(
    generation: str,
    inventory: Inventory,
    workers: int,
    site: Site,
    *,
    reserve: int | None = 0,
    store: Archives | None = None,
) -> CheckResult:
    """Prove one generation of `store` (None: the local one); damage is an answer, and is marked where that can be.

    It is unpacked in a `workplace`, where at least `reserve` bytes stay free (None: as `reserve_bytes` says). Raises
    NoSpace, and GenerationMissing when there is none of that id (any more), which is no damage.
    """
    began = time.monotonic()
    store = store or site.store
    detail = _prove(generation, inventory, workers, site, reserve, store)
    result = CheckResult(generation, store.name, detail == "sound", detail, round(time.monotonic() - began, 3))
    if result.sound:
        site.log.info(Event.GENERATION_VERIFIED, f"{generation} is sound", generation=generation, store=store.name)
    warning = remember_check(
        generation, site, sound=result.sound, detail=detail, duration_s=result.duration_s, store=store.name
    )
    return replace(result, warning=warning)


def _prove(
    generation: str, inventory: Inventory, workers: int, site: Site, reserve: int | None, store: Archives
) -> str:
    try:
        manifest = choose_generation(inventory, generation, None, None)
        with workplace(site) as place:
            kept_free = reserve_bytes(place, reserve)
            unpack_proven(manifest, store, place / "snapshot.sqlite3", workers, site, kept_free)
    except (CopyCorrupt, ManifestInvalid) as error:
        return error.message
    except GenerationMissing:
        if store is site.store and site.store.taken(generation):
            return "its archive is gone"
        raise
    return "sound"
