"""Remember what a check of a generation said: as a mark in the store, which counts, and in the catalog, for history."""

from contextlib import suppress

from backupd.jobs.site import Site
from backupd.log import Event


def remember_check(generation: str, site: Site, *, sound: bool, detail: str, duration_s: float = 0.0) -> None:
    """Mark `generation` of the local store as damaged or sound; on a read-only store only the log could be told."""
    if not sound:
        site.log.error(Event.GENERATION_DAMAGED, f"{generation}: {detail}", generation=generation)
    with suppress(OSError):
        if sound:
            site.marks.clear(generation)
        else:
            site.marks.add(generation, detail)
    now = site.clock()
    site.ask_catalog(
        lambda catalog: catalog.record_check(generation, site.store.name, now, sound, detail, duration_s), None
    )
