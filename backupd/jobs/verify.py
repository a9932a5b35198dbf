"""Prove generations again: digests, unpacking, integrity."""

import time
from dataclasses import dataclass

from backupd.errors import CopyCorrupt, ManifestInvalid
from backupd.jobs.checks import remember_check
from backupd.jobs.generations import choose_generation
from backupd.jobs.inventory import Inventory
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


def verify(generation: str, inventory: Inventory, workers: int, site: Site, *, reserve_bytes: int = 0) -> CheckResult:
    """Prove one generation of the local store; damage is an answer, and is marked in the store.

    At least `reserve_bytes` stay free. Raises NoSpace, and GenerationMissing when there is none of that id (any more),
    which is no damage.
    """
    began = time.monotonic()
    detail = _prove(generation, inventory, workers, site, reserve_bytes)
    result = CheckResult(generation, site.store.name, detail == "sound", detail, round(time.monotonic() - began, 3))
    if result.sound:
        site.log.info(Event.GENERATION_VERIFIED, f"{generation} is sound", generation=generation)
    remember_check(generation, site, sound=result.sound, detail=detail, duration_s=result.duration_s)
    return result


def _prove(generation: str, inventory: Inventory, workers: int, site: Site, reserve_bytes: int) -> str:
    try:
        manifest = choose_generation(inventory, generation, None, None)
        with site.store.staging() as staging:
            unpack_proven(manifest, site.store, staging / "snapshot.sqlite3", workers, site, reserve_bytes)
    except (CopyCorrupt, ManifestInvalid) as error:
        return error.message
    return "sound"
