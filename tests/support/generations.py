"""More generations than time allows to take: copies of a real one, dated back."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, Manifest, archive_name, generation_id
from backupd.tasks.context import TaskContext


def manifest_of(context: TaskContext, generation: str) -> Manifest:
    """Return what the manifest of `generation` says."""
    return decode_manifest(context.store.manifest(generation), generation)


def backdated(backups: Path, generation: str, *, days: float, source: str | None = None) -> str:
    """Copy `generation` under the id of one that was taken `days` earlier (of another source); returns that id."""
    manifest = decode_manifest((backups / f"{generation}{MANIFEST_SUFFIX}").read_bytes(), generation)
    taken_at, name = manifest.taken_at - timedelta(days=days), source or manifest.source
    key = generation_id(name, taken_at)
    copy = replace(manifest, id=key, source=name, taken_at=taken_at)
    (backups / f"{key}{ARCHIVE_SUFFIX}").write_bytes((backups / f"{generation}{ARCHIVE_SUFFIX}").read_bytes())
    (backups / f"{key}{MANIFEST_SUFFIX}").write_bytes(encode_manifest(copy))
    return key


def dated_back(backups: Path, generation: str, *, days: float) -> str:
    """Let `generation`, of either kind, be one that was taken `days` earlier; returns its new id."""
    path = backups / f"{generation}{MANIFEST_SUFFIX}"
    manifest = decode_manifest(path.read_bytes(), generation)
    taken_at = manifest.taken_at - timedelta(days=days)
    key = generation_id(manifest.source, taken_at)
    (backups / archive_name(generation, manifest.kind)).rename(backups / archive_name(key, manifest.kind))
    (backups / f"{key}{MANIFEST_SUFFIX}").write_bytes(encode_manifest(replace(manifest, id=key, taken_at=taken_at)))
    path.unlink()
    return key


def rewritten(backups: Path, generation: str, change: Callable[[Manifest], Manifest]) -> None:
    """Replace the manifest of `generation` by a changed one with a new digest."""
    path = backups / f"{generation}{MANIFEST_SUFFIX}"
    path.write_bytes(encode_manifest(change(decode_manifest(path.read_bytes(), generation))))


def flip_byte(path: Path, at: float = 0.5) -> None:
    """Change one byte of the file, `at` this part of its length."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x01
    path.write_bytes(data)


def inflated(backups: Path, generation: str, snapshot_bytes: int) -> None:
    """Let the manifest of `generation` claim a snapshot of that size, and make its archive as large as that takes."""
    archive_bytes = snapshot_bytes // 1000

    def claiming(manifest: Manifest) -> Manifest:
        snapshot = replace(manifest.snapshot, size_bytes=snapshot_bytes)
        snapshot = replace(snapshot, page_count=snapshot_bytes // snapshot.page_size)
        members = -(-snapshot_bytes // manifest.archive.member_bytes)
        return replace(
            manifest, snapshot=snapshot, archive=replace(manifest.archive, size_bytes=archive_bytes, members=members)
        )

    rewritten(backups, generation, claiming)
    os.truncate(backups / f"{generation}{ARCHIVE_SUFFIX}", archive_bytes)
