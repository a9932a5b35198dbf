"""Scrub: read back from the disk what was not read for the longest time, so that damage is found while copies are left.

A run reads the archive of one generation, and of a set of files a share of the contents that its generations need.
Before that, a damaged generation of a set is verified again whose contents a later backup has stored again.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from backupd.archive.content import unpacked
from backupd.archive.file_list import MAX_LINE_BYTES, contents_in, decode_entries
from backupd.errors import ContentMissing, CopyCorrupt, GenerationMissing
from backupd.formatting import counted
from backupd.model import AnyManifest, FilesManifest, Generation
from backupd.report import RunDetails, RunReport
from backupd.stores.local import DirectoryStore
from backupd.system.os_errors import os_error_text
from backupd.tasks.contents_check import ContentsCheck
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.inventory import Inventory
from backupd.tasks.run import Run
from backupd.tasks.verify import MOST_NAMED, digest_archive, named_files, record_verification, verify

_SHARES: Final = 29  # less than the days of a month, and a prime: each has its turn, also in a scrub once a week


def scrub(source: str, context: TaskContext) -> RunReport[RunDetails]:
    """Read the archive of one generation of `source` back from the disk, and of a set of files a share of its contents.

    Damage is marked in the store, and fails the run; so does an archive that cannot be read, which is not marked.
    """
    with context.run("scrub", source, RunDetails()) as run:
        run.start()
        inventory = local_inventory(context)
        if _verify_repaired(source, inventory, run, context):
            inventory = local_inventory(context)
        faults = dict(_archive_faults(source, inventory, run, context))
        sound = [inventory.manifests[g.id] for g in inventory.of(source) if g.verified and g.id not in faults]
        faults |= _content_faults(sound, run, context)
        if faults:
            what = "; ".join(f"{generation}: {fault}" for generation, fault in [*faults.items()][:MOST_NAMED])
            more = f"; and {len(faults) - MOST_NAMED} more generations" if len(faults) > MOST_NAMED else ""
            raise CopyCorrupt(what + more, "check rights, and test the disk (smartctl, dmesg); see backupd list")
    return run.report


def choose_generation_to_scrub(generations: Iterable[Generation], checked: Mapping[str, datetime]) -> Generation | None:
    """Return the undamaged generation whose last check is the oldest; the first check is when it was made."""
    undamaged = (generation for generation in generations if generation.verified)
    return min(undamaged, key=lambda g: (checked.get(g.id, g.taken_at), g.id), default=None)


def share_of(digest: bytes) -> int:
    """Return in which share a content is, by its raw digest."""
    return int.from_bytes(digest[:4]) % _SHARES


def share_on(now: datetime) -> int:
    """Return which share of the contents is read on the day of `now`."""
    return now.toordinal() % _SHARES


def _verify_repaired(source: str, inventory: Inventory, run: Run[RunDetails], context: TaskContext) -> bool:
    """Verify damaged generations of a set of files again, and return whether one is whole again.

    One is verified when the contents are sound that were noted with its mark, so that lasting damage costs little.
    """
    marked, contents, repaired = context.marks.ids(), ContentsCheck(context.store.contents), False
    for generation in inventory.of(source):
        if generation.kind != "files" or generation.id not in marked or generation.id in inventory.refused:
            continue
        try:
            with run.stage("repaired"):
                lacking = context.marks.contents(generation.id)
                if any(content_fault(digest, context.store) for digest in lacking):
                    continue
                result = verify(generation.id, inventory, 1, context, reserve=None, contents=contents)
        except GenerationMissing:  # pruned since
            continue
        except OSError as error:
            run.warn(f"{generation.id} could not be verified again: {os_error_text(error)}")
            break
        if result.sound:
            repaired = True
            run.note(f"{generation.id} is whole again: its contents were stored again")
        if result.warning:
            run.warn(result.warning)
    return repaired


def content_fault(digest: str, store: DirectoryStore) -> str:
    """Read a content from the disk, and return what is wrong with it, empty where nothing is. Raises OSError."""
    try:
        with store.contents.open_stored(digest)[1] as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what counts is the disk
        store.contents.require_sound(digest)
    except (ContentMissing, CopyCorrupt) as error:
        return error.message
    return ""


def _archive_faults(
    source: str, inventory: Inventory, run: Run[RunDetails], context: TaskContext
) -> Iterator[tuple[str, str]]:
    """Check the archive whose last check is the oldest; yield its generation with the reason if it is not sound."""
    checked = context.ask_catalog(lambda catalog: catalog.last_checks(context.store.name), dict[str, datetime]())
    left = list(inventory.of(source))
    while (chosen := choose_generation_to_scrub(left, checked)) is not None:
        try:
            if fault := _archive_fault(inventory.manifests[chosen.id], run, context):
                yield chosen.id, fault
        except GenerationMissing:  # pruned since: choose another one
            left.remove(chosen)
        else:
            return
    run.note("there is no generation to check yet")


def _archive_fault(manifest: AnyManifest, run: Run[RunDetails], context: TaskContext) -> str:
    with run.stage("digest"):
        found = digest_archive(manifest, context.store)
    run.details = RunDetails(generation=manifest.id)
    if found.sound or found.damaged:
        duration_s = run.report.stages["digest"]
        record_verification(manifest.id, context, sound=found.sound, detail=found.detail, duration_s=duration_s)
    return "" if found.sound else found.detail


def _content_faults(manifests: Iterable[AnyManifest], run: Run[RunDetails], context: TaskContext) -> Mapping[str, str]:
    """Read today's share of the contents that sets of files need; return why each damaged generation is.

    It is marked. What cannot be read for now is a warning.
    """
    share, faults = _Share(context.store, share_on(context.clock())), dict[str, str]()
    for manifest in manifests:
        if isinstance(manifest, FilesManifest):
            try:
                with run.stage("contents"):
                    fault, lacking = share.fault_of(manifest)
            except GenerationMissing:
                continue
            except OSError as error:
                run.warn(f"the contents of {manifest.id} were not all read: {error.strerror}")
                break
            if fault and context.store.has_files(manifest.id):  # else it was pruned since, with its contents
                faults[manifest.id] = fault
                if warning := record_verification(
                    manifest.id, context, sound=False, detail=fault, contents=lacking[:MOST_NAMED]
                ):
                    run.warn(warning)
    return faults


class _Share:
    """One share of the contents of a store, each of which is read once, whatever lists name it."""

    def __init__(self, store: DirectoryStore, number: int) -> None:
        self._store, self._number = store, number
        self._faults: dict[str, str] = {}  # by digest, empty where there is none

    def fault_of(self, manifest: FilesManifest) -> tuple[str, list[str]]:
        """Read what a generation needs of the share, and was not read yet; return which files cannot be restored.

        With them come the digests of their contents; nothing where all can be. Raises GenerationMissing, OSError.
        """
        try:
            with unpacked(self._store.open(manifest.id), manifest.archive.member_bytes) as listed:
                found = contents_in(listed, manifest.files.list_sha256, manifest.id)
                digests = {digest.hex() for digest in found if share_of(digest) == self._number}
            for digest in sorted(digests - self._faults.keys()):
                self._faults[digest] = content_fault(digest, self._store)
            damaged = {digest for digest in digests if self._faults[digest]}
            return self._named(damaged, manifest) if damaged else "", sorted(damaged)
        except CopyCorrupt as error:  # the list
            return error.message, []

    def _named(self, damaged: set[str], manifest: FilesManifest) -> str:
        with unpacked(self._store.open(manifest.id), manifest.archive.member_bytes) as listed:
            lines = iter(lambda: listed.readline(MAX_LINE_BYTES), b"")
            lost = [entry for entry in decode_entries(lines, manifest.id) if entry.digest in damaged]
        named = [(entry.path, self._faults[entry.digest]) for entry in lost[:MOST_NAMED]]
        return f"{counted(len(lost), 'file')} cannot be restored: {named_files(named, len(lost))}"
