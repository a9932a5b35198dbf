"""Manifests of restore points and of sets of files that contradict themselves: they are refused with what is wrong."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backupd.archive.manifest import decode_manifest, decode_point, encode_manifest, encode_point
from backupd.errors import ManifestInvalid
from backupd.model import (
    ArchiveFacts,
    DirectoryFacts,
    FilesFacts,
    FilesManifest,
    PointPart,
    RestorePoint,
    Verdict,
)

TIME = datetime(2026, 11, 23, 4, 0, 17, tzinfo=UTC)
PART = PointPart("tasks", "database", "tasks-20261123-0400", "a" * 64, TIME, TIME + timedelta(milliseconds=3))
OTHER = PointPart("uploads", "files", "uploads-20261123-0400", "b" * 64, TIME, TIME + timedelta(milliseconds=5))
POINT = RestorePoint(1, "point-20261123-0400", "0123456789abcdef", TIME, "1.0", (PART, OTHER))
FILES = FilesManifest(
    kind="files",
    format=1,
    id="uploads-20261123-0400",
    source="uploads",
    store="0123456789abcdef",
    taken_at=TIME,
    backupd_version="1.0",
    origin=DirectoryFacts("/app/uploads", 1000, 1000, 0o750),
    files=FilesFacts("a" * 64, 100, 2, 1, 0, 8192, 0),
    archive=ArchiveFacts("b" * 64, 90, 1 << 20, 1),
    verdict=Verdict("full", ()),
)


def with_part(**changed: object) -> Callable[[RestorePoint], RestorePoint]:
    return lambda point: replace(point, parts=(replace(PART, **changed), OTHER))  # type: ignore[arg-type]


def test_point_that_holds_is_read_back_unchanged() -> None:
    assert decode_point(encode_point(POINT), POINT.id) == POINT


def test_point_under_another_name_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="it describes another restore point"):
        decode_point(encode_point(POINT), "point-20261123-0500")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda point: replace(point, store="not hex digits!!"), "its id or store is not a valid name"),
        (lambda point: replace(point, taken_at=TIME + timedelta(hours=1)), "its id does not match its time"),
        (with_part(since=TIME.replace(tzinfo=None)), "a time of a part has no time zone"),
        (with_part(since=TIME + timedelta(seconds=1)), "the times of its parts contradict each other"),
        (lambda point: replace(point, taken_at=TIME + timedelta(seconds=1)), "contradict each other"),
        (lambda point: replace(point, parts=(PART, PART)), "it has two parts of one source"),
        (with_part(generation="notes-20261123-0400"), "a part is not a generation of its source"),
        (with_part(generation="../tasks"), "a part is not a generation of its source"),
        (with_part(archive_sha256="A" * 64), "a digest is not a SHA-256"),
    ],
)
def test_point_that_contradicts_itself_is_refused(change: Callable[[RestorePoint], RestorePoint], fault: str) -> None:
    with pytest.raises(ManifestInvalid, match=fault) as caught:
        decode_point(encode_point(change(POINT)), POINT.id)
    assert caught.value.hint


def test_files_manifest_that_holds_is_read_back_unchanged() -> None:
    assert decode_manifest(encode_manifest(FILES), FILES.id) == FILES


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (replace(FILES, files=replace(FILES.files, list_sha256="x" * 64)), "a digest is not a SHA-256"),
        (replace(FILES, files=replace(FILES.files, list_bytes=2 << 20)), "its archive is too small to hold its list"),
        (replace(FILES, origin=replace(FILES.origin, gid=1 << 40)), "uid or gid out of range"),
    ],
)
def test_files_manifest_that_contradicts_itself_is_refused(changed: FilesManifest, fault: str) -> None:
    with pytest.raises(ManifestInvalid, match=fault):
        decode_manifest(encode_manifest(changed), FILES.id)
