"""A replica in a directory: a second disk, a mounted NAS."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

from backupd.errors import ContentMissing, CopyCorrupt
from backupd.model import Kind
from backupd.stores import contract
from backupd.stores.contents import LocalContents
from backupd.stores.local import DirectoryStore
from backupd.system.directory import Directory
from backupd.system.fs import note_extra_access, write_all
from backupd.system.held_file import HeldFile
from backupd.system.small_file import open_regular

_CHUNK_BYTES: Final = 1 << 20
_TEST_DISK: Final = "test that disk (smartctl)"


class DirectoryReplicaContents(LocalContents):
    """The contents at a replica in a directory; see `stores.contract.ReplicaContents`."""

    def __init__(self, replica: "DirectoryReplica") -> None:
        super().__init__(replica.name, replica.directory)
        self._replica = replica

    def publish(
        self, digests: Iterable[str], local: contract.SendableContents, damaged: Collection[str] = ()
    ) -> contract.Transfer:
        """Copy contents, each verified here before and, on its disk, there; see `stores.contract.ReplicaContents`."""
        sizes, sent_bytes, count = self.sizes(), 0, 0
        there = {digest: size for digest, size in sizes.items() if digest.hex() not in damaged} if damaged else sizes
        with self._replica.staging() as staging, self.adding(staging) as writer:
            for digest in digests:
                try:
                    name, stored = local.open_stored(digest)
                except ContentMissing:
                    if bytes.fromhex(digest) in there:
                        continue
                    raise
                with stored:
                    if there.get(bytes.fromhex(digest)) == os.fstat(stored.fileno()).st_size:
                        continue
                    local.require_sound(digest)  # damage is not spread
                    with writer.part() as part:
                        while chunk := stored.read(_CHUNK_BYTES):
                            part.write(chunk)
                            self._replica.sent_bytes += len(chunk)
                        part.finish(bytes.fromhex(digest), packed=name != digest)
                    sent_bytes, count = sent_bytes + part.size_bytes, count + 1
        return contract.Transfer(sent_bytes, 0, contents=count)


class DirectoryReplica(DirectoryStore):
    """Keeps copies of generations in a directory; each is read back from its disk before it gets its name.

    Calls `advance` with the number of bytes copied, then with the number of bytes verified.
    """

    def __init__(self, name: str, directory: Path, advance: Callable[[int], None] = lambda _bytes: None) -> None:
        super().__init__(name, directory)
        self._advance = advance
        self.last_transfer = contract.Transfer(0, 0)
        self.sent_bytes = 0

    @property
    def contents(self) -> DirectoryReplicaContents:
        """The contents of files there."""
        return DirectoryReplicaContents(self)

    def has_hidden(self, path: str) -> bool:
        """Tell whether `path` exists in the hidden directory, whatever it is; "": that itself. Raises OSError."""
        *above, name = Path(contract.HIDDEN, path).parts
        try:
            with ExitStack() as stack:
                directory = stack.enter_context(Directory.open(self.directory))
                for part in above:
                    directory = stack.enter_context(directory.child(part))
                return directory.stat(name) is not None
        except FileNotFoundError:
            return False

    def publish(
        self,
        generation_id: str,
        archive: Path,
        manifest: bytes,
        kind: Kind = "database",
        replaces: bytes | None = None,
    ) -> None:
        """Copy `archive`, verify the copy on its disk, and place it. Raises CopyCorrupt, GenerationTaken, OSError."""
        contract.require_unchanged_manifest(self, generation_id, replaces, manifest)
        with self.staging() as staging, open(open_regular(archive), "rb") as source:
            copy = HeldFile.create(staging, "archive.part")
            self._copy(source, copy)
            self._verify(source, copy)
            contract.require_unchanged_manifest(self, generation_id, replaces, manifest)
            self.place(generation_id, copy, manifest, kind=kind)
            self.last_transfer = contract.Transfer(copy.size_bytes, 0)

    def sweep(self, keep: Collection[str]) -> Iterator[contract.RecoveredItem]:  # noqa: ARG002 - the interface of Replica
        """Do nothing: `recover` sweeps what a killed run left."""
        return iter(())

    def partial_bytes(self, generation_id: str) -> int:  # noqa: ARG002 - the interface of Replica
        """Return 0: an interrupted copy starts over."""
        return 0

    def probe(self) -> contract.ProbeResult:
        """Write, read back, rename and delete a small file. Raises BackupdError, OSError."""
        self.prepare()
        with self.staging() as staging:
            probe = HeldFile.create(staging, "probe")
            probe.write(contract.PROBE_DATA)
            probe.move(staging, "renamed")
            note_extra_access(probe.descriptor, probe.path)
            staging.fsync()
            if staging.read("renamed") != contract.PROBE_DATA:
                raise CopyCorrupt(f"a file in {self.directory} reads back differently than written", _TEST_DISK)
            ahead_s = os.fstat(probe.descriptor).st_mtime - time.time()
        return contract.ProbeResult((), ahead_s, self.free_space())

    def _copy(self, source: BinaryIO, copy: HeldFile) -> None:
        with copy.stream() as target:
            while chunk := source.read(_CHUNK_BYTES):
                write_all(target, chunk)
                self.sent_bytes += len(chunk)
            os.fsync(target.fileno())

    def _verify(self, source: BinaryIO, copy: HeldFile) -> None:
        """Compare with what is on the disk, not in the page cache. Raises CopyCorrupt."""
        source.seek(0)
        verified_bytes = 0
        with copy.stream() as target:
            os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := source.read(_CHUNK_BYTES):
                if target.read(len(chunk)) != chunk:
                    raise CopyCorrupt(f"the copy in {self.directory} reads back differently than written", _TEST_DISK)
                verified_bytes += len(chunk)
                self._advance(verified_bytes)
