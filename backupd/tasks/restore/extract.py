"""Fetch, unpack and verify a generation: every verification, restore and drill reads archives with this module."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from backupd.archive.archive import unpack
from backupd.errors import CopyCorrupt, NoSpace, ReplicaUnreachable
from backupd.model import Manifest
from backupd.sqlite.inspection import Inspection, checking
from backupd.stores.contract import Archives
from backupd.stores.local import DirectoryStore
from backupd.system.directory import Directory
from backupd.system.fs import is_disk_full
from backupd.system.held_file import HeldFile
from backupd.system.os_errors import explain_full
from backupd.system.resources import require_space, watching_space
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import Retry, replica_errors

_CHUNK_BYTES = 1 << 20
_HINT = "use another generation, or this one from another store (backupd list)"

Connect = Callable[[], AbstractContextManager[Archives]]
Reopen = Callable[[int, ExitStack], BinaryIO]  # opens the archive from that byte on; the stack closes the connection


class ResumingArchives:
    """The archives of `first`; when its connection is lost, `connect` opens another, as long as `retry` allows.

    Reading resumes at the byte after the last one: every reader compares the digest of the whole archive at the end.
    """

    def __init__(self, first: Archives, connect: Connect, retry: Retry) -> None:
        self.name = first.name
        self._first, self._connect, self._retry = first, connect, retry

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""
        with replica_errors(self.name):
            stream = self._first.open(generation_id, begin)

        def reopen(at: int, stack: ExitStack) -> BinaryIO:
            return stack.enter_context(stack.enter_context(self._connect()).open(generation_id, at))

        return io.BufferedReader(_Resuming(self.name, stream, begin, reopen, self._retry), _CHUNK_BYTES)


class _Resuming(io.RawIOBase):
    def __init__(self, name: str, stream: BinaryIO, at: int, reopen: Reopen, retry: Retry) -> None:
        self._name = name
        self._stack = ExitStack()
        self._stream: BinaryIO | None = self._stack.enter_context(stream)
        self._at, self._reopen, self._retry = at, reopen, retry

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer`; 0 at the end. Raises ReplicaUnreachable when the retries are used up, OSError."""
        chunk = self._retry(lambda: self._read(len(buffer)))
        count = len(chunk)
        buffer[:count] = chunk
        self._at += count
        return count

    def close(self) -> None:
        """Close the archive, and the connection that was opened for it."""
        if not self.closed:
            self._stack.close()
        super().close()

    def _read(self, size_bytes: int) -> bytes:
        try:
            with replica_errors(self._name):
                if self._stream is None:
                    self._stream = self._reopen(self._at, self._stack)
                return self._stream.read(size_bytes)
        except ReplicaUnreachable:
            self._stream = None
            self._stack.close()
            raise


def extract_verified(
    manifest: Manifest, store: Archives, target: Path, workers: int, context: TaskContext, reserve_bytes: int = 0
) -> Inspection:
    """Unpack a generation into the new file `target` (0600), durably, verify it, and return what it contains.

    Verified are the digest of the archive, digest and size of the snapshot, and its integrity. At least `reserve_bytes`
    stay free. Raises CopyCorrupt, GenerationMissing, NoSpace; `target` is removed then.
    """
    expected = manifest.snapshot
    require_space(target.parent, expected.size_bytes, reserve_bytes, f"unpacking {manifest.id}")
    context.progress.stage("unpack", expected.size_bytes)
    try:
        advance = watching_space(target.parent, reserve_bytes, context.progress.advance)
        with store.open(manifest.id) as archive:
            limit = expected.size_bytes
            sha256 = unpack(archive, target, manifest.archive, limit_bytes=limit, workers=workers, advance=advance)
        return _check(manifest, target, sha256, context)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, CopyCorrupt):
            raise CopyCorrupt(f"{manifest.id}: {error.message}", _HINT) from error
        if isinstance(error, OSError) and is_disk_full(error):
            what, hint = explain_full(error, target.parent)
            raise NoSpace(what, f"{hint}, and try again") from error
        raise


def _check(manifest: Manifest, target: Path, sha256: str, context: TaskContext) -> Inspection:
    expected = manifest.snapshot
    if sha256 != expected.sha256 or target.stat().st_size != expected.size_bytes:
        raise CopyCorrupt("the unpacked snapshot differs from its manifest in digest or size", _HINT)
    context.progress.stage("check", expected.size_bytes)
    with (
        Directory.open(target.parent) as directory,
        checking(HeldFile.open(directory, target.name), expected.sqlite_writer) as wait,
    ):
        inspection = wait()
    if inspection.verdict.level == "corrupt":
        raise CopyCorrupt(f"it is corrupt: {inspection.verdict.damage[0]}", _HINT)
    if inspection.verdict.level == "opaque" != manifest.verdict.level:
        raise CopyCorrupt("it cannot be read, but could be when its manifest was written", _HINT)
    return inspection


def fetch(manifest: Manifest, store: Archives, directory: Path, reserve: int, context: TaskContext) -> DirectoryStore:
    """Copy the archive of a generation, unverified, into `directory`; return that as a store of the same name.

    At least `reserve` bytes stay free. Raises GenerationMissing, NoSpace, ReplicaUnreachable.
    """
    fetched = DirectoryStore(store.name, directory)
    target, size_bytes = fetched.archive_path(manifest.id), manifest.archive.size_bytes
    context.progress.stage("fetch", size_bytes)
    advance = watching_space(directory, reserve, context.progress.advance)
    with replica_errors(store.name):
        stream = store.open(manifest.id)
    with stream, target.open("wb") as copy:
        done_bytes = 0
        while done_bytes <= size_bytes and (chunk := _read(stream, store.name)):  # stop at one that is longer
            copy.write(chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
    return fetched


def _read(stream: BinaryIO, name: str) -> bytes:
    with replica_errors(name):
        return stream.read(_CHUNK_BYTES)
