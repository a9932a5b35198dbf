"""What the bytes of a database file say, read without SQLite: header, encryption, page checksums, frames of the WAL.

Never use these functions while this process has the database open in SQLite: closing a descriptor drops its locks.

Header: the first 100 bytes, https://sqlite.org/fileformat2.html#the_database_header.

Encryption: all of the file looks random, and it has the size of whole pages. SQLCipher has a random salt where SQLite
has its magic, or with `cipher_plaintext_header_size` the first bytes of a plain header; SEE and SQLite3 Multiple
Ciphers leave bytes 16 to 23 plain. All other bytes are ciphertext. Without the key, a valid file and random bytes look
alike: the caller has to know what was there before.

Checksums: SQLite's cksumvfs keeps one in the last 8 bytes of each page (https://sqlite.org/cksumvfs.html). They detect
what no other check can: bits that rotted in the payload of the source before it was copied.

WAL: https://sqlite.org/fileformat2.html#walformat. Its frames are in the same place in that of an encrypted database.
"""

import math
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from backupd.system.small_file import opened_file

if TYPE_CHECKING:  # child processes import this
    from pathlib import Path

HEADER_BYTES = 100
NEWEST_READ_VERSION = 2
_VERSIONS_AT, _ROLLBACK_VERSIONS, _WAL_VERSIONS = 18, b"\x01\x01", b"\x02\x02"
PAGE_SIZES = frozenset(512 << power for power in range(8))
_PAYLOAD_FRACTIONS = b"\x40\x20\x20"
MAGIC = b"SQLite format 3\x00"


JournalMode = Literal["wal", "rollback"]


class Header(NamedTuple):  # no dataclass: child processes import this
    """The header of a database; SQLite reads none that is not `valid`, nor a newer `read_version` than it knows.

    `checksums` (cksumvfs keeps one in each page) and `encrypted` (nothing else is known) are not in these bytes.
    """

    page_size: int
    journal_mode: JournalMode
    user_version: int
    application_id: int
    writer_number: int
    read_version: int = 1
    valid: bool = True
    encrypted: bool = False
    checksums: bool = False

    @property
    def writer(self) -> str:
        """The SQLite that last wrote the database, as `3.40.1`, or `unknown`."""
        number = self.writer_number
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number else "unknown"


EMPTY_HEADER = Header(page_size=4096, journal_mode="rollback", user_version=0, application_id=0, writer_number=0)


def parse_header(raw: bytes) -> Header | None:
    """Return the header in `raw`, or None if that is not one of a plain SQLite 3 database."""
    if len(raw) < HEADER_BYTES or not raw.startswith(MAGIC):
        return None
    page_size = int.from_bytes(raw[16:18], "big")
    return Header(
        page_size=65536 if page_size == 1 else page_size,
        journal_mode="wal" if raw[18] == 2 else "rollback",  # noqa: PLR2004 - file format version 2 is WAL
        user_version=int.from_bytes(raw[60:64], "big", signed=True),
        application_id=int.from_bytes(raw[68:72], "big", signed=True),
        writer_number=int.from_bytes(raw[96:100], "big"),
        read_version=raw[19],
        valid=(page_size == 1 or page_size in PAGE_SIZES) and raw[21:24] == _PAYLOAD_FRACTIONS,
    )


def read_header(path: "Path | str") -> Header | None:
    """Read the header of the file at `path`. Raises OSError."""
    with opened_file(path, links=True) as descriptor:
        return parse_header(os.pread(descriptor, HEADER_BYTES, 0))


_SMALLEST_PAGE, _USUAL_PAGE = 512, 4096
# A plain header is followed by zeros here (https://sqlite.org/fileformat2.html#the_database_header, offset 72).
_RESERVED = slice(72, 92)
_SAMPLES, _SAMPLE_BYTES = 32, 4096
# Of random bytes the chi-square statistic over 256 values is 255 on average, with a deviation of sqrt(2 * 255): random
# bytes never exceed nine of them, while text, numbers and zeros begin at many times that.
_VALUES, _MOST_DEVIATIONS = 256, 9
# gzip, zip, xz, zstd, bzip2, 7z, LUKS, openssl enc
_OTHER_FILES = (
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"BZh",
    b"7z\xbc\xaf",
    b"LUKS",
    b"Salted__",
)


def looks_encrypted(descriptor: int) -> bool:
    """Return whether the open file looks like an encrypted database; reads 128 KiB at most. Raises OSError."""
    size_bytes = os.fstat(descriptor).st_size
    first = os.pread(descriptor, _SMALLEST_PAGE, 0)
    if size_bytes < _SMALLEST_PAGE or size_bytes % _SMALLEST_PAGE or first.startswith(_OTHER_FILES):
        return False
    if first.startswith(MAGIC) and not any(first[_RESERVED]):
        return False
    return all(_is_random(sample) for sample in _samples(descriptor, size_bytes))


def is_encrypted(path: "Path | str") -> bool:
    """Return whether the file at `path` looks like an encrypted database. Raises OSError."""
    with opened_file(path, links=True) as descriptor:
        return looks_encrypted(descriptor)


