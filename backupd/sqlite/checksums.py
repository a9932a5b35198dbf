"""The checksums that SQLite's cksumvfs keeps in the last 8 bytes of each page (https://sqlite.org/cksumvfs.html).

They find what no other check can: bits that rotted in the payload of the source before it was copied.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from backupd.sqlite.header import SIZE, parse_header

_RESERVED_BYTES = 8
_RESERVED_AT = 20
_FIRST = 1


def has_checksums(descriptor: int) -> bool:
    """Tell whether the open database has a checksum in each page: whether that of its first page is right.

    Raises OSError. Never while this process has it open in SQLite: closing the descriptor would drop its locks.
    """
    page_size = _page_size(descriptor)
    return page_size > 0 and _is_right(_page(descriptor, _FIRST, page_size))


def wrong_pages(descriptor: int) -> Iterator[int]:
    """Yield the numbers of the pages whose checksum is wrong; at about 60 MB/s. Raises OSError."""
    page_size = _page_size(descriptor)
    for number in range(1, os.fstat(descriptor).st_size // page_size + 1 if page_size else 1):
        if not _is_right(_page(descriptor, number, page_size)):
            yield number


def set_checksums(descriptor: int, *, first_only: bool) -> None:
    """Set the checksums of the pages of our own copy, in which SQLite has written without them. Raises OSError."""
    page_size = _page_size(descriptor)
    pages = 1 if first_only else os.fstat(descriptor).st_size // page_size
    for number in range(1, pages + 1):
        checksum = _checksum(_page(descriptor, number, page_size)[:-_RESERVED_BYTES])
        os.pwrite(descriptor, checksum, number * page_size - _RESERVED_BYTES)


def path_has_checksums(path: Path) -> bool:
    """Tell `has_checksums` of the file at `path`. Raises OSError."""
    with path.open("rb") as stream:
        return has_checksums(stream.fileno())


def _page_size(descriptor: int) -> int:
    """Return the size of a page, 0 where there is no room for checksums."""
    raw = os.pread(descriptor, SIZE, 0)
    header = parse_header(raw)
    return header.page_size if header and header.sane and raw[_RESERVED_AT] == _RESERVED_BYTES else 0


def _page(descriptor: int, number: int, page_size: int) -> bytes:
    return os.pread(descriptor, page_size, (number - 1) * page_size)


def _is_right(page: bytes) -> bool:
    return _checksum(page[:-_RESERVED_BYTES]) == page[-_RESERVED_BYTES:]


def _checksum(data: bytes) -> bytes:
    """Return cksmCompute() of https://sqlite.org/src/file/ext/misc/cksumvfs.c."""
    first = second = 0
    for one, two in struct.iter_unpack("<II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return struct.pack("<II", first, second)
