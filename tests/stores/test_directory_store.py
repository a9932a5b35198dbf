"""Features of a store in a local directory: staging, unpaired files, owners, and new directories."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backupd.errors import GenerationMissing, StoreUnusable
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.stores.local import DirectoryStore
from backupd.system.held_file import HeldFile
from support.held import pack_file

ID = "tasks-20261121-0400"
OTHER = "tasks-20261122-0400"
OWNER = (4321, 8765)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore("local", tmp_path / "backups")
    store.prepare()
    return store


def publish(store: DirectoryStore, generation_id: str) -> None:
    with store.staging() as place:
        place.write("snapshot", b"rows")
        pack_file(Path(place.path) / "snapshot", Path(place.path) / "archive.part")
        store.place(generation_id, HeldFile.open(place, "archive.part"), b"manifest of " + generation_id.encode())


def everything(directory: Path) -> Iterator[Path]:
    yield directory
    yield from directory.rglob("*")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_unpaired_files_are_archives_or_manifests_alone(store: DirectoryStore) -> None:
    for key in (ID, OTHER, f"{ID}-2"):
        publish(store, key)
    assert store.unpaired_files() == ()
    (store.directory / f"{ID}{ARCHIVE_SUFFIX}").unlink()
    (store.directory / f"{OTHER}{MANIFEST_SUFFIX}").unlink()
    (store.directory / "README").touch()
    assert store.unpaired_files() == (f"{ID}{MANIFEST_SUFFIX}", f"{OTHER}{ARCHIVE_SUFFIX}")


@pytest.mark.parametrize("suffix", [ARCHIVE_SUFFIX, MANIFEST_SUFFIX])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/nowhere")])
def test_generation_has_files_when_archive_or_manifest_exists(store: DirectoryStore, make: object, suffix: str) -> None:
    assert not store.has_files(ID)
    make(store.directory / f"{ID}{suffix}")  # type: ignore[operator]
    assert store.has_files(ID)
    assert not store.has_files(OTHER)
    assert store.ids_in_use() == {ID}


def test_directory_named_as_archive_leaks_no_descriptor(store: DirectoryStore) -> None:
    (store.directory / f"{ID}{ARCHIVE_SUFFIX}").mkdir()
    before = open_descriptors()
    for _ in range(5):
        with pytest.raises(GenerationMissing):
            store.open(ID)
    assert open_descriptors() == before


def test_staging_is_private_and_removed_after_error(store: DirectoryStore) -> None:
    with suppress(RuntimeError), store.staging() as directory:
        place = Path(directory.path)
        (place / "deep" / "er").mkdir(parents=True)
        (place / "deep" / "er" / "file").touch()
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert store.directory in place.parents
        raise RuntimeError
    assert not place.exists()


def test_two_runs_never_share_staging_directory(store: DirectoryStore) -> None:
    with store.staging() as one, store.staging() as two:
        assert one.path != two.path
        assert not list(store.recover()), "a directory that is at work was swept"
        assert Path(one.path).is_dir()
        assert Path(two.path).is_dir()


def test_hidden_directory_has_mode_0700(store: DirectoryStore) -> None:
    modes = {oct(stat.S_IMODE(path.stat().st_mode)) for path in everything(store.hidden) if path.is_dir()}
    assert modes == {"0o700"}


def test_missing_mount_is_error_because_only_last_directory_is_created(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"the directory .*/mnt does not exist") as refusal:
        DirectoryStore("local", tmp_path / "mnt" / "backups").prepare()
    assert "mount" in refusal.value.hint
    assert not (tmp_path / "mnt").exists()


def test_file_at_path_of_store_is_named_in_error(tmp_path: Path) -> None:
    (tmp_path / "backups").touch()
    with pytest.raises(StoreUnusable, match=str(tmp_path / "backups")):
        DirectoryStore("local", tmp_path / "backups").prepare()


def test_missing_directory_lists_nothing_and_is_not_created(tmp_path: Path) -> None:
    assert DirectoryStore("local", tmp_path / "backups").list() == ()
    assert not (tmp_path / "backups").exists()


def test_unchanged_checksums_are_not_written(store: DirectoryStore) -> None:
    store.write_checksums({f"{ID}{ARCHIVE_SUFFIX}": "a" * 64})
    before = (store.directory / "SHA256SUMS").stat()
    store.write_checksums({f"{ID}{ARCHIVE_SUFFIX}": "a" * 64})
    after = (store.directory / "SHA256SUMS").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_checksums_are_readable_by_everyone(store: DirectoryStore) -> None:
    store.write_checksums({f"{ID}{ARCHIVE_SUFFIX}": "a" * 64})
    assert stat.S_IMODE((store.directory / "SHA256SUMS").stat().st_mode) == 0o644


@pytest.mark.root
def test_files_created_by_root_belong_to_owner_of_directory(tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    directory.mkdir()
    os.chown(directory, *OWNER)
    store = DirectoryStore("local", directory)
    store.prepare()
    publish(store, ID)
    store.write_checksums({f"{ID}{ARCHIVE_SUFFIX}": "a" * 64})
    made = list(everything(directory))
    assert len(made) == 7  # directory, archive, manifest, checksums, .backupd, removing, staging
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {OWNER}


@pytest.mark.root
def test_directory_created_by_root_belongs_to_owner_of_parent(tmp_path: Path) -> None:
    os.chown(tmp_path, *OWNER)
    store = DirectoryStore("local", tmp_path / "backups")
    store.prepare()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in everything(store.directory)} == {OWNER}
