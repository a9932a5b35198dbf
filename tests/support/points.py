"""Restore points of generations that exist."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from backupd import __version__
from backupd.archive.manifest import decode_manifest, encode_point
from backupd.model import LOCAL_STORE, POINT, PointPart, RestorePoint, generation_id
from backupd.stores.local import DirectoryStore


def publish_point(backups: Path, generations: Sequence[str], attempt: int = 1) -> str:
    """Publish the point of these generations in the store in `backups`; returns its id."""
    store = DirectoryStore(LOCAL_STORE, backups)
    manifests = [decode_manifest(store.manifest(key), key) for key in generations]
    parts = tuple(
        PointPart(
            source=manifest.source,
            kind="database",
            generation=manifest.id,
            archive_sha256=manifest.archive.sha256,
            since=manifest.taken_at,
            until=manifest.taken_at + timedelta(milliseconds=3),
        )
        for manifest in manifests
    )
    taken_at = min(part.since for part in parts)
    key = generation_id(POINT, taken_at, attempt)
    point = RestorePoint(1, key, manifests[0].store, taken_at, __version__, parts)
    store.publish_point(key, encode_point(point))
    return key
