"""A damaged, truncated, rearranged or forged archive never matches its manifest."""

import gzip
import hashlib
import io
import itertools
import random
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.archive.archive import unpack
from backupd.archive.gzip_member import HEADER_BYTES, TRAILER_BYTES, pack_member
from backupd.errors import CopyCorrupt
from backupd.model import ArchiveFacts

MEMBER_BYTES = 64
PIECES = [bytes([number]) * MEMBER_BYTES for number in range(3)] + [b"the end"]
MEMBERS = [pack_member(piece, 6) for piece in PIECES]
SNAPSHOT, ARCHIVE = b"".join(PIECES), b"".join(MEMBERS)
WORKERS = 2


def described(archive: bytes, member_bytes: int = MEMBER_BYTES) -> ArchiveFacts:
    return ArchiveFacts(hashlib.sha256(archive).hexdigest(), len(archive), member_bytes, len(MEMBERS))


FACTS = described(ARCHIVE)


def unpacked(
    archive: bytes | BinaryIO, target: Path, facts: ArchiveFacts = FACTS, limit_bytes: int = len(SNAPSHOT)
) -> str:
    stream = io.BytesIO(archive) if isinstance(archive, bytes) else archive
    with target.open("xb", buffering=0) as copy:
        return unpack(stream, copy, facts, limit_bytes=limit_bytes, workers=WORKERS, advance=lambda _done: None)


