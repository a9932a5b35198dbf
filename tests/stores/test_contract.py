"""What every kind of store promises: publishing, listing, reading and removing."""

import os
import shutil

import pytest
from store_kinds import ID, IDS, StoreFixture

from backupd.errors import GenerationMissing
from backupd.model import MANIFEST_MAX_BYTES, MANIFEST_SUFFIX
from backupd.stores.contract import ListedGeneration


def test_new_store_is_empty(fixture: StoreFixture) -> None:
    assert fixture.store.list() == ()
    assert fixture.names() == set()


def test_generations_published_in_any_order_are_listed_by_id(fixture: StoreFixture) -> None:
    for key in reversed(IDS):
        fixture.publish(key)
    assert fixture.store.list() == tuple(ListedGeneration(key, len(fixture.archives[key])) for key in IDS)


def test_published_files_are_read_back_byte_for_byte(fixture: StoreFixture) -> None:
    manifest = bytes(range(256)) * 10
    archive = fixture.publish(ID, manifest)
    assert fixture.store.manifest(ID) == manifest
    with fixture.store.open(ID) as stream:
        assert stream.read(10) == archive[:10]
        assert stream.read() == archive[10:]


def test_published_files_are_archive_and_manifest_with_mode_0600(fixture: StoreFixture) -> None:
    umask = os.umask(0)
    try:
        fixture.publish(ID)
    finally:
        os.umask(umask)
    assert fixture.names() == {path.name for path in fixture.paths(ID)}
    assert [oct(path.stat().st_mode) for path in fixture.paths(ID)] == ["0o100600", "0o100600"]


def test_manifest_above_limit_is_read_up_to_one_byte_more(fixture: StoreFixture) -> None:
    fixture.publish(ID)
    fixture.paths(ID)[1].write_bytes(b"x" * (MANIFEST_MAX_BYTES + 1000))
    assert len(fixture.store.manifest(ID)) == MANIFEST_MAX_BYTES + 1


def test_manifests_read_together_are_independent_of_missing_and_invalid_ones(fixture: StoreFixture) -> None:
    ids = [f"tasks-2026{month:02}{day:02}-0400" for month in (1, 2) for day in range(1, 29)]
    wanted: dict[str, bytes | None] = {key: key.encode() * (number * 50) for number, key in enumerate(ids)}
    for key, manifest in wanted.items():
        fixture.files.joinpath(f"{key}{MANIFEST_SUFFIX}").write_bytes(manifest or b"")
    gone, directory, link, large = ids[3], ids[31], ids[32], ids[-1]
    for key in (gone, directory, link):
        path, wanted[key] = fixture.paths(key)[1], None
        path.unlink()
    fixture.paths(directory)[1].mkdir()
    fixture.paths(link)[1].symlink_to(fixture.paths(ids[0])[1])
    wanted[large] = b"x" * (MANIFEST_MAX_BYTES + 1)
    fixture.paths(large)[1].write_bytes(b"x" * (MANIFEST_MAX_BYTES + 1000))
    for key, read in zip(ids, fixture.store.manifests(ids), strict=True):
        if wanted[key] is None:
            with pytest.raises(GenerationMissing, match=key):
                read()
        else:
            assert read() == wanted[key]


def test_missing_generation_raises_generation_missing(fixture: StoreFixture) -> None:
    fixture.publish(ID)
    for key in (IDS[1], f"{ID}-2"):
        with pytest.raises(GenerationMissing, match=key):
            fixture.store.manifest(key)
        with pytest.raises(GenerationMissing, match=key):
            fixture.store.open(key)


@pytest.mark.parametrize("part", [0, 1], ids=["archive alone", "manifest alone"])
def test_archive_or_manifest_alone_is_not_listed(fixture: StoreFixture, part: int) -> None:
    fixture.publish(ID)
    fixture.paths(ID)[part].unlink()
    assert fixture.store.list() == ()


def test_removed_generation_is_gone_and_others_are_kept(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.remove(IDS[1])
    assert [stored.id for stored in fixture.store.list()] == [IDS[0], IDS[2]]
    assert fixture.names() == {path.name for key in (IDS[0], IDS[2]) for path in fixture.paths(key)}
    with pytest.raises(GenerationMissing):
        fixture.store.open(IDS[1])


def test_removal_of_missing_generation_changes_nothing(fixture: StoreFixture) -> None:
    fixture.publish(IDS[1])
    before = fixture.names()
    fixture.store.remove(ID)
    fixture.store.remove(ID)
    assert fixture.names() == before


def test_removed_id_can_be_published_again(fixture: StoreFixture) -> None:
    fixture.publish(ID, b"first")
    fixture.store.remove(ID)
    fixture.publish(ID, b"second")
    assert fixture.store.manifest(ID) == b"second"


def test_free_space_is_that_of_file_system_or_unknown(fixture: StoreFixture) -> None:
    free = fixture.store.free_space()
    assert free is None or abs(free - shutil.disk_usage(fixture.files).free) < 1 << 30
