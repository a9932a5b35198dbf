"""What every kind of store promises: foreign names, special files and ids that are paths are left alone."""

import os
from pathlib import Path

import pytest
from store_kinds import ID, IDS, KINDS, StoreFixture

from backupd.errors import GenerationMissing
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.system.small_file import UnexpectedFile

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


def test_foreign_files_are_never_touched(fixture: StoreFixture) -> None:
    foreign = {"tasks.db": b"the app's", "notes.txt": b"", ".env": b"SECRET=1", f"{ID}.sqlite3": b"unpacked by hand"}
    for name, data in foreign.items():
        (fixture.files / name).write_bytes(data)
    (fixture.files / "deeper").mkdir()
    (fixture.files / "deeper" / f"{ID}{ARCHIVE_SUFFIX}").write_bytes(b"moved away by hand")
    states = {name: (fixture.files / name).stat() for name in foreign}
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(fixture.digests())
    for key in IDS:
        fixture.store.remove(key)
    fixture.store.write_checksums({})
    for name, data in foreign.items():
        path = fixture.files / name
        assert path.read_bytes() == data
        assert (path.stat().st_mtime_ns, path.stat().st_mode) == (states[name].st_mtime_ns, states[name].st_mode)
    assert (fixture.files / "deeper" / f"{ID}{ARCHIVE_SUFFIX}").read_bytes() == b"moved away by hand"


@pytest.mark.parametrize("fixture", [kind for kind in KINDS if kind != "local"], indirect=True)
def test_archive_replaced_by_link_is_not_sent(fixture: StoreFixture) -> None:  # the local store takes no path
    fixture.work.mkdir()
    (fixture.work / "secret").write_bytes(b"what only root may read")
    (fixture.work / "archive.part").symlink_to(fixture.work / "secret")
    with pytest.raises(UnexpectedFile, match="a symbolic link"):
        fixture.store.publish(ID, fixture.work / "archive.part", b"{}")
    assert not any(b"only root" in path.read_bytes() for path in fixture.files.rglob("*") if path.is_file())
