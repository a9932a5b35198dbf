"""Restore points of generations that exist."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from backupd import __version__
from backupd.archive.manifest import decode_manifest, encode_point
from backupd.model import LOCAL_STORE, POINT, PointPart, RestorePoint, generation_id
from backupd.stores.local import DirectoryStore


def publish_point(backups: Path, generations: Sequence[str], attempt: int = 1, at: datetime | None = None) -> str:
    """Publish the point of these generations in the store in `backups`, as of when they were made, or all `at` a time.

    Returns its id.
    """
    store = DirectoryStore(LOCAL_STORE, backups)
    manifests = [decode_manifest(store.manifest(key), key) for key in generations]
    parts = tuple(
        PointPart(
            source=manifest.source,
            kind=manifest.kind,
            generation=manifest.id,
            archive_sha256=manifest.archive.sha256,
            since=at or manifest.taken_at,
            until=(at or manifest.taken_at) + timedelta(milliseconds=3),
        )
        for manifest in manifests
    )
    taken_at = min(part.since for part in parts)
    key = generation_id(POINT, taken_at, attempt)
    point = RestorePoint(1, key, manifests[0].store, taken_at, __version__, parts)
    store.publish_point(key, encode_point(point))
    return key