@pytest.fixture
def targets() -> Iterator[Iterator[Path]]:
    """New names in memory: thousands of files are made here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield (Path(place) / str(number) for number in itertools.count())


def is_refused(archive: bytes, targets: Iterator[Path], facts: ArchiveFacts = FACTS) -> bool:
    target = next(targets)
    try:
        unpacked(archive, target, facts)
    except CopyCorrupt:
        return True
    finally:
        target.unlink(missing_ok=True)
    return False


def test_undamaged_archive_unpacks(targets: Iterator[Path]) -> None:
    target = next(targets)
    assert unpacked(ARCHIVE, target) == hashlib.sha256(SNAPSHOT).hexdigest()
    assert target.read_bytes() == SNAPSHOT


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_byte_anywhere_in_archive_is_detected(targets: Iterator[Path], mask: int) -> None:
    for position, byte in enumerate(ARCHIVE):
        damaged = ARCHIVE[:position] + bytes([byte ^ mask]) + ARCHIVE[position + 1 :]
        assert is_refused(damaged, targets), position


def test_archive_truncated_at_any_length_is_refused(targets: Iterator[Path]) -> None:
    for length in range(len(ARCHIVE)):
        assert is_refused(ARCHIVE[:length], targets), length


def test_reordered_missing_or_repeated_members_are_detected(targets: Iterator[Path]) -> None:
    others = [list(order) for order in itertools.permutations(MEMBERS) if list(order) != MEMBERS]
    others += [MEMBERS[:-1], MEMBERS[1:], [*MEMBERS, MEMBERS[0]], [MEMBERS[0], *MEMBERS], []]
    for members in others:
        assert is_refused(b"".join(members), targets)


@pytest.mark.parametrize(
    "garbage", [b"\0", b"\n", b"\0" * 1024, b"junk" * 100, gzip.compress(b"", mtime=0), MEMBERS[0]]
)
def test_additional_bytes_after_archive_are_detected(targets: Iterator[Path], garbage: bytes) -> None:
    assert is_refused(ARCHIVE + garbage, targets)


# The manifest is a stranger's word as well: from here on, each digest is right, and the archive is still refused.


def with_length(member: bytes, length: int) -> bytes:
    return member[:16] + length.to_bytes(4, "little") + member[20:]


@pytest.mark.parametrize(
    "length", [0, 1, HEADER_BYTES, HEADER_BYTES + TRAILER_BYTES, 2**31 - 1, 2**31, 2**32 - 1, MEMBER_BYTES + 4 + 1025]
)
def test_member_with_impossible_length_is_refused_before_reading(targets: Iterator[Path], length: int) -> None:
    lying = with_length(MEMBERS[0], length) + b"x" * 10_000
    stream = io.BytesIO(lying)
    with pytest.raises(CopyCorrupt, match="an impossible length"):
        unpacked(stream, next(targets), described(lying))
    assert stream.tell() == HEADER_BYTES


@pytest.mark.parametrize("delta", [-30, -8, -1, 1, 8, 30])
def test_member_with_length_off_by_few_bytes_is_refused(targets: Iterator[Path], delta: int) -> None:
    lying = with_length(MEMBERS[0], len(MEMBERS[0]) + delta) + b"".join(MEMBERS[1:])
    assert is_refused(lying, targets, described(lying))


def bomb(bytes_inside: int, told: int) -> bytes:
    """Make a member that says it holds `told` bytes and holds many more zeros."""
    member = pack_member(bytes(bytes_inside), 9)
    return member[:-4] + told.to_bytes(4, "little")


@pytest.mark.parametrize("told", [0, 1, MEMBER_BYTES, 16 << 20, 2**32 - 1])
def test_member_that_unpacks_to_more_than_limit_is_refused(targets: Iterator[Path], told: int) -> None:
    archive = bomb(16 << 20, told)
    member_bytes = len(archive)
    target = next(targets)
    tracemalloc.start()
    try:
        with pytest.raises(CopyCorrupt, match="does not unpack"):
            unpacked(archive, target, described(archive, member_bytes), limit_bytes=1 << 40)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert target.stat().st_size == 0
    assert peak_bytes < 1 << 20


def test_memory_of_unpack_is_independent_of_member_size(targets: Iterator[Path]) -> None:
    piece_bytes = 4 << 20
    member = pack_member(random.Random(1).randbytes(piece_bytes), 1)
    archive = io.BytesIO(member * 12)
    facts = ArchiveFacts(hashlib.sha256(archive.getvalue()).hexdigest(), len(member) * 12, piece_bytes, 12)
    tracemalloc.start()
    try:
        with next(targets).open("xb", buffering=0) as copy:
            unpack(archive, copy, facts, limit_bytes=12 * piece_bytes, workers=8, advance=lambda _done: None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 12 * piece_bytes, "eight threads would hold sixteen members, packed and unpacked"


def test_unpacking_stops_at_size_in_manifest(
    targets: Iterator[Path],
) -> None:
    member = pack_member(bytes(MEMBER_BYTES), 6)
    stream = io.BytesIO(member * 10_000)
    target = next(targets)
    with pytest.raises(CopyCorrupt, match="holds more than its manifest says"):
        unpacked(stream, target, described(stream.getvalue()), limit_bytes=5 * MEMBER_BYTES)
    assert target.stat().st_size == 5 * MEMBER_BYTES
    assert stream.tell() <= (6 + 2 * WORKERS) * len(member)


def test_unpacking_stops_at_archive_length_in_manifest(targets: Iterator[Path]) -> None:
    empty = pack_member(b"", 6)
    stream = io.BytesIO(empty * 10_000)
    with pytest.raises(CopyCorrupt, match="longer than its manifest says"):
        unpacked(stream, next(targets), described(empty * 3))
    assert stream.tell() == 4 * len(empty)


def test_wrong_crc32_is_refused_even_with_correct_digest(targets: Iterator[Path]) -> None:
    body, size = MEMBERS[0][:-8], MEMBERS[0][-4:]
    lying = body + zlib.crc32(b"other").to_bytes(4, "little") + size
    with pytest.raises(CopyCorrupt, match="checksum"):
        unpacked(lying, next(targets), described(lying))


@pytest.mark.parametrize(
    "foreign",
    [
        gzip.compress(b"CREATE TABLE t", mtime=0),
        zlib.compress(b"x" * 100),
        b"SQLite format 3\0" * 10,
        b"PK\x03\x04" * 20,
        b"\0",
    ],
)
def test_gzip_file_of_another_program_is_refused(targets: Iterator[Path], foreign: bytes) -> None:
    with pytest.raises(CopyCorrupt, match="not an archive of backupd") as refusal:
        unpacked(foreign, next(targets), described(foreign))
    assert "gunzip" in refusal.value.hint


def test_archive_with_read_error_is_damaged(targets: Iterator[Path]) -> None:
    with (
        open("/proc/self/mem", "rb") as unreadable,  # address 0: the kernel answers EIO
        pytest.raises(CopyCorrupt, match="disk cannot read"),
    ):
        unpacked(unreadable, next(targets))


MEMBER_OR_NOISE = st.one_of(st.sampled_from(MEMBERS), st.binary(max_size=60))


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(MEMBER_OR_NOISE, max_size=6))
def test_arbitrary_bytes_raise_only_copy_corrupt(parts: Sequence[bytes]) -> None:
    archive = b"".join(parts)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        target = Path(place) / "target"
        try:
            unpacked(archive, target, described(archive))
        except CopyCorrupt:
            return
        assert gzip.decompress(archive) == target.read_bytes()
