"""Contents of open files on their way into a store: read without a change in between, digested, packed, in threads.

Small files are read at once; larger ones are read in pieces of a member each, a file to a thread; the pieces of a huge
one are packed on all cores.
"""

import errno
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final, NamedTuple, Protocol

from backupd.archive.archive import MEMBER_BYTES, in_order
from backupd.archive.gzip_member import compress, pack_member
from backupd.errors import SnapshotFailed
from backupd.files.index import DATABASE, IndexWriter, day_of, digest_of, key_of, racy

WORTH: Final = 0.97  # of its size at most; what shrinks less is stored as it is
_HUGE_BYTES: Final = 64 << 20
_SAMPLE_BYTES: Final = 64 << 10
_ATTEMPTS: Final = 3
_WRITERS: Final = 2  # threads more than cores: some wait for the disk
_MOST_NAMED: Final = 3
_SQLITE: Final = b"SQLite format 3\0"


class Part(Protocol):
    """A content that is being written."""

    def write(self, data: bytes) -> None:
        """Write the next bytes of it, as they are to be stored. Raises OSError."""

    def finish(self, digest: bytes, *, packed: bool) -> None:
        """Give it its name; it becomes durable with `Sink.commit`. Raises OSError."""


class Sink(Protocol):
    """Where contents are stored, each once; used by several threads at a time."""

    def holds(self, digest: bytes) -> bool:
        """Tell whether the content of a digest (32 bytes) is there, undamaged; it is then not swept for a while."""

    def part(self) -> AbstractContextManager[Part]:
        """Begin a new content, which is discarded at the end of the block unless it was finished."""


class Item(NamedTuple):
    """A line of the new index; while `descriptor` is open, it lacks content and day, and `old` is the line before."""

    line: bytes
    descriptor: int = -1
    old: bytes = b""


