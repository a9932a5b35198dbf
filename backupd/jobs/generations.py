"""What is in the local store, and which of it an operator means."""

from collections.abc import Callable
from datetime import UTC, datetime

from backupd.errors import GenerationMissing, ManifestInvalid, UsageError
from backupd.jobs.inventory import Inventory, take_inventory
from backupd.jobs.site import Site
from backupd.log import Event
from backupd.model import Manifest

LATEST = "latest"
Choose = Callable[[], Manifest]


def local_inventory(site: Site) -> Inventory:
    """Read the local store, knowing what checks have found; each that is refused or lost is logged."""
    inventory = read_inventory(site)
    for generation, why in inventory.refused.items():
        site.log.warning(Event.MANIFEST_REFUSED, why, generation=generation, hint=inventory.way_out(generation))
    return inventory


def read_inventory(site: Site) -> Inventory:
    """Do the same for a run that warns of what is refused itself: nothing is logged."""
    return take_inventory(site.store, site.clock(), site.marks.ids(), site.store.lost())


def choose_generation(inventory: Inventory, wanted: str, source: str | None, at: datetime | None) -> Manifest:
    """Return the generation that an operator means: by id, `latest`, or the newest taken at or before `at`.

    Damaged ones and those dated in the future are meant by id alone. Raises GenerationMissing, ManifestInvalid;
    UsageError when it is not clear of which source.
    """
    if at is None and wanted != LATEST:
        if wanted in inventory.refused:
            hint = f"choose another generation ({inventory.listed_by}); {inventory.way_out(wanted)}"
            raise ManifestInvalid(inventory.refused[wanted], hint)
        if wanted not in inventory.manifests:
            raise GenerationMissing(f"there is no generation {wanted}", f"see {inventory.listed_by}")
        return inventory.manifests[wanted]
    names = {g.source for g in inventory.generations if inventory.counts(g)}
    if source is None and len(names) > 1:
        raise UsageError(f"which source: {', '.join(sorted(names))}?", "name it with --source")
    for generation in inventory.generations:
        fits = inventory.counts(generation) and source in (None, generation.source)
        if fits and (at is None or generation.taken_at <= at):
            return inventory.manifests[generation.id]
    raise _none_fits(inventory, source, at)


def _none_fits(inventory: Inventory, source: str | None, at: datetime | None) -> GenerationMissing:
    """Tell how a time was understood, since it may have been meant in another zone."""
    sound = [g for g in inventory.generations if inventory.counts(g) and source in (None, g.source)]
    others = ", ".join(sorted({g.source for g in inventory.generations if inventory.counts(g)}))
    if not sound and others and source is not None:
        return GenerationMissing(f"there is no sound generation of {source}, but of {others}", "name one with --source")
    if at is None or not sound:
        if not inventory.generations:
            return GenerationMissing(f"there is no generation in store {inventory.store}", inventory.way_to_fill)
        return GenerationMissing("there is no sound generation that fits", f"see {inventory.listed_by}")
    time, oldest = at.astimezone(UTC), sound[-1]
    return GenerationMissing(
        f"there is no sound generation at or before {time:%F %T} UTC; "
        f"the oldest is {oldest.id}, taken at {oldest.taken_at:%F %T} UTC",
        f"see {inventory.listed_by}; a time without a zone is one of schedule.timezone",
    )
