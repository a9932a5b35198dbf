"""Remember what a check of a generation said: as a mark in the store, which counts, and in the catalog, for history."""

import os
from dataclasses import dataclass
from errno import EIO

from backupd.archive.archive import digest_of
from backupd.model import LOCAL_STORE, Manifest
from backupd.stores.contract import Store
from backupd.tasks.context import TaskContext
from backupd.tasks.reporter import CopyVerified


@dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """What a look at an archive found: one that is not sound is `damaged`, or could not be read just now."""

    sound: bool
    damaged: bool
    detail: str


def digest_archive(manifest: Manifest, store: Store) -> ArchiveCheck:
    """Digest the archive of a generation as it lies on the disk, not in memory. Raises GenerationMissing.

    What the disk cannot read back (EIO) is damage; what is merely out of reach is not, and must not be taken for it.
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


def record_verification(
    generation: str,
    context: TaskContext,
    *,
    sound: bool,
    detail: str,
    duration_s: float = 0.0,
    store: str = LOCAL_STORE,
) -> str:
    """Remember that the copy of `generation` in `store` is damaged or sound; returns in words why it could not be.

    In the local store it is marked; of a replica the catalog knows, and the next replication sends a good copy.
    """
    context.emit(CopyVerified(generation, store, sound, detail, duration_s))
    return _mark(generation, context, sound=sound, detail=detail) if store == LOCAL_STORE else ""


def _mark(generation: str, context: TaskContext, *, sound: bool, detail: str) -> str:
    trouble = ""
    try:
        if sound:
            context.marks.clear(generation)
        else:
            context.marks.add(generation, detail)
    except OSError as error:
        mark = "sound, and still does not count" if sound else "damaged, and still counts"
        trouble = f"{generation} could not be marked as {mark}: {error.strerror}"
    return trouble
