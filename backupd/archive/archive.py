"""Pack a snapshot into an archive and unpack it, on all cores, in constant memory, with the digests of both.

libdeflate works without the interpreter lock, so threads are enough.
"""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, TypeVar

from backupd.archive.gzip_member import choose_level, pack_member, read_member, unpack_member
from backupd.errors import CopyCorrupt
from backupd.model import ArchiveFacts
from backupd.system.fs import write_all

MEMBER_BYTES = 1 << 20
_WRITE_OUT_MEMBERS = 8

T = TypeVar("T")
U = TypeVar("U")
Advance = Callable[[int], None]
Initializer = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive as written, and the digest of the snapshot that went into it."""

    archive: ArchiveFacts
    snapshot_sha256: str


def pack(
    snapshot: BinaryIO,
    archive: BinaryIO,
    *,
    level: int | None,
    workers: int,
    advance: Advance,
    initializer: Initializer = lambda: None,
) -> Packed:
    """Write the open file `snapshot` to the empty `archive`, make that durable, and verify it on the disk.

    Both are unbuffered, and read from the beginning.

    Each piece is unpacked and compared as it is packed; then the file is read back, past the page cache where the
    kernel supports that, and digested. `level` is libdeflate's, 1 to 12; where it is None, a sample decides. Each of
    the `workers` threads calls `initializer` first. Raises CopyCorrupt, OSError.
    """
    plain, packed, members = hashlib.sha256(), hashlib.sha256(), 0
    if level is None:
        level = choose_level(snapshot, lambda work, items: in_order(work, items, workers, initializer))
    snapshot.seek(0)
    pieces = _digesting(_pieces(snapshot), plain, advance)
    for member in in_order(partial(pack_member, level=level), pieces, workers, initializer):
        packed.update(member)
        write_all(archive, member)
        members += 1
        if members % _WRITE_OUT_MEMBERS == 0:
            # Linux starts writing dirty pages now (mm/fadvise.c), not in one burst at fsync that would delay the app,
            # and drops clean ones: later reads come from the disk.
            os.posix_fadvise(archive.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    os.fsync(archive.fileno())
    size_bytes = archive.tell()
    _verify(archive, packed.hexdigest())
    return Packed(ArchiveFacts(packed.hexdigest(), size_bytes, MEMBER_BYTES, members), plain.hexdigest())


def unpack(
    archive: BinaryIO, target: BinaryIO, facts: ArchiveFacts, *, limit_bytes: int, workers: int, advance: Advance
) -> str:
    """Unpack the open `archive` into the empty file `target`, durably; return the SHA-256 of its contents.

    Raises CopyCorrupt as soon as the archive is longer than `facts` say or holds more than `limit_bytes`, and at the
    end when its digest differs; then `target` may be incomplete. Raises OSError.
    """
    digest, packed, size_bytes = hashlib.sha256(), hashlib.sha256(), 0
    threads = max(1, workers * MEMBER_BYTES // max(facts.member_bytes, MEMBER_BYTES))  # larger members, as much memory
    members = _digesting(_members(archive, facts), packed, lambda _done: None)
    for piece in in_order(lambda member: unpack_member(member, facts.member_bytes), members, threads):
        size_bytes += len(piece)
        if size_bytes > limit_bytes:
            raise CopyCorrupt("the archive holds more than its manifest says", "use another generation or store")
        digest.update(piece)
        write_all(target, piece)
        advance(size_bytes)
    os.fsync(target.fileno())
    if packed.hexdigest() != facts.sha256:
        raise CopyCorrupt("the archive's SHA-256 is not the one in its manifest", "use another generation or store")
    return digest.hexdigest()


def digest_of(stream: BinaryIO) -> str:
    """Return the SHA-256 of the rest of `stream`."""
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type] # every stream has readinto()


def _verify(archive: BinaryIO, sha256: str) -> None:
    """Read the durable file back from the disk. Raises CopyCorrupt."""
    os.posix_fadvise(archive.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    archive.seek(0)
    if digest_of(archive) != sha256:
        raise CopyCorrupt("the archive reads back differently than written", "test the disk (smartctl)")


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    """Yield the snapshot in pieces; one empty piece for an empty file, since a gzip file has at least one member."""
    piece = source.read(MEMBER_BYTES)
    yield piece
    while piece := source.read(MEMBER_BYTES):
        yield piece


def _members(archive: BinaryIO, facts: ArchiveFacts) -> Iterator[bytes]:
    """Yield the members; an I/O error of the disk is damage to the archive."""
    left_bytes = facts.size_bytes
    try:
        while member := read_member(archive, facts.member_bytes):
            left_bytes -= len(member)
            if left_bytes < 0:
                raise CopyCorrupt("the archive is longer than its manifest says", "use another generation or store")
            yield member
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CopyCorrupt("the disk cannot read the archive", "test the disk (smartctl); use another copy") from error


def _digesting(chunks: Iterable[bytes], digest: "hashlib._Hash", advance: Advance) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
        done += len(chunk)
        advance(done)


def in_order(
    work: Callable[[T], U], items: Iterable[T], workers: int, initializer: Initializer = lambda: None
) -> Iterator[U]:
    """Yield `work(item)` in the order of `items`; at most two items for each of the `workers` are in memory."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="members", initializer=initializer)
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
