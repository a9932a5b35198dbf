"""What is committed in a WAL, read without SQLite: https://sqlite.org/fileformat2.html#walformat."""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from backupd.errors import SourceEncrypted

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_MAGIC = 0x377F0682  # its lowest bit tells the byte order of the checksums
_Sums = tuple[int, int]


class WalPages(NamedTuple):
    """Where in the WAL the newest committed version of each page is, and how many pages the database has by it."""

    page_size: int
    total: int
    at: dict[int, int]


class _Frame(NamedTuple):
    page: int
    total: int
    at: int


def committed_pages(wal: int, path: str) -> WalPages | None:
    """Return what is committed in the WAL of `path` that is open as `wal`; None where nothing is.

    Raises SourceEncrypted where frames are there whose checksums can only be verified with the key.
    """
    header = os.pread(wal, _HEADER_BYTES, 0)
    if len(header) < _HEADER_BYTES:
        return None
    magic, _version, page_size = struct.unpack_from(">III", header)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, header[:24], (0, 0))
    if magic & ~1 != _MAGIC or sums != struct.unpack_from(">II", header, 24):
        return None
    committed: dict[int, int] = {}
    pending: dict[int, int] = {}
    total = 0
    for frame in _frames(wal, order, page_size, header[16:24], sums):
        pending[frame.page] = frame.at
        if frame.total:  # the last frame of a transaction
            committed |= pending
            pending, total = {}, frame.total
    if total:
        return WalPages(page_size, total, {page: at for page, at in committed.items() if page <= total})
    if not pending and os.pread(wal, 8, _HEADER_BYTES + 8) == header[16:24]:
        raise SourceEncrypted(
            f"{path}-wal is encrypted in a way that hides which of its transactions are complete",
            "back up while the app is stopped, or let it use a rollback journal (PRAGMA journal_mode=DELETE)",
        )
    return None


def _frames(wal: int, order: str, page_size: int, salt: bytes, sums: _Sums) -> Iterator[_Frame]:
    """Yield the frames whose salt and checksums are right, up to the first that is not."""
    at = _HEADER_BYTES
    while True:
        raw = os.pread(wal, _FRAME_HEADER_BYTES + page_size, at)
        if len(raw) < _FRAME_HEADER_BYTES + page_size or raw[8:16] != salt:
            return
        sums = _checksum(order, raw[_FRAME_HEADER_BYTES:], _checksum(order, raw[:8], sums))
        if sums != struct.unpack_from(">II", raw, 16):
            return
        page, total = struct.unpack_from(">II", raw)
        yield _Frame(page, total, at + _FRAME_HEADER_BYTES)
        at += _FRAME_HEADER_BYTES + page_size


def _checksum(order: str, data: bytes, sums: _Sums) -> _Sums:
    """https://sqlite.org/fileformat2.html#checksum_algorithm."""
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
