"""Verify generations: archive digest, unpacking, integrity; results are kept as marks and in the catalog."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import EIO
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from backupd.archive.archive import digest_of
from backupd.archive.manifest import decode_manifest
from backupd.errors import CopyCorrupt, GenerationMissing, GenerationTaken, ManifestInvalid, NoSpace, ReplicaFailed
from backupd.formatting import counted, printable
from backupd.model import LOCAL_STORE, AnyManifest, FilesManifest, Manifest
from backupd.stores.contract import Archives, Store
from backupd.system.held_file import HeldFile
from backupd.system.resources import require_space, reserve_bytes
from backupd.tasks.choice import choose_generation
from backupd.tasks.contents_check import ContentsCheck
from backupd.tasks.context import TaskContext, work_directory
from backupd.tasks.events import CopyVerified, GenerationVerified
from backupd.tasks.inventory import Inventory
from backupd.tasks.restore.extract import FilesStore, extract_list, extract_verified, listed_entries

MOST_NAMED: Final = 3  # files, or generations, in one message


@dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """The result of reading an archive back."""

    sound: bool  # its digest is that of the manifest
    damaged: bool  # it is not; an archive that could not be read for now is neither
    detail: str


def digest_archive(manifest: AnyManifest, store: Store) -> ArchiveCheck:
    """Digest the archive of a generation as the disk has it, not the page cache. Raises GenerationMissing.

    An archive that the disk cannot read back (EIO) is damaged; one that is out of reach for another reason is not.
    """
    try:
        with store.open(manifest.id) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if digest_of(stream) == manifest.archive.sha256:
                return ArchiveCheck(sound=True, damaged=False, detail="its digest is right")
    except OSError as error:
        return ArchiveCheck(
            sound=False, damaged=error.errno == EIO, detail=f"its archive cannot be read: {error.strerror}"
        )
    what = "its archive is damaged: the SHA-256 is not the one in its manifest"
    return ArchiveCheck(sound=False, damaged=True, detail=what)


def open_verified(generation_id: str, context: TaskContext) -> tuple[AnyManifest, BinaryIO]:
    """Open the archive of a verified generation of the local store, and return its manifest too.

    Raises GenerationMissing, CopyCorrupt for one that is damaged, ManifestInvalid, OSError.
    """
    manifest = decode_manifest(context.store.manifest(generation_id), generation_id)
    if manifest.verdict.level == "corrupt" or generation_id in context.marks.ids():
        raise CopyCorrupt(f"{generation_id} is damaged", "take another generation: backupd list")
    stream = context.store.open(generation_id)
    if os.fstat(stream.fileno()).st_size != manifest.archive.size_bytes:
        stream.close()
        raise CopyCorrupt(f"the archive of {generation_id} has another size than its manifest", "run backupd verify")
    return manifest, stream


def record_verification(
    generation: str,
    context: TaskContext,
    *,
    sound: bool,
    detail: str,
    duration_s: float = 0.0,
    store: str = LOCAL_STORE,
    contents: Iterable[str] = (),
) -> str:
    """Record whether the copy of `generation` in `store` is damaged; returns why it could not be marked, else nothing.

    In the local store it is marked, with the digests of some `contents` that it lacks: a scrub clears the mark when
    they are there again. A damaged copy at a replica is replaced by the next replication.
    """
    context.emit(CopyVerified(generation, store, sound, detail, duration_s))
    if store != LOCAL_STORE:
        return ""
    try:
        if sound:
            context.marks.clear(generation)
        else:
            context.marks.add(generation, detail, contents)
    except OSError as error:
        mark = "verified, and still does not count" if sound else "damaged, and still counts"
        return f"{generation} could not be marked as {mark}: {error.strerror}"
    return ""


@contextmanager
def marking_damage(manifest: AnyManifest, store: Archives, context: TaskContext) -> Iterator[None]:
    """Record the copy of a generation in `store` as damaged where the block raises CopyCorrupt."""
    try:
        yield
    except CopyCorrupt as error:
        record_verification(manifest.id, context, sound=False, detail=error.message, store=store.name)
        raise


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """The result of verifying one generation in one store."""

    id: str
    store: str
    sound: bool
    detail: str
    duration_s: float
    damaged: bool = False  # one that is neither sound nor damaged could not be verified
    warning: str = ""  # why it could not be marked
    unreadable: bool = False  # nothing is known: its manifest or archive cannot be read now


def verify(
    generation: str,
    inventory: Inventory,
    workers: int,
    context: TaskContext,
    *,
    reserve: int | None = 0,
    store: FilesStore | None = None,
    contents: ContentsCheck | None = None,
) -> VerificationResult:
    """Verify one generation of `store` (None: the local one). Damage is a result, and is marked.

    Of a set of files that is its list, and every content that it names, unless `contents` has read it before.

    It is unpacked in a work directory, where at least `reserve` bytes stay free (None: as `reserve_bytes` says). One
    that does not fit there, cannot be read now, or is no longer at its replica is neither sound nor damaged, and
    nothing is recorded of it. Raises GenerationMissing where `store` has no such generation.
    """
    began = time.monotonic()
    store = store or context.store
    gone = store is not context.store and generation in inventory.lost
    if gone or generation in inventory.unreadable:
        why = inventory.refused[generation]
        return VerificationResult(generation, store.name, sound=False, detail=why, duration_s=0.0, unreadable=not gone)
    try:
        contents = contents or ContentsCheck(store.contents)
        detail, lacking = _verify_copy(generation, inventory, workers, context, reserve, store, contents)
    except (NoSpace, ReplicaFailed) as error:
        # Its manifest may claim any size, and a server may refuse one archive: the others are verified all the same.
        detail, duration_s = f"{error.message}: {error.hint}", round(time.monotonic() - began, 3)
        refused = isinstance(error, ReplicaFailed)
        return VerificationResult(generation, store.name, False, detail, duration_s, unreadable=refused)  # noqa: FBT003
    except OSError:
        if store is not context.store:
            raise
        found = digest_archive(inventory.manifests[generation], context.store)
        if found.sound:  # so it was the work directory
            raise
        detail, lacking = found.detail, ()
        if not found.damaged:
            return VerificationResult(generation, store.name, sound=False, detail=detail, duration_s=0, unreadable=True)
    sound, duration_s = detail == "sound", round(time.monotonic() - began, 3)
    result = VerificationResult(generation, store.name, sound, detail, duration_s, damaged=not sound)
    if result.sound:
        was_damaged = store is context.store and generation in context.marks.ids()
        context.emit(GenerationVerified(generation, store.name, was_damaged=was_damaged))
    warning = record_verification(
        generation, context, sound=sound, detail=detail, duration_s=duration_s, store=store.name, contents=lacking
    )
    return replace(result, warning=warning)


def named_files(named: Sequence[tuple[bytes, str]], lacking: int) -> str:
    """Return the paths in `named`, each with its fault, and how many more of all the `lacking` files there are."""
    first = "; ".join(f"{printable(os.fsdecode(path))!r}: {fault}" for path, fault in named)
    return f"{first}; and {lacking - len(named)} more" if lacking > len(named) else first


def _verify_files(
    manifest: FilesManifest, store: FilesStore, listed: HeldFile, workers: int, contents: ContentsCheck, reserve: int
) -> tuple[str, tuple[str, ...]]:
    """Read the list of a set of files, and every content that it names and that was not read before.

    Returns what `_verify_copy` does. Raises CopyCorrupt for the list; NoSpace, ReplicaUnreachable, OSError.
    """
    require_space(Path(listed.directory.fixed_path), manifest.files.list_bytes, reserve, f"verifying {manifest.id}")
    with listed.stream() as stream:
        extract_list(manifest, store, stream, workers)
    entries = partial(listed_entries, listed, manifest.id)
    found = contents.check(entries, MOST_NAMED, lambda _done: None)
    if not found.lacking:
        return "sound", ()
    named = named_files(found.named, found.lacking)
    return f"{found.lacking} of {counted(found.files, 'file')} cannot be restored: {named}", found.digests


def _verify_copy(
    generation: str,
    inventory: Inventory,
    workers: int,
    context: TaskContext,
    reserve: int | None,
    store: FilesStore,
    contents: ContentsCheck,
) -> tuple[str, tuple[str, ...]]:
    """Return `sound`, or what is wrong with a copy, with the digests of some contents that it lacks."""
    try:
        manifest = choose_generation(inventory, generation, None, None)
        with work_directory(context) as directory:
            kept_free = reserve_bytes(Path(directory.fixed_path), reserve)
            copy = HeldFile.create(directory, "unpacked")
            if isinstance(manifest, Manifest):
                extract_verified(manifest, store, copy, workers, context, kept_free)
                return "sound", ()
            return _verify_files(manifest, store, copy, workers, contents, kept_free)
    except (CopyCorrupt, ManifestInvalid, GenerationTaken) as error:
        return error.message, ()
    except GenerationMissing:
        if store is context.store and context.store.has_files(generation):
            return "its archive is gone", ()
        raise