def encrypted_header(descriptor: int) -> Header | None:
    """Return the known part of the header if the open file looks like an encrypted database. Raises OSError.

    Page size and journal mode are those of a plain header; else a size that divides the file, and `rollback`.
    """
    if not looks_encrypted(descriptor):
        return None
    size_bytes = os.fstat(descriptor).st_size
    plain = parse_header(MAGIC + os.pread(descriptor, HEADER_BYTES, 0)[len(MAGIC) :])
    if plain is not None and plain.valid and size_bytes % plain.page_size == 0:
        return EMPTY_HEADER._replace(page_size=plain.page_size, journal_mode=plain.journal_mode, encrypted=True)
    return EMPTY_HEADER._replace(page_size=min(_USUAL_PAGE, size_bytes & -size_bytes), encrypted=True)


def _samples(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    """Yield samples from the whole file, without zeros: SQLite may never have written its free pages."""
    yield os.pread(descriptor, _SAMPLE_BYTES - HEADER_BYTES, HEADER_BYTES)
    blocks = size_bytes // _SAMPLE_BYTES
    for number in range(1, _SAMPLES):
        sample = os.pread(descriptor, _SAMPLE_BYTES, blocks * number // _SAMPLES * _SAMPLE_BYTES)
        if number * blocks >= _SAMPLES and any(sample):
            yield sample


def _is_random(sample: bytes) -> bool:
    counts = [0] * _VALUES
    for value in sample:
        counts[value] += 1
    expected = len(sample) / _VALUES
    chi_square = sum((count - expected) ** 2 for count in counts) / expected
    freedom = _VALUES - 1
    return chi_square < freedom + _MOST_DEVIATIONS * math.sqrt(2 * freedom)


_RESERVED_BYTES = 8
_RESERVED_AT = 20
_FIRST = 1


def has_checksums(descriptor: int) -> bool:
    """Return whether the pages of the open database have checksums, as its first page has. Raises OSError."""
    page_size = _page_size(descriptor)
    return page_size > 0 and _matches(_page(descriptor, _FIRST, page_size))


def mismatched_pages(descriptor: int) -> Iterator[int]:
    """Yield the numbers of the pages that do not match their checksum, at about 60 MB/s. Raises OSError."""
    page_size = _page_size(descriptor)
    for number in range(1, os.fstat(descriptor).st_size // page_size + 1 if page_size else 1):
        if not _matches(_page(descriptor, number, page_size)):
            yield number


def set_checksums(descriptor: int, *, first_only: bool) -> None:
    """Set the checksums of the pages of a copy, which SQLite has written without them. Raises OSError."""
    page_size = _page_size(descriptor)
    pages = 1 if first_only else os.fstat(descriptor).st_size // page_size
    for number in range(1, pages + 1):
        checksum = _page_checksum(_page(descriptor, number, page_size))
        os.pwrite(descriptor, checksum, number * page_size - _RESERVED_BYTES)


def file_has_checksums(path: "Path") -> bool:
    """Return `has_checksums` of the file at `path`. Raises OSError."""
    with opened_file(path, links=True) as descriptor:
        return has_checksums(descriptor)


def _page_size(descriptor: int) -> int:
    """Return the page size, 0 where pages have no room for checksums."""
    raw = os.pread(descriptor, HEADER_BYTES, 0)
    header = parse_header(raw)
    return header.page_size if header and header.valid and raw[_RESERVED_AT] == _RESERVED_BYTES else 0


def _page(descriptor: int, number: int, page_size: int) -> bytes:
    return os.pread(descriptor, page_size, (number - 1) * page_size)


def _matches(page: bytes) -> bool:
    return _page_checksum(page) == page[-_RESERVED_BYTES:]


def _page_checksum(page: bytes) -> bytes:
    """Return cksmCompute() of https://sqlite.org/src/file/ext/misc/cksumvfs.c."""
    return struct.pack("<II", *checksum("<", page[:-_RESERVED_BYTES]))


def checksum(order: str, data: bytes, sums: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Continue `sums` over `data` by https://sqlite.org/fileformat2.html#checksum_algorithm, in byte `order` < or >."""
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


def set_journal_mode(descriptor: int, wanted: JournalMode) -> bool:
    """Set the journal mode of an open database that no process uses; returns whether that changed it. Raises OSError.

    It is the two versions of the file format in the header, which is all that SQLite changes in such a file.
    """
    header = None if looks_encrypted(descriptor) else parse_header(os.pread(descriptor, HEADER_BYTES, 0))
    if header is None or header.read_version > NEWEST_READ_VERSION or header.journal_mode == wanted:
        return False  # an empty database has no header, and an encrypted or a foreign one is left alone
    checksums = has_checksums(descriptor)
    os.pwrite(descriptor, _WAL_VERSIONS if wanted == "wal" else _ROLLBACK_VERSIONS, _VERSIONS_AT)
    if checksums:
        set_checksums(descriptor, first_only=True)
    return True


WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


class WalFrame(NamedTuple):
    """The frame of a page in a WAL; `total` is the number of pages of the database after a transaction, else 0."""

    page: int
    total: int
    header: bytes
    at: int  # of the content of the page


def wal_frames(wal: int, page_size: int) -> Iterator[WalFrame]:
    """Yield the frames of the open WAL since its last reset, by their salt; checksums are not verified."""
    salt = os.pread(wal, WAL_HEADER_BYTES, 0)[16:24]
    at = WAL_HEADER_BYTES + _FRAME_HEADER_BYTES
    while len(header := os.pread(wal, _FRAME_HEADER_BYTES, at - _FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
        if header[8:16] != salt:
            return
        page, total = struct.unpack_from(">II", header)
        yield WalFrame(page, total, header, at)
        at += page_size + _FRAME_HEADER_BYTES
