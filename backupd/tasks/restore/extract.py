"""Fetch, unpack and prove a generation: what `verify` and `restore` both do, and the only way out of an archive."""

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
from backupd.system.fs import is_disk_full
from backupd.system.os_errors import explain_full
from backupd.tasks.context import TaskContext
from backupd.tasks.disk_space import require_space, watching_space
from backupd.tasks.replica import Retry, replica_errors

_CHUNK_BYTES = 1 << 20
Connect = Callable[[], AbstractContextManager[Archives]]
_BUFFER_BYTES = 1 << 20


class ResumingArchives:
    """The archives of `first`; when its connection is lost, reading goes on over one that `connect` makes.

    `retry` says how long that is tried. Nothing of what came before is asked for again: the digest of the whole, which
    every reader compares in the end, proves that the two belong together.
    """

    def __init__(self, first: Archives, connect: Connect, retry: Retry) -> None:
        self.name = first.name
        self._first, self._connect, self._retry = first, connect, retry

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""
        with replica_errors(self.name):
            stream = self._first.open(generation_id, begin)
        reopen = _reopening(self._connect, generation_id)
        return io.BufferedReader(_Resuming(self.name, stream, begin, reopen, self._retry), _BUFFER_BYTES)


Reopen = Callable[[int, ExitStack], BinaryIO]


class _Resuming(io.RawIOBase):
    def __init__(self, name: str, stream: BinaryIO, at: int, reopen: Reopen, retry: Retry) -> None:
        self._name = name
        self._stack = ExitStack()
        self._stream: BinaryIO | None = self._stack.enter_context(stream)
        self._at, self._reopen, self._retry = at, reopen, retry
        self._chunk = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer`; 0 at the end. Raises ReplicaUnreachable once it was tried for long enough, OSError."""
        self._retry(lambda: self._read(len(buffer)))
        count = len(self._chunk)
        buffer[:count] = self._chunk
        self._at += count
        return count

    def close(self) -> None:
        """Let go of the archive, and of the connection that was made for it."""
        if not self.closed:
            self._stack.close()
        super().close()

    def _read(self, size_bytes: int) -> None:
        try:
            with replica_errors(self._name):
                if self._stream is None:
                    self._stream = self._reopen(self._at, self._stack)
                self._chunk = self._stream.read(size_bytes)
        except ReplicaUnreachable:
            self._stream = None
            self._stack.close()
            raise


_HINT = "use another generation, or this one from another store (backupd list)"


def extract_verified(
    manifest: Manifest, store: Archives, target: Path, workers: int, context: TaskContext, reserve_bytes: int = 0
) -> Inspection:
    """Unpack a generation into the new file `target` (0600), durably, and prove it before this returns what is in it.

    The archive's digest, the snapshot's digest and size, and the integrity check must all be right.
    At least `reserve_bytes` stay free. Raises CopyCorrupt, with `target` gone; GenerationMissing; NoSpace.
    """
    require_space(target.parent, manifest.snapshot.size_bytes, reserve_bytes, f"unpacking {manifest.id}")
    context.progress.stage("unpack", manifest.snapshot.size_bytes)
    try:
        _unpack(
            manifest, store, target, workers, watching_space(target.parent, reserve_bytes, context.progress.advance)
        )
        context.progress.stage("check", manifest.snapshot.size_bytes)
        return _check(manifest, target)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, CopyCorrupt):
            raise CopyCorrupt(f"{manifest.id}: {error.message}", _HINT) from error
        if isinstance(error, OSError) and is_disk_full(error):
            what, hint = explain_full(error, target.parent)
            raise NoSpace(what, f"{hint}, and try again") from error
        raise


def _unpack(manifest: Manifest, store: Archives, target: Path, workers: int, advance: Callable[[int], None]) -> None:
    expected = manifest.snapshot
    with store.open(manifest.id) as archive:
        sha256 = unpack(
            archive,
            target,
            manifest.archive,
            limit_bytes=expected.size_bytes,
            workers=workers,
            advance=advance,
        )
    if sha256 != expected.sha256 or target.stat().st_size != expected.size_bytes:
        raise CopyCorrupt("it does not unpack to the snapshot that its manifest describes", _HINT)


def _check(manifest: Manifest, target: Path) -> Inspection:
    with checking(target, manifest.snapshot.sqlite_writer) as wait:
        inspection = wait()
    if inspection.verdict.level == "corrupt":
        raise CopyCorrupt(f"it is corrupt: {inspection.verdict.damage[0]}", _HINT)
    if inspection.verdict.level == "opaque" != manifest.verdict.level:
        raise CopyCorrupt("it cannot be read, and could be when its manifest was written", _HINT)
    return inspection


def fetch(manifest: Manifest, store: Archives, directory: Path, reserve: int, context: TaskContext) -> DirectoryStore:
    """Copy the archive of a generation into `directory`, and return that as a store of the same name to restore from.

    Nothing is proven yet. At least `reserve` bytes stay free. Raises GenerationMissing, NoSpace, ReplicaUnreachable.
    """
    fetched = DirectoryStore(store.name, directory)
    target, size_bytes = fetched.archive_path(manifest.id), manifest.archive.size_bytes
    context.progress.stage("fetch", size_bytes)
    advance = watching_space(directory, reserve, context.progress.advance)
    with replica_errors(store.name):
        stream = store.open(manifest.id)
    with stream, target.open("wb") as copy:
        done_bytes = 0
        while done_bytes <= size_bytes and (chunk := _read(stream, store.name)):  # one that never ends is no archive
            copy.write(chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
    return fetched


def _read(stream: BinaryIO, name: str) -> bytes:
    with replica_errors(name):
        return stream.read(_CHUNK_BYTES)


def _reopening(connect: Connect, generation_id: str) -> Reopen:
    return lambda begin, stack: stack.enter_context(stack.enter_context(connect()).open(generation_id, begin))
