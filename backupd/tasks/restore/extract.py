"""Fetch, unpack and verify a generation: every verification, restore and drill reads archives with this module."""

import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from backupd.archive.archive import unpack
from backupd.errors import CopyCorrupt, NoSpace, ReplicaUnreachable
from backupd.model import Manifest
from backupd.sqlite.inspection import Inspection, checking
from backupd.stores.contract import Archives
from backupd.system.directory import Directory
from backupd.system.fs import is_disk_full, write_all
from backupd.system.held_file import HeldFile
from backupd.system.os_errors import explain_full
from backupd.system.resources import require_space, watching_space
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import Retry, replica_errors

_CHUNK_BYTES = 1 << 20
_FETCHED = "fetched.sqlite3.gz"
_HINT = "use another generation, or this one from another store (backupd list)"

Connect = Callable[[], AbstractContextManager[Archives]]
Reopen = Callable[[int, ExitStack], BinaryIO]  # opens the archive from that byte on; the stack closes the connection


class ResumingArchives:
    """The archives of `first`; when its connection is lost, `connect` opens another, as long as `retry` allows.

    Reading resumes at the byte after the last one: every reader compares the digest of the whole archive at the end.
    """

    def __init__(self, first: Archives, connect: Connect, retry: Retry) -> None:
        self.name = first.name
        self.first, self.connect, self.retry = first, connect, retry

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""
        with replica_errors(self.name):
            stream = self.first.open(generation_id, begin)

        def reopen(at: int, stack: ExitStack) -> BinaryIO:
            return stack.enter_context(stack.enter_context(self.connect()).open(generation_id, at))

        return io.BufferedReader(_Resuming(self.name, stream, begin, reopen, self.retry), _CHUNK_BYTES)


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
    manifest: Manifest, store: Archives, target: HeldFile, workers: int, context: TaskContext, reserve_bytes: int = 0
) -> Inspection:
    """Unpack a generation into the empty file `target`, durably, verify it, and return what it contains.

    Verified are the digest of the archive, digest and size of the snapshot, and its integrity. At least `reserve_bytes`
    stay free. Raises CopyCorrupt, GenerationMissing, NoSpace, UnexpectedFile; `target` loses its name then.
    """
    expected, place = manifest.snapshot, Path(target.directory.fixed_path)
    try:
        require_space(place, expected.size_bytes, reserve_bytes, f"unpacking {manifest.id}", files=0)
        context.progress.stage("unpack", expected.size_bytes)
        advance = watching_space(place, reserve_bytes, context.progress.advance)
        with store.open(manifest.id) as archive, target.stream() as stream:
            limit = expected.size_bytes
            sha256 = unpack(archive, stream, manifest.archive, limit_bytes=limit, workers=workers, advance=advance)
        return _check(manifest, target, sha256, context)
    except BaseException as error:
        target.directory.unlink(target.name)
        if isinstance(error, CopyCorrupt):
            raise CopyCorrupt(f"{manifest.id}: {error.message}", _HINT) from error
        if isinstance(error, OSError) and is_disk_full(error):
            what, hint = explain_full(error, place)
            raise NoSpace(what, f"{hint}, and try again") from error
        raise


def _check(manifest: Manifest, target: HeldFile, sha256: str, context: TaskContext) -> Inspection:
    expected = manifest.snapshot
    if sha256 != expected.sha256 or target.size_bytes != expected.size_bytes:
        raise CopyCorrupt("the unpacked snapshot differs from its manifest in digest or size", _HINT)
    context.progress.stage("check", expected.size_bytes)
    with checking(target, expected.sqlite_writer) as wait:
        inspection = wait()
    target.require_in_place()  # what was checked is this file, and no other
    if inspection.verdict.level == "corrupt":
        raise CopyCorrupt(f"it is corrupt: {inspection.verdict.damage[0]}", _HINT)
    if inspection.verdict.level == "opaque" != manifest.verdict.level:
        raise CopyCorrupt("it cannot be read, but could be when its manifest was written", _HINT)
    return inspection


@dataclass(frozen=True, slots=True)
class FetchedArchive:
    """The archive of one generation, copied from store `name` into an open file."""

    name: str
    file: HeldFile

    def open(self, _generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises OSError."""
        stream = open(os.dup(self.file.descriptor), "rb")  # noqa: SIM115 - the caller closes it
        stream.seek(begin)
        return stream

    def remove(self) -> None:
        """Remove the copy, and free its space at once. Raises OSError."""
        self.file.directory.unlink(self.file.name)
        os.ftruncate(self.file.descriptor, 0)


def fetch(
    manifest: Manifest, store: Archives, directory: Directory, reserve: int, context: TaskContext
) -> FetchedArchive:
    """Copy the archive of a generation, unverified, into a new file in `directory`.

    At least `reserve` bytes stay free. Raises GenerationMissing, NoSpace, ReplicaUnreachable.
    """
    size_bytes = manifest.archive.size_bytes
    context.progress.stage("fetch", size_bytes)
    advance = watching_space(Path(directory.fixed_path), reserve, context.progress.advance)
    with replica_errors(store.name):
        stream = store.open(manifest.id)
    fetched = FetchedArchive(store.name, HeldFile.create(directory, _FETCHED))
    with stream, fetched.file.stream() as copy:
        done_bytes = 0
        while done_bytes <= size_bytes and (chunk := _read(stream, store.name)):  # stop at one that is longer
            write_all(copy, chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
    return fetched


def _read(stream: BinaryIO, name: str) -> bytes:
    with replica_errors(name):
        return stream.read(_CHUNK_BYTES)
