"""What every kind of store promises about generations of both kinds, and about the indexes of restore points."""

import os
from pathlib import Path

import pytest
from store_kinds import ID, StoreFixture

from backupd.errors import GenerationMissing, GenerationTaken
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_MAX_BYTES, POINT_SUFFIX
from backupd.stores.contract import ListedGeneration

FILES = "uploads-20261121-0400"
POINTS = ("point-20261121-0400", "point-20261121-0400-2", "point-20261122-0400")
POINT = POINTS[0]


def test_generations_of_both_kinds_are_listed_with_their_kind(fixture: StoreFixture) -> None:
    fixture.publish(FILES, kind="files")
    fixture.publish(ID)
    assert fixture.store.list() == (
        ListedGeneration(ID, len(fixture.archives[ID]), "database"),
        ListedGeneration(FILES, len(fixture.archives[FILES]), "files"),
    )
    assert [stored.archive_name for stored in fixture.store.list()] == [f"{ID}.sqlite3.gz", f"{FILES}.files.gz"]


def test_list_of_files_is_read_and_removed_by_its_id_alone(fixture: StoreFixture) -> None:
    archive = fixture.publish(FILES, b"manifest", kind="files")
    with fixture.store.open(FILES, 5) as stream:
        assert stream.read() == archive[5:]
    assert fixture.store.manifest(FILES) == b"manifest"
    assert fixture.names() == {f"{FILES}.files.gz", f"{FILES}.manifest.json"}
    fixture.store.remove(FILES)
    assert fixture.names() == set()
    with pytest.raises(GenerationMissing, match=FILES):
        fixture.store.open(FILES)


def test_generation_with_archives_of_both_kinds_is_one_of_database_and_is_removed_whole(fixture: StoreFixture) -> None:
    archive = fixture.publish(ID)
    (fixture.files / f"{ID}.files.gz").write_bytes(b"planted")
    assert fixture.store.list() == (ListedGeneration(ID, len(archive)),)
    with fixture.store.open(ID) as stream:
        assert stream.read() == archive
    fixture.store.remove(ID)
    assert fixture.names() == set()


def test_published_points_are_listed_in_order_and_read_back(fixture: StoreFixture) -> None:
    assert fixture.store.points() == ()
    for key in reversed(POINTS):
        fixture.store.publish_point(key, key.encode() * 1000)
    assert fixture.store.points() == POINTS
    assert [fixture.store.point(key) for key in POINTS] == [key.encode() * 1000 for key in POINTS]
    assert [read() for read in fixture.store.indexes(POINTS)] == [key.encode() * 1000 for key in POINTS]
    assert fixture.names() == {f"{key}{POINT_SUFFIX}" for key in POINTS}
    assert fixture.store.list() == ()


def test_point_has_mode_0600(fixture: StoreFixture) -> None:
    umask = os.umask(0)
    try:
        fixture.store.publish_point(POINT, b"{}")
    finally:
        os.umask(umask)
    assert oct((fixture.files / f"{POINT}{POINT_SUFFIX}").stat().st_mode) == "0o100600"


def test_point_published_again_must_have_same_bytes(fixture: StoreFixture) -> None:
    fixture.store.publish_point(POINT, b"first")
    fixture.store.publish_point(POINT, b"first")
    with pytest.raises(GenerationTaken, match=POINT):
        fixture.store.publish_point(POINT, b"second")
    assert fixture.store.point(POINT) == b"first"
    assert not list((fixture.files / ".backupd").rglob("point-*"))


def test_removed_point_is_gone_and_missing_one_is_accepted(fixture: StoreFixture) -> None:
    for key in POINTS:
        fixture.store.publish_point(key, b"{}")
    fixture.store.remove_point(POINT)
    fixture.store.remove_point(POINT)
    gone, *there = fixture.store.indexes(POINTS)
    with pytest.raises(GenerationMissing, match=POINT):
        gone()
    assert [read() for read in there] == [b"{}"] * 2
    assert fixture.store.points() == POINTS[1:]
    with pytest.raises(GenerationMissing, match=POINT):
        fixture.store.point(POINT)


@pytest.mark.parametrize("name", ["../point-20261121-0400", "tasks-20261121-0400", "point-2026", ""])
def test_name_that_is_no_point_is_refused(fixture: StoreFixture, name: str) -> None:
    for do in (fixture.store.point, fixture.store.remove_point, lambda key: fixture.store.publish_point(key, b"{}")):
        with pytest.raises(GenerationMissing):
            do(name)


def test_large_index_is_read_up_to_one_byte_more_than_limit(fixture: StoreFixture) -> None:
    fixture.store.publish_point(POINT, b"{}")
    (fixture.files / f"{POINT}{POINT_SUFFIX}").write_bytes(b"x" * (MANIFEST_MAX_BYTES + 1000))
    assert len(fixture.store.point(POINT)) == MANIFEST_MAX_BYTES + 1


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_something_else_with_name_of_point_is_no_point_and_stays(
    fixture: StoreFixture, tmp_path: Path, kind: str
) -> None:
    outside, planted = tmp_path / "outside", fixture.files / f"{POINT}{POINT_SUFFIX}"
    outside.write_bytes(b"mine")
    if kind == "link":
        planted.symlink_to(outside)
    elif kind == "directory":
        planted.mkdir()
    else:
        os.mkfifo(planted)
    assert fixture.store.points() == ()
    with pytest.raises(GenerationMissing, match=POINT):
        fixture.store.point(POINT)
    with pytest.raises(GenerationTaken, match=POINT):
        fixture.store.publish_point(POINT, b"{}")
    assert outside.read_bytes() == b"mine"
    assert os.path.lexists(planted)


def test_file_names_that_resemble_points_are_ignored(fixture: StoreFixture) -> None:
    for name in ("point.point.json", f"{POINT}{POINT_SUFFIX}.part", f"tasks-20261121-0400{POINT_SUFFIX}", f"x{POINT}"):
        (fixture.files / name).write_bytes(b"foreign")
    fixture.store.publish_point(POINT, b"{}")
    assert fixture.store.points() == (POINT,)
    assert not (fixture.files / f"{POINT}{ARCHIVE_SUFFIX}").exists()
