"""Fetch one archive out of a store into a directory of ours, as whoever restores on a new machine would."""

from pathlib import Path
from typing import BinaryIO

from backupd.jobs.send import told_of
from backupd.jobs.site import Site
from backupd.jobs.space import watching_space
from backupd.model import Manifest
from backupd.stores.contract import Archives
from backupd.stores.directory import DirectoryStore

_CHUNK_BYTES = 1 << 20


def fetch(manifest: Manifest, store: Archives, directory: Path, reserve: int, site: Site) -> DirectoryStore:
    """Copy the archive of a generation into `directory`, and return that as a store of the same name to restore from.

    Nothing is proven yet. At least `reserve` bytes stay free. Raises GenerationMissing, NoSpace, ReplicaUnreachable.
    """
    fetched = DirectoryStore(store.name, directory)
    target, size_bytes = fetched.archive_path(manifest.id), manifest.archive.size_bytes
    site.progress.stage("fetch", size_bytes)
    advance = watching_space(directory, reserve, site.progress.advance)
    with told_of(store.name):
        stream = store.open(manifest.id)
    with stream, target.open("wb") as copy:
        done_bytes = 0
        while done_bytes <= size_bytes and (chunk := _read(stream, store.name)):  # one that never ends is no archive
            copy.write(chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
    return fetched


def _read(stream: BinaryIO, name: str) -> bytes:
    with told_of(name):
        return stream.read(_CHUNK_BYTES)
