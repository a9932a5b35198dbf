"""Remember what a check of a generation said: as a mark in the store, which counts, and in the catalog, for history."""

import os

from backupd.archive.members import digest_of
from backupd.errors import GenerationMissing
from backupd.jobs.site import Site
from backupd.log import Event
from backupd.model import Manifest
from backupd.stores.contract import Store


def archive_matches(manifest: Manifest, store: Store) -> bool:
    """Tell whether the archive of a generation, read from the disk and not from memory, has its manifest's digest."""
    try:
        with store.open(manifest.id) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return digest_of(stream) == manifest.archive.sha256
    except (GenerationMissing, OSError):
        return False


def remember_check(generation: str, site: Site, *, sound: bool, detail: str, duration_s: float = 0.0) -> str:
    """Mark `generation` of the local store as damaged or sound; returns in words why it could not be marked."""
    if not sound:
        site.log.error(Event.GENERATION_DAMAGED, f"{generation}: {detail}", generation=generation)
    trouble = ""
    try:
        if sound:
            site.marks.clear(generation)
        else:
            site.marks.add(generation, detail)
    except OSError as error:
        mark = "sound, and still does not count" if sound else "damaged, and still counts"
        trouble = f"{generation} could not be marked as {mark}: {error.strerror}"
    now = site.clock()
    site.tell_catalog(lambda catalog: catalog.record_check(generation, site.store.name, now, sound, detail, duration_s))
    return trouble
