"""A replica in a directory that another machine writes to, such as a share: planted objects are not followed.

Objects are planted at every name of a replica, and swapped before each system call of each operation.
"""

import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Self

import pytest

from backupd.errors import BackupdError
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.stores.contents import LocalContents
from backupd.stores.directory_replica import DirectoryReplica
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import replica_inventory
from backupd.tasks.requests import BackupRequest
from support.directories import mounted
from support.replicas import replicate_to

pytestmark = [pytest.mark.no_cover, pytest.mark.timeout(60)]

ID = "tasks-20261121-0400"
OTHER = "tasks-20261122-0400"
POINT = "point-20261121-0400"
CONTENT = b"a content of a file"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
STORED = f"files/{DIGEST[:2]}"
OTHER_NAMES = ("SHA256SUMS", "SHA256SUMS.new", "archive.part", "identity", DIGEST)
BAIT = ("", ".backupd", ".backupd/removing", ".backupd/staging", ".backupd/staging/run-abc12345", STORED)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that has what a replica has, at the same names; whatever happens, it stays as it is."""
    outside = tmp_path / "outside"
    for directory in BAIT:
        (outside / directory).mkdir(parents=True)
        for name in (
            *files_of(ID),
            *files_of(OTHER),
            "SHA256SUMS",
            "SHA256SUMS.new",
            "archive.part",
            "identity",
            DIGEST,
        ):
            (outside / directory / name).write_bytes(b"a secret of another app")
    before = facts(outside)
    yield outside
    assert facts(outside) == before


def facts(directory: Path) -> dict[Path, tuple[int, int, int, bytes]]:
    """Return owner, group, mode and contents of all that is in `directory`."""
    return {
        path: (found.st_uid, found.st_gid, found.st_mode, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
        if (found := path.lstat())
    }


def files_of(generation_id: str) -> tuple[str, str]:
    return f"{generation_id}{ARCHIVE_SUFFIX}", f"{generation_id}{MANIFEST_SUFFIX}"


# --- Planted ---


def pipe(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def device(path: Path, _outside: Path) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero, which has no end


def link_to_device(path: Path, _outside: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside / files_of(ID)[0])


def link_to_directory(path: Path, outside: Path) -> None:
    path.symlink_to(outside / ".backupd")


def directory(path: Path, _outside: Path) -> None:
    (path / "deeper").mkdir(parents=True)


PLANTS: tuple[Callable[[Path, Path], None], ...] = (
    pipe,
    device,
    link_to_device,
    link_to_file,
    link_to_directory,
    directory,
)
NAMES = (
    "{id}.sqlite3.gz",
    "{id}.manifest.json",
    "tasks-20200101-0400.sqlite3.gz",
    "tasks-20200101-0400.manifest.json",
    "SHA256SUMS",
    f"{POINT}.point.json",
    ".backupd",
    ".backupd/removing",
    ".backupd/removing/tasks-20200101-0400.manifest.json",
    ".backupd/staging",
    ".backupd/staging/run-abc12345",
    ".backupd/SHA256SUMS.new",
)


@pytest.mark.root
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_planted_file_in_replica_is_reported_or_replaced_and_not_followed(
    order: BackupRequest, context: TaskContext, outside: Path, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    generation = backup(order, context).generation
    assert generation is not None
    for number, name in enumerate(NAMES):
        there = tmp_path / f"there-{number}"
        path = there / name.format(id=generation)
        path.parent.mkdir(parents=True)
        plant(path, outside)
        for _ in range(2):  # the second finds what the first has left
            report = replicate_to(lambda there=there: nullcontext(DirectoryReplica("there", there)), context)
            with suppress(BackupdError, OSError):
                replica_inventory("there", DirectoryReplica("there", there), context)
        archive, manifest = (there / file for file in files_of(generation))
        if report.outcome == "done":
            assert archive.read_bytes() == context.store.archive_path(generation).read_bytes(), name
            assert manifest.is_file(), name
            assert not archive.is_symlink(), name
            assert not manifest.is_symlink(), name
        else:
            assert (report.exit_code, str(there) in str(report.error)) == (1, True), (name, report)


@pytest.mark.root
@pytest.mark.parametrize("name", ["files", STORED, f"{STORED}/{DIGEST}", f"{STORED}/{DIGEST}.gz"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_planted_object_in_place_of_contents_is_replaced_or_refused_and_not_followed(
    outside: Path, archive: Path, tmp_path: Path, plant: Callable[[Path, Path], None], name: str
) -> None:
    replica = with_generation(tmp_path / "there", archive)
    path = tmp_path / "there" / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    plant(path, outside)
    if plant is directory and name in {"files", STORED}:
        (path / "deeper").rmdir()  # then it is an ordinary one
    elif name in {"files", STORED} or (plant is directory and name.endswith(DIGEST)):
        with pytest.raises(OSError, match="directory") as refused:
            send_content(replica, archive)
        assert str(path) in f"{refused.value.filename} {refused.value.filename2}"
        return
    send_content(replica, archive)
    replica.contents.require_sound(DIGEST)
    remove_content(replica, archive)
    assert bytes.fromhex(DIGEST) not in replica.contents.sizes()


# --- Swapped while it works ---


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(1000))
    return path


def publish(replica: DirectoryReplica, archive: Path) -> None:
    replica.publish(OTHER, archive, b"{}\n")


def remove(replica: DirectoryReplica, _archive: Path) -> None:
    replica.remove(ID)


def recover(replica: DirectoryReplica, _archive: Path) -> None:
    list(replica.recover())


def sums(replica: DirectoryReplica, _archive: Path) -> None:
    replica.write_checksums({f"{ID}.sqlite3.gz": "0" * 64})


def probe(replica: DirectoryReplica, _archive: Path) -> None:
    replica.probe()


def publish_point(replica: DirectoryReplica, _archive: Path) -> None:
    replica.publish_point(POINT, b"{}\n")


def remove_point(replica: DirectoryReplica, _archive: Path) -> None:
    replica.remove_point("point-20261120-0400")


def send_content(replica: DirectoryReplica, archive: Path) -> None:
    replica.contents.publish([DIGEST], LocalContents("local", archive.with_name("local")))


def remove_content(replica: DirectoryReplica, _archive: Path) -> None:
    replica.contents.remove([DIGEST, *(raw.hex() for raw in replica.contents.sizes())])


ACTIONS: tuple[Callable[[DirectoryReplica, Path], None], ...] = (
    publish,
    remove,
    recover,
    sums,
    probe,
    publish_point,
    remove_point,
    send_content,
    remove_content,
)
SWAPPED = (".backupd", ".backupd/removing", ".backupd/staging", ".backupd/staging/run-*", "files", "files/*")


def with_generation(directory: Path, archive: Path) -> DirectoryReplica:
    """Return a replica that has a generation, and what killed runs left."""
    shutil.rmtree(directory, ignore_errors=True)
    replica = DirectoryReplica("nas", directory)
    replica.prepare()
    replica.publish(ID, archive, b"{}\n")
    hidden = directory / ".backupd"
    (hidden / "removing" / files_of(OTHER)[1]).write_bytes(b"{}\n")
    (hidden / "staging/run-abc12345").mkdir()
    (hidden / "staging/run-abc12345" / files_of(OTHER)[1]).write_bytes(b"{}\n")
    replica.publish_point("point-20261120-0400", b"{}\n")
    for place, data in ((directory, b"another content"), (archive.with_name("local"), CONTENT)):
        digest = hashlib.sha256(data).hexdigest()
        (place / "files" / digest[:2]).mkdir(parents=True, exist_ok=True)
        (place / "files" / digest[:2] / digest).write_bytes(data)
    return replica


BY_NAME = {*os.supports_dir_fd, io.open, os.listdir, os.remove, os.replace, os.scandir}  # and by descriptor


@dataclass
class Swap:
    """In a `with` block: before call number `at` puts a link to `outside` in the place of `name` in `directory`."""

    at: int
    directory: Path
    name: str
    outside: Path
    calls: int = 0
    hit: bool = False

    def __enter__(self) -> Self:
        sys.setprofile(self._watch)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(None)

    def _watch(self, _frame: FrameType, event: str, function: object) -> None:
        if event != "c_call" or function not in BY_NAME:
            return
        self.calls += 1
        if self.calls == self.at:
            sys.setprofile(None)
            for path in self.directory.glob(self.name):
                path.rename(self.directory / "swapped-away")
                path.symlink_to(self.outside / path.relative_to(self.directory))
                self.hit = True
                return


@pytest.mark.parametrize("name", SWAPPED)
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_directory_replaced_by_link_before_any_call_is_not_followed(
    action: Callable[[DirectoryReplica, Path], None],
    name: str,
    outside: Path,
    archive: Path,
    tmp_path: Path,
) -> None:
    before, hits = facts(outside), 0
    for at in count(1):
        replica = with_generation(tmp_path / "there", archive)
        with Swap(at, tmp_path / "there", name, outside) as swap, suppress(BackupdError, OSError):
            action(replica, archive)
        assert facts(outside) == before, f"{action.__name__}: {name} swapped before call {at}"
        hits += swap.hit
        if swap.calls < at:
            break
    assert hits or "run-*" in name, "it was never swapped: this test tested nothing"


# --- Mounted ---


@pytest.mark.root
@pytest.mark.parametrize("name", [".backupd/staging/run-abc12345/mount", ".backupd/staging/run-abc12345"])
def test_mount_in_replica_is_not_emptied(outside: Path, archive: Path, tmp_path: Path, name: str) -> None:
    replica = with_generation(tmp_path / "there", archive)
    mount = tmp_path / "there" / name
    shutil.rmtree(mount, ignore_errors=True)
    with mounted(outside, mount):
        found = [item for item in replica.recover() if item.kind == "staging"]
    assert [bool(item.problem) for item in found] == [True], "it is told"
