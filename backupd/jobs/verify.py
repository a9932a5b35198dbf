"""Prove generations again: digests, unpacking, integrity."""

import time
from dataclasses import dataclass

from backupd.errors import CopyCorrupt, ManifestInvalid
from backupd.jobs.generations import Inventory, choose_generation
from backupd.jobs.site import Site
from backupd.jobs.unpacked import unpack_proven
from backupd.log import Event


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check of one generation in one store said."""

    id: str
    store: str
    sound: bool
    detail: str
    duration_s: float


def verify(generation: str, inventory: Inventory, workers: int, site: Site) -> CheckResult:
    """Prove one generation of the local store; damage is an answer, and is marked in the catalog.

    Raises GenerationMissing when there is none of that id (any more), which is no damage; NoSpace.
    """
    began = time.monotonic()
    detail = _prove(generation, inventory, workers, site)
    result = CheckResult(generation, site.store.name, detail == "sound", detail, round(time.monotonic() - began, 3))
    if result.sound:
        site.log.info(Event.GENERATION_VERIFIED, f"{generation} is sound", generation=generation)
    else:
        site.log.error(Event.GENERATION_DAMAGED, f"{generation}: {detail}", generation=generation)
    now = site.clock()
    site.ask_catalog(
        lambda catalog: catalog.record_check(
            generation, result.store, now, result.sound, result.detail, result.duration_s
        ),
        None,
    )
    return result


def _prove(generation: str, inventory: Inventory, workers: int, site: Site) -> str:
    try:
        manifest = choose_generation(inventory, generation, None, None)
        with site.store.staging() as staging:
            unpack_proven(manifest, site.store, staging / "snapshot.sqlite3", workers, site)
    except (CopyCorrupt, ManifestInvalid) as error:
        return error.message
    return "sound"
