"""Every kind of store that the contract is tested with. Another kind joins with one line in KINDS."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from backupd.model import MANIFEST_SUFFIX, Kind, archive_name
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.system.held_file import HeldFile
from support.held import pack_file
from support.replicas import connected

IDS = ("tasks-20261121-0400", "tasks-20261122-0400", "tasks-20261122-0400-2")
ID = IDS[0]


@contextmanager
def local_store(files: Path, _request: pytest.FixtureRequest) -> Iterator[Any]:
    store = PublishingStore("here", files)
    store.prepare()
    yield store


class PublishingStore(DirectoryStore):
    """The local store, which takes its archives from its own staging directories."""

    def publish(self, generation_id: str, archive: Path, manifest: bytes, kind: Kind = "database") -> None:
        with self.staging() as staging:
            copy = HeldFile.create(staging, "archive.part")
            copy.write(archive.read_bytes())
            self.place(generation_id, copy, manifest, kind=kind)


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
    "local": local_store,
    "replica": directory_replica,
    "sftp": sftp_store,
}


@dataclass
class StoreFixture:
    """A store, the directory where its files really are, and what was published into it by id."""

    store: Any
    files: Path
    work: Path
    archives: dict[str, bytes] = field(default_factory=dict)

    def publish(self, generation_id: str, manifest: bytes = b"{}\n", kind: Kind = "database") -> bytes:
        """Publish an archive that no other generation has; returns its bytes."""
        self.work.mkdir(exist_ok=True)
        snapshot, archive = self.work / "snapshot", self.work / "archive.part"
        snapshot.write_bytes(generation_id.encode() * 100)
        archive.unlink(missing_ok=True)  # a store may move it or leave it
        pack_file(snapshot, archive, level=1, workers=1, advance=lambda _done: None)
        self.archives[generation_id] = archive.read_bytes()
        self.store.publish(generation_id, archive, manifest, kind)
        return self.archives[generation_id]

    def paths(self, generation_id: str, kind: Kind = "database") -> tuple[Path, Path]:
        """Return where archive and manifest are."""
        return self.files / archive_name(generation_id, kind), self.files / f"{generation_id}{MANIFEST_SUFFIX}"

    def names(self) -> set[str]:
        """Return the names that an operator sees there."""
        return {path.name for path in self.files.iterdir() if not path.name.startswith(".")}

    def digests(self) -> dict[str, str]:
        """Return the digests of the published archives of databases by file name, as checksums list them."""
        return {archive_name(key, "database"): sha256(archive).hexdigest() for key, archive in self.archives.items()}
