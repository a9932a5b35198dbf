"""An archive is a plain gzip file: any tool reads it, and the same snapshot is always the same bytes."""

import gzip
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backupd.archive.archive import MEMBER_BYTES, Packed, digest_of, unpack
from backupd.model import ArchiveFacts
from support.held import pack_file

READERS = {"gunzip": ["gunzip", "-c"], "zcat": ["zcat"], "pigz": ["pigz", "-d", "-c"]}


def silent(_done: int) -> None:
    """Show no progress."""


def content(size_bytes: int, seed: int, *, compressible: bool) -> bytes:
    """Make bytes that are all random, or in 100 runs of one byte each."""
    rng = random.Random(seed)
    if not compressible:
        return rng.randbytes(size_bytes)
    run = size_bytes // 100 + 1
    return b"".join(bytes([rng.randrange(256)]) * run for _ in range(100))[:size_bytes]


def packed(directory: Path, data: bytes, workers: int = 2, level: int = 1) -> tuple[Path, Packed]:
    """Pack `data` in `directory`, which has no archive yet."""
    snapshot, archive = directory / "snapshot", directory / "archive.sqlite3.gz"
    snapshot.write_bytes(data)
    return archive, pack_file(snapshot, archive, level=level, workers=workers, advance=silent)


def unpacked(archive: Path, facts: ArchiveFacts, target: Path, limit_bytes: int) -> str:
    with archive.open("rb") as stream, target.open("xb", buffering=0) as copy:
        return unpack(stream, copy, facts, limit_bytes=limit_bytes, workers=2, advance=silent)


# Around every boundary of members: 0, 1, MEMBER_BYTES - 1, MEMBER_BYTES, MEMBER_BYTES + 1, …
AROUND_BOUNDARIES = st.builds(
    lambda members, delta: max(0, members * MEMBER_BYTES + delta), st.integers(0, 3), st.integers(-2, 2)
)


@settings(max_examples=25, deadline=None)
@given(size=AROUND_BOUNDARIES, seed=st.integers(0, 2**32), compressible=st.booleans())
@example(size=0, seed=0, compressible=True)
@example(size=1, seed=0, compressible=False)
@example(size=MEMBER_BYTES - 1, seed=1, compressible=False)
@example(size=MEMBER_BYTES, seed=2, compressible=False)
@example(size=MEMBER_BYTES + 1, seed=3, compressible=True)
@example(size=3 * MEMBER_BYTES, seed=4, compressible=True)
def test_gunzip_and_unpack_return_packed_bytes(size: int, seed: int, compressible: bool) -> None:
    data = content(size, seed, compressible=compressible)
    with tempfile.TemporaryDirectory() as place:
        archive, result = packed(Path(place), data)
        assert gzip.decompress(archive.read_bytes()) == data
        target = Path(place) / "again"
        assert unpacked(archive, result.archive, target, size) == hashlib.sha256(data).hexdigest()
        assert target.read_bytes() == data


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=5000), level=st.integers(1, 12))
def test_short_content_is_unpacked_unchanged_at_every_level(data: bytes, level: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        archive, result = packed(Path(place), data, level=level)
        assert gzip.decompress(archive.read_bytes()) == data
        assert unpacked(archive, result.archive, Path(place) / "again", len(data)) == result.snapshot_sha256


@pytest.mark.parametrize("size", [0, 1, 2 * MEMBER_BYTES + 1])
@pytest.mark.parametrize("tool", READERS)
def test_every_gzip_program_reads_archive(tmp_path: Path, tool: str, size: int) -> None:
    data = content(size, 7, compressible=True)
    archive, _ = packed(tmp_path, data)
    done = subprocess.run([*READERS[tool], str(archive)], capture_output=True, check=True)
    assert done.stdout == data
    assert done.stderr == b""


def test_pack_returns_digests_and_sizes_of_written_file(tmp_path: Path) -> None:
    data = content(2 * MEMBER_BYTES + 5, 8, compressible=True)
    archive, result = packed(tmp_path, data)
    assert result.snapshot_sha256 == hashlib.sha256(data).hexdigest()
    with archive.open("rb") as stream:
        assert result.archive.sha256 == digest_of(stream)
    assert (result.archive.size_bytes, result.archive.members) == (archive.stat().st_size, 3)


def test_packing_twice_gives_equal_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    data = content(4 * MEMBER_BYTES + 100, 9, compressible=True)
    archives = set()
    for number, workers in enumerate((1, 2, 5)):
        directory = tmp_path / str(number)
        directory.mkdir()
        archive, result = packed(directory, data, workers)
        os.utime(archive, (0, number))
        archives.add(archive.read_bytes())
    assert len(archives) == 1
    assert mtimes(archives.pop()) == [0] * result.archive.members


def mtimes(archive: bytes) -> list[int]:
    """Return the time in the header of each member, going from length to length."""
    found, offset = [], 0
    while offset < len(archive):
        found.append(int.from_bytes(archive[offset + 4 : offset + 8], "little"))
        offset += int.from_bytes(archive[offset + 16 : offset + 20], "little")
    assert offset == len(archive)
    return found


def test_progress_never_decreases_and_ends_at_size(tmp_path: Path) -> None:
    data = content(3 * MEMBER_BYTES + 1, 10, compressible=True)
    (tmp_path / "snapshot").write_bytes(data)
    told: list[int] = []
    pack_file(tmp_path / "snapshot", tmp_path / "a.gz", level=1, workers=2, advance=told.append)
    assert told == sorted(told)
    assert told[-1] == len(data)


def test_pack_to_existing_target_is_refused(tmp_path: Path) -> None:
    archive, _ = packed(tmp_path, b"first")
    before = archive.read_bytes()
    with pytest.raises(FileExistsError):
        packed(tmp_path, b"second")
    assert archive.read_bytes() == before


_PEAKS = """
import os, resource, sys
from pathlib import Path
from backupd.archive.archive import pack, unpack

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

place = Path(sys.argv[1])
block = os.urandom(1 << 20)
for size in (8, 128):
    with (place / "snapshot").open("wb") as stream:
        for _ in range(size):
            stream.write(block)
    with (place / "snapshot").open("rb", 0) as source, (place / "archive").open("x+b", 0) as target:
        result = pack(source, target, level=1, workers=2, advance=lambda _: None)
    (place / "snapshot").unlink()
    with (place / "archive").open("rb") as stream:
        with (place / "again").open("xb", buffering=0) as copy:
            unpack(stream, copy, result.archive, limit_bytes=size << 20, workers=2, advance=lambda _: None)
    print(peak())
    (place / "archive").unlink()
    (place / "again").unlink()
"""


def test_memory_of_pack_is_independent_of_snapshot_size(tmp_path: Path) -> None:
    room = Path("/dev/shm") if shutil.disk_usage("/dev/shm").free > 1 << 30 else tmp_path
    with tempfile.TemporaryDirectory(dir=room) as place:
        done = subprocess.run([sys.executable, "-c", _PEAKS, place], capture_output=True, text=True, check=True)
    small_mib, large_mib = map(int, done.stdout.split())
    assert large_mib - small_mib < 16
