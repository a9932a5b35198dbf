"""Fetch, unpack and verify a generation: every verification, restore and drill reads archives with this module."""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from backupd.archive.archive import unpack
from backupd.archive.file_list import MAX_LINE_BYTES, FileEntry, decode_entries
from backupd.errors import CopyCorrupt, NoSpace, ReplicaUnreachable
from backupd.model import FilesManifest, Manifest
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


OpenContent = Callable[[], BinaryIO]


class ContentsReader(Protocol):
    """The contents of files to read; see `stores.contract.Contents`."""

    def open(self, digest: str) -> BinaryIO:
        """Open a content, unpacked, and not yet compared with its digest. Raises ContentMissing, OSError."""

    def opened(self, digests: Iterable[str]) -> Iterator[tuple[str, OpenContent]]:
        """Yield each with what opens it as `open` does, to be called before the next; small ones are read at once."""


class FilesStore(Archives, Protocol):
    """A store to read archives and the contents of files from."""

    @property
    def contents(self) -> ContentsReader:
        """The contents of files, by their digest."""


Connect = Callable[[], AbstractContextManager[FilesStore]]
OpenAt = Callable[[FilesStore, int], BinaryIO]  # opens something in a store, from that byte on


class ResumingArchives:
    """What is in store `first`; when its connection is lost, `connect` opens another, as long as `retry` allows.

    Reading resumes at the byte after the last one: every reader compares the digest of the whole at the end. The other
    connections end with the block.
    """

    def __init__(self, first: FilesStore, connect: Connect, retry: Retry) -> None:
        self.name = first.name
        self.connect, self.retry = connect, retry
        self._store: FilesStore | None = first
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def contents(self) -> ContentsReader:
        """The contents of files, by their digest."""
        return _ResumingContents(self)

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""
        return self.resuming(lambda store, at: store.open(generation_id, at), begin)

    def resuming(self, open_at: OpenAt, begin: int = 0) -> BinaryIO:
        """Return a buffered stream of what `open_at` opens. Raises what that raises, ReplicaUnreachable."""
        stream = _Resuming(self, open_at, begin)
        self.retry(stream.require_open)
        return io.BufferedReader(stream, _CHUNK_BYTES)

    def connected(self) -> FilesStore:
        """Return the store by a connection that is not known to be lost. Raises what connecting raises."""
        if self._store is None:
            self._stack.close()
            self._store = self._stack.enter_context(self.connect())
        return self._store

    def lose(self, store: FilesStore | None) -> None:
        """Let the next reader connect again, unless another one has done so since it got `store`."""
        if self._store is store:
            self._store = None


@dataclass(frozen=True, slots=True)
class _ResumingContents:
    archives: ResumingArchives

    def open(self, digest: str) -> BinaryIO:
        return self._resuming(digest)

    def opened(self, digests: Iterable[str]) -> Iterator[tuple[str, OpenContent]]:
        """Open one by one what was asked of a connection that is lost then, and the rest by the next connection."""
        left, asked = iter(digests), dict[str, None]()

        def asking() -> Iterator[str]:
            for digest in left:
                asked[digest] = None
                yield digest

        while True:
            store = self.archives.retry(self.archives.connected)
            try:
                with replica_errors(self.archives.name):
                    for digest, open_content in store.contents.opened(asking()):
                        del asked[digest]
                        yield digest, partial(self._resuming, digest, open_content)
            except ReplicaUnreachable:
                self.archives.lose(store)
            else:
                return
            while asked:
                digest, _ = asked.popitem()
                yield digest, partial(self._resuming, digest)

    def _resuming(self, digest: str, *first: OpenContent) -> BinaryIO:
        ways = list(first)

        def open_at(store: FilesStore, at: int) -> BinaryIO:
            return ways.pop()() if ways else _skip(store.contents.open(digest), at)

        return self.archives.resuming(open_at)


def _skip(stream: BinaryIO, count: int) -> BinaryIO:
    """Return the stream after its first `count` bytes: what is unpacked is read again from its beginning."""
    with ExitStack() as stack:
        stack.enter_context(stream)
        while count > 0 and (chunk := stream.read(min(count, _CHUNK_BYTES))):
            count -= len(chunk)
        stack.pop_all()
    return stream


class _Resuming(io.RawIOBase):
    def __init__(self, archives: ResumingArchives, open_at: OpenAt, at: int) -> None:
        self._archives, self._open_at, self._at = archives, open_at, at
        self._store: FilesStore | None = None
        self._stream: BinaryIO | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer`; 0 at the end. Raises ReplicaUnreachable when the retries are used up, OSError."""
        chunk = self._archives.retry(lambda: self._read(len(buffer)))
        count = len(chunk)
        buffer[:count] = chunk
        self._at += count
        return count

    def require_open(self) -> None:
        """Open it, once. Raises ReplicaUnreachable, and what opening it raises."""
        self._read(0)

    def close(self) -> None:
        """Close what is open."""
        if not self.closed and self._stream is not None:
            self._stream.close()
        super().close()

    def _read(self, size_bytes: int) -> bytes:
        try:
            with replica_errors(self._archives.name):
                if self._stream is None:
                    self._store = self._archives.connected()
                    self._stream = self._open_at(self._store, self._at)
                return self._stream.read(size_bytes)
        except ReplicaUnreachable:
            if self._stream is not None:
                self._stream.close()  # before its connection
                self._stream = None
            self._archives.lose(self._store)
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


def extract_list(manifest: FilesManifest, store: Archives, target: BinaryIO, workers: int) -> None:
    """Unpack the list of a set of files into the empty file `target`, and verify it.

    Raises CopyCorrupt, GenerationMissing, OSError.
    """
    limit = manifest.files.list_bytes
    try:
        with store.open(manifest.id) as archive:
            sha256 = unpack(
                archive, target, manifest.archive, limit_bytes=limit, workers=workers, advance=lambda _done: None
            )
    except CopyCorrupt as error:
        raise CopyCorrupt(f"{manifest.id}: {error.message}", _HINT) from error
    if sha256 != manifest.files.list_sha256:
        raise CopyCorrupt(f"{manifest.id}: the list differs from its manifest in digest or size", _HINT)


def listed_entries(listed: HeldFile, generation_id: str) -> Iterator[FileEntry]:
    """Yield the entries of a list that `extract_list` has unpacked, from its beginning. Raises CopyCorrupt, OSError."""
    os.lseek(listed.descriptor, 0, os.SEEK_SET)
    with open(listed.descriptor, "rb", buffering=_CHUNK_BYTES, closefd=False) as lines:
        yield from decode_entries(iter(lambda: lines.readline(MAX_LINE_BYTES), b""), generation_id)


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
