"""What every kind of store promises. Another kind joins with one line in KINDS."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backupd.archive.archive import pack
from backupd.errors import GenerationMissing
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_MAX_BYTES, MANIFEST_SUFFIX
from backupd.stores.contract import ListedGeneration, Store
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from support.replicas import connected

IDS = ("tasks-20261121-0400", "tasks-20261122-0400", "tasks-20261122-0400-2")
ID = IDS[0]


@contextmanager
def directory_store(files: Path, _request: pytest.FixtureRequest) -> Iterator[Store]:
    store = DirectoryStore("here", files)
    store.prepare()
    yield store


@contextmanager
def mirror_store(files: Path, _request: pytest.FixtureRequest) -> Iterator[Store]:
    store = DirectoryReplica("here", files)
    store.prepare()
    yield store


@contextmanager
def sftp_store(files: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with connected(request.getfixturevalue("sshd"), files) as store:
        store.prepare()
        yield store


# Each kind is made for a directory of this machine, so that tests can see, and plant, what is in it.
KINDS: dict[str, Callable[[Path, pytest.FixtureRequest], AbstractContextManager[Store]]] = {
    "directory": directory_store,
    "mirror": mirror_store,
    "sftp": sftp_store,
}


@dataclass
class StoreFixture:
    """A store, the directory where its files really are, and what was published into it by id."""

    store: Store
    files: Path
    work: Path
    archives: dict[str, bytes] = field(default_factory=dict)

    def publish(self, generation_id: str, manifest: bytes = b"{}\n") -> bytes:
        """Publish an archive that no other generation has; returns its bytes."""
        self.work.mkdir(exist_ok=True)
        snapshot, archive = self.work / "snapshot", self.work / "archive.part"
        snapshot.write_bytes(generation_id.encode() * 100)
        archive.unlink(missing_ok=True)  # a store may move it or leave it
        pack(snapshot, archive, level=1, workers=1, advance=lambda _done: None)
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
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFixture]:
    files = tmp_path / "files"
    files.mkdir()
    with KINDS[request.param](files, request) as store:
        yield StoreFixture(store, files, tmp_path / "work")


# --- Publishing, listing, reading ---


def test_a_new_store_is_empty(bench: StoreFixture) -> None:
    assert bench.store.list() == ()
    assert bench.names() == set()


def test_generations_are_listed_by_id_whatever_the_order_they_came_in(bench: StoreFixture) -> None:
    for key in reversed(IDS):
        bench.publish(key)
    assert bench.store.list() == tuple(ListedGeneration(key, len(bench.archives[key])) for key in IDS)


def test_what_was_published_is_read_back_byte_for_byte(bench: StoreFixture) -> None:
    manifest = bytes(range(256)) * 10
    archive = bench.publish(ID, manifest)
    assert bench.store.manifest(ID) == manifest
    with bench.store.open(ID) as stream:
        assert stream.read(10) == archive[:10]
        assert stream.read() == archive[10:]


def test_only_archive_and_manifest_appear_and_for_their_owner_alone(bench: StoreFixture) -> None:
    umask = os.umask(0)
    try:
        bench.publish(ID)
    finally:
        os.umask(umask)
    assert bench.names() == {path.name for path in bench.paths(ID)}
    assert [oct(path.stat().st_mode) for path in bench.paths(ID)] == ["0o100600", "0o100600"]


def test_a_manifest_too_large_is_cut_off_just_past_the_limit(bench: StoreFixture) -> None:
    bench.publish(ID)
    bench.paths(ID)[1].write_bytes(b"x" * (MANIFEST_MAX_BYTES + 1000))
    assert len(bench.store.manifest(ID)) == MANIFEST_MAX_BYTES + 1


def test_many_manifests_are_each_its_own_whatever_is_wrong_with_others(bench: StoreFixture) -> None:
    ids = [f"tasks-2026{month:02}{day:02}-0400" for month in (1, 2) for day in range(1, 29)]
    wanted: dict[str, bytes | None] = {key: key.encode() * (number * 50) for number, key in enumerate(ids)}
    for key, manifest in wanted.items():
        bench.files.joinpath(f"{key}{MANIFEST_SUFFIX}").write_bytes(manifest or b"")
    gone, directory, link, large = ids[3], ids[31], ids[32], ids[-1]
    for key in (gone, directory, link):
        path, wanted[key] = bench.paths(key)[1], None
        path.unlink()
    bench.paths(directory)[1].mkdir()
    bench.paths(link)[1].symlink_to(bench.paths(ids[0])[1])
    wanted[large] = b"x" * (MANIFEST_MAX_BYTES + 1)
    bench.paths(large)[1].write_bytes(b"x" * (MANIFEST_MAX_BYTES + 1000))
    for key, read in zip(ids, bench.store.manifests(ids), strict=True):
        if wanted[key] is None:
            with pytest.raises(GenerationMissing, match=key):
                read()
        else:
            assert read() == wanted[key]


def test_what_is_not_there_is_said_to_be_missing(bench: StoreFixture) -> None:
    bench.publish(ID)
    for key in (IDS[1], f"{ID}-2"):
        with pytest.raises(GenerationMissing, match=key):
            bench.store.manifest(key)
        with pytest.raises(GenerationMissing, match=key):
            bench.store.open(key)


# --- What is none of its business ---


@pytest.mark.parametrize("part", [0, 1], ids=["archive alone", "manifest alone"])
def test_half_a_generation_is_none(bench: StoreFixture, part: int) -> None:
    bench.publish(ID)
    bench.paths(ID)[part].unlink()
    assert bench.store.list() == ()


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


def test_names_that_are_none_of_ours_are_ignored(bench: StoreFixture) -> None:
    for name in ODD_NAMES:
        for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):  # both halves, so that only the name can keep it out
            (bench.files / name.replace(ARCHIVE_SUFFIX, suffix)).write_bytes(b"foreign")
    before = bench.names()
    assert bench.store.list() == ()
    bench.publish(ID)
    bench.store.remove(ID)
    assert bench.names() == before


def plant_link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(b"secret")
    path.symlink_to(outside)


def plant_dead_link(path: Path) -> None:
    path.symlink_to("/no/such/file")


PLANTS = {"link": plant_link, "dead link": plant_dead_link, "directory": Path.mkdir, "FIFO": os.mkfifo}


@pytest.mark.parametrize("part", [0, 1], ids=["archive", "manifest"])
@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_no_plain_file_makes_no_generation(bench: StoreFixture, plant: str, part: int) -> None:
    bench.publish(ID)
    bench.paths(ID)[part].unlink()
    PLANTS[plant](bench.paths(ID)[part])
    assert bench.store.list() == ()


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
def test_what_is_no_plain_file_is_never_read(bench: StoreFixture, plant: str) -> None:
    for path in bench.paths(ID):
        PLANTS[plant](path)
    with pytest.raises(GenerationMissing):
        bench.store.manifest(ID)
    with pytest.raises(GenerationMissing):
        bench.store.open(ID).close()


# --- Removing ---


def test_a_removed_generation_is_gone_and_the_others_stay(bench: StoreFixture) -> None:
    for key in IDS:
        bench.publish(key)
    bench.store.remove(IDS[1])
    assert [stored.id for stored in bench.store.list()] == [IDS[0], IDS[2]]
    assert bench.names() == {path.name for key in (IDS[0], IDS[2]) for path in bench.paths(key)}
    with pytest.raises(GenerationMissing):
        bench.store.open(IDS[1])


def test_removing_what_is_not_there_changes_nothing(bench: StoreFixture) -> None:
    bench.publish(IDS[1])
    before = bench.names()
    bench.store.remove(ID)
    bench.store.remove(ID)
    assert bench.names() == before


def test_a_removed_id_can_be_published_again(bench: StoreFixture) -> None:
    bench.publish(ID, b"first")
    bench.store.remove(ID)
    bench.publish(ID, b"second")
    assert bench.store.manifest(ID) == b"second"


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
def test_an_id_that_is_a_path_is_refused(bench: StoreFixture, hostile: str) -> None:
    with pytest.raises(GenerationMissing):
        bench.store.manifest(hostile)
    with pytest.raises(GenerationMissing):
        bench.store.open(hostile)


@pytest.mark.parametrize(
    "hostile",
    HOSTILE_IDS,
    ids=repr,
)
def test_an_id_that_is_a_path_removes_nothing_anywhere(bench: StoreFixture, hostile: str) -> None:
    above, inside = bench.files.parent, bench.files / "inside"
    inside.mkdir()
    for directory in (above, bench.files, inside):
        for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
            (directory / f"{ID}{suffix}").write_bytes(b"mine")
    before = sorted(above.rglob("*"))
    bench.store.remove(hostile)
    assert sorted(above.rglob("*")) == before


# --- Checksums ---


def digests(bench: StoreFixture) -> dict[str, str]:
    return {key: hashlib.sha256(archive).hexdigest() for key, archive in bench.archives.items()}


def sha256sum(directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=directory, capture_output=True, text=True, check=False
    )


def test_the_real_sha256sum_accepts_the_checksums(bench: StoreFixture) -> None:
    for key in IDS:
        bench.publish(key)
    bench.store.write_checksums(digests(bench))
    done = sha256sum(bench.files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{key}{ARCHIVE_SUFFIX}: OK" for key in IDS]


def test_the_real_sha256sum_finds_the_archive_that_changed(bench: StoreFixture) -> None:
    for key in IDS:
        bench.publish(key)
    bench.store.write_checksums(digests(bench))
    bench.paths(IDS[1])[0].write_bytes(bytes([*bench.archives[IDS[1]][:-1], 0xFF]))
    done = sha256sum(bench.files)
    assert done.returncode == 1
    assert f"{IDS[1]}{ARCHIVE_SUFFIX}: FAILED" in done.stdout


def test_new_checksums_replace_the_old_ones(bench: StoreFixture) -> None:
    for key in IDS:
        bench.publish(key)
    bench.store.write_checksums(digests(bench))
    some = {key: digest for key, digest in digests(bench).items() if key != ID}
    bench.store.write_checksums(some)
    bench.store.write_checksums(some)
    assert (bench.files / "SHA256SUMS").read_text() == "".join(
        f"{some[key]}  {key}{ARCHIVE_SUFFIX}\n" for key in IDS[1:]
    )
    bench.store.write_checksums({})
    assert (bench.files / "SHA256SUMS").read_bytes() == b""


def test_a_link_in_the_place_of_the_checksums_is_replaced_and_not_followed(bench: StoreFixture) -> None:
    bench.publish(ID)
    outside = bench.files.parent / "outside"
    outside.write_bytes(b"mine")
    (bench.files / "SHA256SUMS").symlink_to(outside)
    bench.store.write_checksums(digests(bench))
    assert outside.read_bytes() == b"mine"
    assert sha256sum(bench.files).returncode == 0


# --- The rest of the house ---


def test_foreign_files_are_never_touched(bench: StoreFixture) -> None:
    foreign = {"tasks.db": b"the app's", "notes.txt": b"", ".env": b"SECRET=1", f"{ID}.sqlite3": b"unpacked by hand"}
    for name, data in foreign.items():
        (bench.files / name).write_bytes(data)
    (bench.files / "deeper").mkdir()
    (bench.files / "deeper" / f"{ID}{ARCHIVE_SUFFIX}").write_bytes(b"moved away by hand")
    states = {name: (bench.files / name).stat() for name in foreign}
    for key in IDS:
        bench.publish(key)
    bench.store.write_checksums(digests(bench))
    for key in IDS:
        bench.store.remove(key)
    bench.store.write_checksums({})
    for name, data in foreign.items():
        path = bench.files / name
        assert path.read_bytes() == data
        assert (path.stat().st_mtime_ns, path.stat().st_mode) == (states[name].st_mtime_ns, states[name].st_mode)
    assert (bench.files / "deeper" / f"{ID}{ARCHIVE_SUFFIX}").read_bytes() == b"moved away by hand"


def test_free_space_is_what_the_file_system_says_or_unknown(bench: StoreFixture) -> None:
    free = bench.store.free_space()
    assert free is None or abs(free - shutil.disk_usage(bench.files).free) < 1 << 30
