"""What every kind of store promises. Another kind joins with one line in KINDS."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import GenerationMissing
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_MAX_BYTES, MANIFEST_SUFFIX
from backupd.stores.contract import ListedGeneration
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.system.held_file import HeldFile
from backupd.system.small_file import UnexpectedFile
from support.held import pack_file
from support.replicas import connected

IDS = ("tasks-20261121-0400", "tasks-20261122-0400", "tasks-20261122-0400-2")
ID = IDS[0]


@contextmanager
def directory_store(files: Path, _request: pytest.FixtureRequest) -> Iterator[Any]:
    store = PublishingStore("here", files)
    store.prepare()
    yield store


class PublishingStore(DirectoryStore):
    """The local store, which takes its archives from its own staging directories."""

    def publish(self, generation_id: str, archive: Path, manifest: bytes) -> None:
        with self.staging() as staging:
            copy = HeldFile.create(staging, "archive.part")
            copy.write(archive.read_bytes())
            self.place(generation_id, copy, manifest)


@contextmanager
def directory_replica(files: Path, _request: pytest.FixtureRequest) -> Iterator[Any]:
    store = DirectoryReplica("here", files)
    store.prepare()
    yield store


@contextmanager
def sftp_store(files: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    with connected(request.getfixturevalue("sshd"), files) as store:
        store.prepare()
        yield store


# Each kind is made for a directory of this machine, so that tests can see, and plant, what is in it.
KINDS: dict[str, Callable[[Path, pytest.FixtureRequest], AbstractContextManager[Any]]] = {
    "directory": directory_store,
    "mirror": directory_replica,
    "sftp": sftp_store,
}


@dataclass
class StoreFixture:
    """A store, the directory where its files really are, and what was published into it by id."""

    store: Any
    files: Path
    work: Path
    archives: dict[str, bytes] = field(default_factory=dict)

    def publish(self, generation_id: str, manifest: bytes = b"{}\n") -> bytes:
        """Publish an archive that no other generation has; returns its bytes."""
        self.work.mkdir(exist_ok=True)
        snapshot, archive = self.work / "snapshot", self.work / "archive.part"
        snapshot.write_bytes(generation_id.encode() * 100)
        archive.unlink(missing_ok=True)  # a store may move it or leave it
        pack_file(snapshot, archive, level=1, workers=1, advance=lambda _done: None)
        self.archives[generation_id] = archive.read_bytes()
        self.store.publish(generation_id, archive, manifest)
        return self.archives[generation_id]

    def paths(self, generation_id: str) -> tuple[Path, Path]:
        """Return where archive and manifest are."""
        return self.files / f"{generation_id}{ARCHIVE_SUFFIX}", self.files / f"{generation_id}{MANIFEST_SUFFIX}"

    def names(self) -> set[str]:
        """Return the names that an operator sees there."""
        return {path.name for path in self.files.iterdir() if not path.name.startswith(".")}


@pytest.fixture(params=KINDS)
def fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFixture]:
    files = tmp_path / "files"
    files.mkdir()
    with KINDS[request.param](files, request) as store:
        yield StoreFixture(store, files, tmp_path / "work")


# --- Publishing, listing, reading ---


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


# --- What is none of its business ---


@pytest.mark.parametrize("part", [0, 1], ids=["archive alone", "manifest alone"])
def test_archive_or_manifest_alone_is_not_listed(fixture: StoreFixture, part: int) -> None:
    fixture.publish(ID)
    fixture.paths(ID)[part].unlink()
    assert fixture.store.list() == ()


ODD_NAMES = [
    f".{ID}{ARCHIVE_SUFFIX}",
    f"{ID}{ARCHIVE_SUFFIX}.part",
    f"{ID}{MANIFEST_SUFFIX}~",
    f"{ID}.sqlite3",
    f"{ID}.sqlite3.GZ",
    f"{ID}{ARCHIVE_SUFFIX}\n",
    f"{ID}\n{ARCHIVE_SUFFIX}",
    f"{ID}-1234{ARCHIVE_SUFFIX}",
    f"tasks{ARCHIVE_SUFFIX}",
    f"-20261121-0400{ARCHIVE_SUFFIX}",
    f"tasks-2026112\u0661-0400{ARCHIVE_SUFFIX}",
    os.fsdecode(b"caf\xe9-20261121-0400.sqlite3.gz"),
    ARCHIVE_SUFFIX,
    MANIFEST_SUFFIX,
    "README",
]


def test_files_with_other_names_are_ignored(fixture: StoreFixture) -> None:
    for name in ODD_NAMES:
        for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):  # both halves, so that only the name can keep it out
            (fixture.files / name.replace(ARCHIVE_SUFFIX, suffix)).write_bytes(b"foreign")
    before = fixture.names()
    assert fixture.store.list() == ()
    fixture.publish(ID)
    fixture.store.remove(ID)
    assert fixture.names() == before


def plant_link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(b"secret")
    path.symlink_to(outside)


def plant_dead_link(path: Path) -> None:
    path.symlink_to("/no/such/file")


PLANTS = {"link": plant_link, "dead link": plant_dead_link, "directory": Path.mkdir, "FIFO": os.mkfifo}


@pytest.mark.parametrize("part", [0, 1], ids=["archive", "manifest"])
@pytest.mark.parametrize("plant", PLANTS)
def test_special_files_are_not_listed_as_generations(fixture: StoreFixture, plant: str, part: int) -> None:
    fixture.publish(ID)
    fixture.paths(ID)[part].unlink()
    PLANTS[plant](fixture.paths(ID)[part])
    assert fixture.store.list() == ()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "plant",
    [
        "link",
        "dead link",
        "directory",
        "FIFO",
    ],
)
def test_special_files_are_never_read(fixture: StoreFixture, plant: str) -> None:
    for path in fixture.paths(ID):
        PLANTS[plant](path)
    with pytest.raises(GenerationMissing):
        fixture.store.manifest(ID)
    with pytest.raises(GenerationMissing):
        fixture.store.open(ID).close()


# --- Removing ---


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


HOSTILE_IDS = [
    "../tasks-20261121-0400",
    "../../tasks-20261121-0400",
    "inside/tasks-20261121-0400",
    "./tasks-20261121-0400",
    "tasks-20261121-0400/../../tasks-20261121-0400",
    "/tasks-20261121-0400",
    "",
    ".",
    "..",
    "tasks-20261121-0400\n",
    "tasks-20261121-0400\0",
    "tasks",
]


@pytest.mark.parametrize("hostile", HOSTILE_IDS, ids=repr)
def test_id_that_is_a_path_is_refused(fixture: StoreFixture, hostile: str) -> None:
    with pytest.raises(GenerationMissing):
        fixture.store.manifest(hostile)
    with pytest.raises(GenerationMissing):
        fixture.store.open(hostile)


@pytest.mark.parametrize(
    "hostile",
    HOSTILE_IDS,
    ids=repr,
)
def test_removal_of_id_that_is_a_path_removes_nothing(fixture: StoreFixture, hostile: str) -> None:
    above, inside = fixture.files.parent, fixture.files / "inside"
    inside.mkdir()
    for directory in (above, fixture.files, inside):
        for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
            (directory / f"{ID}{suffix}").write_bytes(b"mine")
    before = sorted(above.rglob("*"))
    fixture.store.remove(hostile)
    assert sorted(above.rglob("*")) == before


# --- Checksums ---


def digests(fixture: StoreFixture) -> dict[str, str]:
    return {key: hashlib.sha256(archive).hexdigest() for key, archive in fixture.archives.items()}


def sha256sum(directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=directory, capture_output=True, text=True, check=False
    )


def test_sha256sum_accepts_checksums(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(digests(fixture))
    done = sha256sum(fixture.files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{key}{ARCHIVE_SUFFIX}: OK" for key in IDS]


def test_sha256sum_finds_changed_archive(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(digests(fixture))
    fixture.paths(IDS[1])[0].write_bytes(bytes([*fixture.archives[IDS[1]][:-1], 0xFF]))
    done = sha256sum(fixture.files)
    assert done.returncode == 1
    assert f"{IDS[1]}{ARCHIVE_SUFFIX}: FAILED" in done.stdout


def test_new_checksums_replace_old_ones(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(digests(fixture))
    some = {key: digest for key, digest in digests(fixture).items() if key != ID}
    fixture.store.write_checksums(some)
    fixture.store.write_checksums(some)
    assert (fixture.files / "SHA256SUMS").read_text() == "".join(
        f"{some[key]}  {key}{ARCHIVE_SUFFIX}\n" for key in IDS[1:]
    )
    fixture.store.write_checksums({})
    assert (fixture.files / "SHA256SUMS").read_bytes() == b""


def test_link_named_sha256sums_is_replaced_and_not_followed(fixture: StoreFixture) -> None:
    fixture.publish(ID)
    outside = fixture.files.parent / "outside"
    outside.write_bytes(b"mine")
    (fixture.files / "SHA256SUMS").symlink_to(outside)
    fixture.store.write_checksums(digests(fixture))
    assert outside.read_bytes() == b"mine"
    assert sha256sum(fixture.files).returncode == 0


# --- The rest of the house ---


def test_foreign_files_are_never_touched(fixture: StoreFixture) -> None:
    foreign = {"tasks.db": b"the app's", "notes.txt": b"", ".env": b"SECRET=1", f"{ID}.sqlite3": b"unpacked by hand"}
    for name, data in foreign.items():
        (fixture.files / name).write_bytes(data)
    (fixture.files / "deeper").mkdir()
    (fixture.files / "deeper" / f"{ID}{ARCHIVE_SUFFIX}").write_bytes(b"moved away by hand")
    states = {name: (fixture.files / name).stat() for name in foreign}
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(digests(fixture))
    for key in IDS:
        fixture.store.remove(key)
    fixture.store.write_checksums({})
    for name, data in foreign.items():
        path = fixture.files / name
        assert path.read_bytes() == data
        assert (path.stat().st_mtime_ns, path.stat().st_mode) == (states[name].st_mtime_ns, states[name].st_mode)
    assert (fixture.files / "deeper" / f"{ID}{ARCHIVE_SUFFIX}").read_bytes() == b"moved away by hand"


def test_free_space_is_that_of_file_system_or_unknown(fixture: StoreFixture) -> None:
    free = fixture.store.free_space()
    assert free is None or abs(free - shutil.disk_usage(fixture.files).free) < 1 << 30


@pytest.mark.parametrize("fixture", [kind for kind in KINDS if kind != "directory"], indirect=True)
def test_archive_replaced_by_link_is_not_sent(fixture: StoreFixture) -> None:  # the local store takes no path
    fixture.work.mkdir()
    (fixture.work / "secret").write_bytes(b"what only root may read")
    (fixture.work / "archive.part").symlink_to(fixture.work / "secret")
    with pytest.raises(UnexpectedFile, match="a symbolic link"):
        fixture.store.publish(ID, fixture.work / "archive.part", b"{}")
    assert not any(b"only root" in path.read_bytes() for path in fixture.files.rglob("*") if path.is_file())
