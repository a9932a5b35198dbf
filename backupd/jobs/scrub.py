"""Scrub: digest anew, a generation a day, what lies on the disk, so that rot is found while other copies are sound."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from backupd.errors import CopyCorrupt, GenerationMissing
from backupd.jobs.checks import examine_archive, remember_check
from backupd.jobs.generations import local_inventory
from backupd.jobs.run import Run, recorded
from backupd.jobs.site import Site
from backupd.model import Generation, Manifest, RunReport


def choose_for_scrub(generations: Iterable[Generation], checked: Mapping[str, datetime]) -> Generation | None:
    """Return the generation that was left unchecked for longest; one never checked was last checked when made.

    Those that are known to be damaged are passed over.
    """
    sound = (generation for generation in generations if generation.verified)
    return min(sound, key=lambda g: (checked.get(g.id, g.taken_at), g.id), default=None)


def scrub(source: str, site: Site) -> RunReport:
    """Read the archive of one generation of `source` back from the disk, and compare its digest with the manifest.

    Damage is marked in the store, and fails the run; so does an archive that cannot be read, which is not marked.
    """
    with recorded("scrub", source, site) as run:
        run.started()
        checked = site.ask_catalog(lambda catalog: catalog.last_checks(site.store.name), dict[str, datetime]())
        inventory = local_inventory(site)
        left = list(inventory.of(source))
        while (chosen := choose_for_scrub(left, checked)) is not None:
            try:
                _examine(inventory.manifests[chosen.id], run, site)
            except GenerationMissing:  # pruned since: another one
                left.remove(chosen)
            else:
                return run.report
        run.note("there is no generation to check yet")
    return run.report


def _examine(manifest: Manifest, run: Run, site: Site) -> None:
    with run.stage("digest"):
        found = examine_archive(manifest, site.store)
    run.update(generation=manifest.id)
    if found.sound or found.damaged:
        duration_s = run.report.stages["digest"]
        remember_check(manifest.id, site, sound=found.sound, detail=found.detail, duration_s=duration_s)
    if not found.sound:
        raise CopyCorrupt(f"{manifest.id}: {found.detail}", "check its rights, and test the disk (smartctl, dmesg)")
