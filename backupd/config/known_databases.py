"""The databases that have generations in a store, by their newest manifests: these keep the names of their sources."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from backupd.archive.manifest import decode_manifest
from backupd.errors import ManifestInvalid
from backupd.model import MANIFEST_MAX_BYTES, MANIFEST_SUFFIX, Manifest, is_generation_id, source_of
from backupd.system.directory import Directory
from backupd.system.owners import rights_of_owner

_MOST_SOURCES: Final = 1000
_MOST_TRIED: Final = 3  # manifests of one source, until one can be read


class Named(NamedTuple):
    """A database that has generations, by its path without links, and the name of its source."""

    path: str
    source: str


def known_databases(backups: Path) -> tuple[Named, ...]:
    """Return the databases that have generations in the directory `backups`, that of the newest one first."""
    with (
        suppress(OSError),
        rights_of_owner(backups.stat(), readable=os.access(backups, os.R_OK)),
        Directory.open(backups) as store,
    ):
        found = [_newest(store, ids) for ids in _ids_by_source(store)]
        return tuple(one for one in found if one is not None)
    return ()


def _ids_by_source(store: Directory) -> Iterator[list[str]]:
    """Yield the ids of each source, newest first; that source first of which the newest of all is."""
    names = (name.removesuffix(MANIFEST_SUFFIX) for name in store.names() if name.endswith(MANIFEST_SUFFIX))
    found: dict[str, list[str]] = {}
    for one in sorted(filter(is_generation_id, names), key=lambda one: one[len(source_of(one)) :], reverse=True):
        found.setdefault(source_of(one), []).append(one)
    yield from [*found.values()][:_MOST_SOURCES]


def _newest(store: Directory, ids: list[str]) -> Named | None:
    """Return the database of the newest generation whose manifest can be read."""
    for generation_id in ids[:_MOST_TRIED]:
        with suppress(OSError, ManifestInvalid):
            manifest = decode_manifest(_read(store, f"{generation_id}{MANIFEST_SUFFIX}"), generation_id)
            path = manifest.origin.path
            is_usable = isinstance(manifest, Manifest) and path == os.path.normpath(path)
            return Named(path, manifest.source) if is_usable else None
    return None


def _read(store: Directory, name: str) -> bytes:
    """Read a manifest, with the rights of its owner where root has fewer. Raises OSError."""
    try:
        return store.read(name, MANIFEST_MAX_BYTES)
    except PermissionError:
        state = store.stat(name)
        if state is None:
            raise
        with rights_of_owner(state, readable=False):
            return store.read(name, MANIFEST_MAX_BYTES)
