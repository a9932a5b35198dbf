"""The restore points of a store, by their indexes."""

from collections.abc import Mapping
from dataclasses import dataclass

from backupd.archive.manifest import decode_point
from backupd.errors import GenerationMissing, ManifestInvalid
from backupd.model import RestorePoint
from backupd.stores.contract import Points


@dataclass(frozen=True, slots=True)
class StoredPoints:
    """What the indexes in a store tell."""

    usable: Mapping[str, RestorePoint]  # by id
    refused: Mapping[str, str]  # by id, why the others cannot be used
    unreadable: frozenset[str]  # ids of refused ones that cannot be read now: no damage


def take_points(store: Points) -> StoredPoints:
    """Read every index in `store`, but for those that are removed meanwhile."""
    usable: dict[str, RestorePoint] = {}
    refused: dict[str, str] = {}
    unreadable = set[str]()
    ids = store.points()
    for key, read in zip(ids, store.indexes(ids), strict=True):
        try:
            usable[key] = decode_point(read(), key)
        except ManifestInvalid as error:
            refused[key] = error.message
        except OSError as error:
            unreadable.add(key)
            refused[key] = f"the index of {key} cannot be read: {error.strerror or error}"
        except GenerationMissing:
            continue
    return StoredPoints(usable, refused, frozenset(unreadable))
