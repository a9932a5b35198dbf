"""Sets of files and restore points in a store, as backups would publish them."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from backupd import __version__
from backupd.archive.archive import pack
from backupd.archive.file_list import FileEntry, encode_entry
from backupd.archive.manifest import decode_manifest, encode_manifest, encode_point
from backupd.model import (
    LOCAL_STORE,
    POINT,
    DirectoryFacts,
    FilesFacts,
    FilesManifest,
    PointPart,
    RestorePoint,
    Verdict,
    generation_id,
)
from backupd.stores.local import DirectoryStore
from backupd.system.held_file import HeldFile
from backupd.tasks.context import TaskContext


def publish_point(backups: Path, generations: Sequence[str], attempt: int = 1) -> str:
    """Publish the point of these generations in the store in `backups`; returns its id."""
    store = DirectoryStore(LOCAL_STORE, backups)
    manifests = [decode_manifest(store.manifest(key), key) for key in generations]
    parts = tuple(
        PointPart(
            source=manifest.source,
            kind=manifest.kind,
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


def files_generation(
    context: TaskContext, tree: Mapping[str, bytes], taken_at: datetime, *, source: str = "uploads"
) -> str:
    """Publish a generation of a set of the files in `tree`, by their paths, and return its id."""
    identity = context.identity()
    with context.store.staging() as staging:
        entries = list(_entries(tree))
        with context.store.contents.adding(staging) as writer:
            for data in tree.values():
                with writer.part() as part:
                    part.write(data)
                    part.finish(hashlib.sha256(data).digest(), packed=False)
        lines = b"".join(map(encode_entry, entries))
        archive = HeldFile.create(staging, "archive")
        packed = pack(io.BytesIO(lines), archive.stream(), level=1, workers=1, advance=lambda _done: None)
        manifest = FilesManifest(
            kind="files",
            format=1,
            id=generation_id(source, taken_at),
            source=source,
            store=identity,
            taken_at=taken_at,
            backupd_version="1",
            origin=DirectoryFacts(f"/app/data/{source}", 1000, 1000, 0o755),
            files=FilesFacts(
                list_sha256=packed.snapshot_sha256,
                list_bytes=len(lines),
                files=len(tree),
                directories=len(entries) - len(tree),
                links=0,
                size_bytes=sum(map(len, tree.values())),
                skipped=0,
            ),
            archive=packed.archive,
            verdict=Verdict("full", ("contents", "list")),
        )
        context.store.place(manifest.id, archive, encode_manifest(manifest), kind="files")
    return manifest.id


def _entries(tree: Mapping[str, bytes]) -> Iterator[FileEntry]:
    paths = {tuple(path.split("/")): data for path, data in tree.items()}
    directories = {parts[:depth] for parts in paths for depth in range(1, len(parts))}
    for parts in sorted({*paths, *directories}, key=lambda parts: [part.encode() for part in parts]):
        path = "/".join(parts).encode()
        if parts in directories:
            yield FileEntry(path, "d", 0o755, 1000, 1000, 0)
        else:
            data = paths[parts]
            digest = hashlib.sha256(data).hexdigest()
            yield FileEntry(path, "f", 0o644, 1000, 1000, 0, size_bytes=len(data), digest=digest)
