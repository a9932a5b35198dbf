"""Scrub: digest anew, a generation a day, what lies on the disk, so that rot is found while other copies are sound."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from backupd.errors import CopyCorrupt
from backupd.jobs.checks import archive_matches, remember_check
from backupd.jobs.generations import local_inventory
from backupd.jobs.run import recorded
from backupd.jobs.site import Site
from backupd.model import Generation, RunReport

_DAMAGED = "its archive is damaged: the SHA-256 is not the one in its manifest"


def choose_for_scrub(generations: Iterable[Generation], checked: Mapping[str, datetime]) -> Generation | None:
    """Return the generation that was left unchecked for longest; one never checked was last checked when made.

    Those that are known to be damaged are passed over.
    """
    sound = (generation for generation in generations if generation.verified)
    return min(sound, key=lambda g: (checked.get(g.id, g.taken_at), g.id), default=None)


def scrub(source: str, site: Site) -> RunReport:
    """Read the archive of one generation of `source` back from the disk, and compare its digest with the manifest.

    Damage is marked in the store, and fails the run.
    """
    with recorded("scrub", source, site) as run:
        run.started()
        inventory = local_inventory(site)
        checked = site.ask_catalog(lambda catalog: catalog.last_checks(site.store.name), dict[str, datetime]())
        chosen = choose_for_scrub(inventory.of(source), checked)
        if chosen is None:
            run.note("there is no generation to check yet")
            return run.report
        run.update(generation=chosen.id)
        with run.stage("digest"):
            sound = archive_matches(inventory.manifests[chosen.id], site.store)
        detail = "digest is right" if sound else _DAMAGED
        remember_check(chosen.id, site, sound=sound, detail=detail, duration_s=run.report.stages["digest"])
        if not sound:
            raise CopyCorrupt(f"{chosen.id}: {_DAMAGED}", "test the disk (smartctl); backupd list shows what is sound")
    return run.report