class _Read(NamedTuple):
    """What became of an item: its line, empty where it could not be read."""

    path: bytes
    line: bytes = b""
    digest: bytes = b""
    stored_bytes: int = 0  # that its content takes in the store, 0 where it was there already
    changed: bool = False  # it never held still
    silently: bool = False  # another content under the same times


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How contents are packed, and what is called meanwhile."""

    level: int
    workers: int
    initializer: Callable[[], None]
    advance: Callable[[int], None]  # gets the bytes read so far; it may raise
    deadline: float  # by the monotonic clock


@dataclass(slots=True)
class Findings:
    """What was found while contents were stored: how many, and some by their names (as lines have them)."""

    stored_bytes: int = 0  # by which the store has grown
    unreadable: list[bytes] = field(default_factory=list)
    unreadable_count: int = 0
    changed: list[bytes] = field(default_factory=list)
    changed_count: int = 0
    silently: list[bytes] = field(default_factory=list)
    missing: int = 0  # entries that are left out, because the store has lost their contents

    def add(self, read: _Read) -> None:
        """Count one file."""
        self.stored_bytes += read.stored_bytes
        for found, names in (
            (not read.line, self.unreadable),
            (read.changed, self.changed),
            (read.silently, self.silently),
        ):
            if found and len(names) < _MOST_NAMED:
                names.append(read.path)
        self.unreadable_count += not read.line
        self.changed_count += read.changed


class Storing:
    """Stores the contents of the files of one set."""

    def __init__(self, sink: Sink, stored: Callable[[], Container[bytes]], options: StoreOptions) -> None:
        """Store in `sink`; `stored` returns the digests of what was there before, when the first is needed."""
        self.findings = Findings()
        self._sink, self._options = sink, options
        self._stored_before = cache(stored)
        self._stored_now = set[bytes]()
        self._done_bytes = 0

    def write(self, items: Iterable[Item], index: IndexWriter) -> None:
        """Write the line of each item in order, after its content was stored; closes their descriptors.

        Raises SnapshotFailed when there is no time left, OSError of the store.
        """
        options = self._options
        threads = options.workers + _WRITERS
        pool = ThreadPoolExecutor(threads, "contents", options.initializer)
        waiting: deque[tuple[bytes | Future[_Read], int]] = deque()
        try:
            for item in items:
                if item.descriptor < 0:
                    waiting.append((item.line, -1))
                elif os.fstat(item.descriptor).st_size > _HUGE_BYTES:
                    self._flush(waiting, index, 0)
                    self._write(_done(self._stored(item, workers=options.workers)), index)
                else:
                    waiting.append((pool.submit(self._stored, item), item.descriptor))
                self._flush(waiting, index, 2 * threads)
            self._flush(waiting, index, 0)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for one, descriptor in waiting:
                if isinstance(one, Future) and one.cancelled():
                    os.close(descriptor)

    def lacks_any(self, lines: Iterable[bytes]) -> bool:
        """Tell whether the store has lost a content that one of these lines of an index names."""
        return not all(self._has(digest_of(line)) for line in lines if line.startswith(b"f"))

    def _flush(self, waiting: "deque[tuple[bytes | Future[_Read], int]]", index: IndexWriter, most: int) -> None:
        while len(waiting) > most or (waiting and isinstance(waiting[0][0], bytes)):
            self._write(waiting.popleft()[0], index)

    def _write(self, one: "bytes | Future[_Read]", index: IndexWriter) -> None:
        if isinstance(one, bytes):
            if one.startswith(b"f") and not self._has(digest_of(one)):
                self.findings.missing += 1
            else:
                index.write(one)
            return
        read = one.result()
        if read.digest in self._stored_now:  # two threads may have packed the same
            read = read._replace(stored_bytes=0)
        self._stored_now.add(read.digest)
        self.findings.add(read)
        if read.line:
            index.write(read.line)

    def _has(self, digest: bytes) -> bool:
        return digest in self._stored_now or digest in self._stored_before()

    def _stored(self, item: Item, workers: int = 1) -> _Read:
        path = item.line.split(b"\t")[1]
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                before = os.fstat(item.descriptor)
                content = self._content(item, before, workers)
                after = os.fstat(item.descriptor)
                held_still = key_of(before) == key_of(after) and content.size_bytes == after.st_size
                if held_still or attempt == _ATTEMPTS:
                    break
        except UnreadableContent:
            return _Read(path)
        finally:
            os.close(item.descriptor)
        key, now_ns = key_of(after), time.time_ns()
        if not held_still:
            parts = key.split(b" ")
            key = b" ".join((*parts[:5], b"%d" % content.size_bytes, b"0", parts[7]))
        shown = content.digest.hex().encode() + (DATABASE if content.is_database else b"")
        line = b"%s\t%s\t%s\t%s\n" % (racy(key, now_ns), path, shown, day_of(now_ns))
        silently = item.old.startswith(b"%s\t" % key) and digest_of(item.old) != content.digest
        return _Read(path, line, content.digest, content.stored_bytes, not held_still, silently)

    def _content(self, item: Item, state: os.stat_result, workers: int) -> "_Content":
        """Read the file, and store its content where that is new. Raises UnreadableContent, OSError of the store."""
        descriptor = item.descriptor
        if state.st_size <= MEMBER_BYTES:
            pieces = self._pieces(descriptor)
            data = next(pieces, b"")
            if not next(pieces, b""):  # else it grew
                return self._small(data)
        if item.old:  # most likely the same content
            digest, size_bytes = hashlib.sha256(), 0
            for piece in self._pieces(descriptor):
                digest.update(piece)
                size_bytes += len(piece)
            if self._sink.holds(digest.digest()):
                return _Content(digest.digest(), size_bytes, is_database=_is_database(descriptor))
        return self._large(descriptor, state.st_size, workers)

    def _small(self, data: bytes) -> "_Content":
        digest = hashlib.sha256(data).digest()
        stored_bytes = 0
        if not self._sink.holds(digest):
            member = pack_member(data, self._options.level)
            packed = len(member) <= WORTH * len(data)
            stored = member if packed else data
            with self._sink.part() as part:
                part.write(stored)
                part.finish(digest, packed=packed)
            stored_bytes = len(stored)
        return _Content(digest, len(data), stored_bytes, is_database=data.startswith(_SQLITE))

    def _large(self, descriptor: int, size_bytes: int, workers: int) -> "_Content":
        digest, read_bytes, stored_bytes = hashlib.sha256(), 0, 0

        def pieces() -> Iterator[bytes]:
            nonlocal read_bytes
            for piece in self._pieces(descriptor):
                digest.update(piece)
                read_bytes += len(piece)
                yield piece

        packed = _is_worth_packing(descriptor, size_bytes)
        pack = partial(pack_member, level=self._options.level)
        with self._sink.part() as part:
            if not packed:
                members: Iterable[bytes] = pieces()
            elif workers > 1:
                members = in_order(pack, pieces(), workers, self._options.initializer)
            else:
                members = map(pack, pieces())
            for member in members:
                part.write(member)
                stored_bytes += len(member)
            is_new = not self._sink.holds(digest.digest())
            if is_new:
                part.finish(digest.digest(), packed=packed)
        added_bytes = stored_bytes if is_new else 0
        return _Content(digest.digest(), read_bytes, added_bytes, is_database=_is_database(descriptor))

    def _pieces(self, descriptor: int) -> Iterator[bytes]:
        """Yield the contents of a file from its beginning; holes are not read. Raises UnreadableContent."""
        begin = 0
        while True:
            if time.monotonic() > self._options.deadline:
                raise SnapshotFailed("the files were not copied in time", "raise timeout_s of this set of files")
            try:
                in_hole = begin > 0 and _data_from(descriptor, begin) >= begin + MEMBER_BYTES
                piece = _ZEROS if in_hole else os.pread(descriptor, MEMBER_BYTES, begin)
            except OSError as error:
                raise UnreadableContent from error
            if not piece:
                return
            begin += len(piece)
            self._done_bytes += len(piece)
            self._options.advance(self._done_bytes)
            yield piece


class UnreadableContent(Exception):
    """The file itself cannot be read, whatever its store does."""


class _Content(NamedTuple):
    digest: bytes
    size_bytes: int
    stored_bytes: int = 0
    is_database: bool = False


_ZEROS: Final = bytes(MEMBER_BYTES)


def _done(read: _Read) -> "Future[_Read]":
    future: Future[_Read] = Future()
    future.set_result(read)
    return future


def _data_from(descriptor: int, begin: int) -> int:
    """Return where the next data of a file begin; `begin` where its file system does not tell (lseek(2))."""
    try:
        return os.lseek(descriptor, begin, os.SEEK_DATA)
    except OSError as error:
        return os.fstat(descriptor).st_size if error.errno == errno.ENXIO else begin


def _is_worth_packing(descriptor: int, size_bytes: int) -> bool:
    sample = b"".join(
        os.pread(descriptor, _SAMPLE_BYTES, place) for place in (0, size_bytes // 2, max(0, size_bytes - _SAMPLE_BYTES))
    )
    return len(compress(sample, 1)) <= WORTH * len(sample)


def _is_database(descriptor: int) -> bool:
    return os.pread(descriptor, len(_SQLITE), 0) == _SQLITE
