"""A gzip member: one piece of a snapshot, compressed separately.

Any gunzip reads a file of many members as one stream (RFC 1952 §2.2). Each member has its own length in an extra field
(§2.3.1.1), as with BGZF and pgzip, so that members can be found and unpacked on all cores.

    1f 8b 08 04 | mtime 0 (4) | xfl 0 | os 255 | xlen 8 | 'B' 'd' | 4 0 | length (4) | deflate … | crc32 (4) | isize (4)

libdeflate compresses, or zlib where the package deflate has no wheel, as on 32-bit ARM; each unpacks what the other
packed.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from backupd.errors import CopyCorrupt

try:
    import deflate
except ImportError:

    def compress(piece: bytes, level: int) -> bytes:
        """Return `piece` compressed at `level`, 1 to 12, of which 9 is zlib's highest."""
        compressor = zlib.compressobj(min(level, 9), zlib.DEFLATED, -zlib.MAX_WBITS)
        return compressor.compress(piece) + compressor.flush()

    def decompress(body: bytes, most_bytes: int) -> bytes:
        """Return what `body` holds. Raises ValueError: damaged, without an end, or more than `most_bytes`."""
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            piece = decompressor.decompress(body, most_bytes)
            if not decompressor.eof:
                piece += decompressor.decompress(decompressor.unconsumed_tail, 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if not decompressor.eof or len(piece) > most_bytes:
            raise ValueError("the data have no end, or are longer than allowed")
        return piece

    crc32 = zlib.crc32
else:

    def compress(piece: bytes, level: int) -> bytes:
        """Return `piece` compressed at `level`, 1 to 12."""
        return bytes(deflate.deflate_compress(piece, level))

    def decompress(body: bytes, most_bytes: int) -> bytes:
        """Return what `body` holds. Raises ValueError: damaged, without an end, or more than `most_bytes`."""
        try:
            return bytes(deflate.deflate_decompress(body, most_bytes))
        except deflate.DeflateError as error:
            raise ValueError(str(error)) from error

    crc32 = deflate.crc32

LEVELS = (5, 6, 7)
WORTH = 0.0125
_PIECES = 16
_MOST_LONGER = 16  # a piece that cannot be compressed takes 5 bytes more for each 5,000 (libdeflate)
_PIECE_BYTES = 256 << 10
Map = Callable[[Callable[[bytes], list[int]], Iterable[bytes]], Iterable[list[int]]]
HEADER_BYTES = 20
TRAILER_BYTES = 8
_HEADER = struct.Struct("<4sLBBH2sHL")
_TRAILER = struct.Struct("<LL")
_MAGIC, _FIELD = b"\x1f\x8b\x08\x04", b"Bd"


def pack_member(piece: bytes, level: int) -> bytes:
    """Return `piece` as one gzip member, verified by unpacking it. Raises CopyCorrupt."""
    body = compress(piece, level)
    if decompress(body, max(len(piece), 1)) != piece:
        raise CopyCorrupt("a compressed piece did not unpack to itself", "test this machine's memory (memtest)")
    length = HEADER_BYTES + len(body) + TRAILER_BYTES
    header = _HEADER.pack(_MAGIC, 0, 0, 255, 8, _FIELD, 4, length)
    return b"".join((header, body, _TRAILER.pack(crc32(piece), len(piece))))


def read_member(stream: BinaryIO, member_bytes: int) -> bytes:
    """Read the next member from `stream`, b"" at its end; `member_bytes` is the largest piece that it may hold.

    Raises CopyCorrupt for anything that is not such a member, before more than that is read.
    """
    header = stream.read(HEADER_BYTES)
    if not header:
        return b""
    length = _length(header)
    if not HEADER_BYTES + TRAILER_BYTES < length <= member_bytes + member_bytes // _MOST_LONGER + 1024:
        raise CopyCorrupt("the archive is damaged: a member has an impossible length", "try another generation")
    rest = stream.read(length - HEADER_BYTES)
    if len(rest) != length - HEADER_BYTES:
        raise CopyCorrupt("the archive is truncated in the middle of a member", "try another generation")
    return header + rest


def unpack_member(member: bytes, member_bytes: int) -> bytes:
    """Return the piece in `member`, at most `member_bytes`. Raises CopyCorrupt."""
    checksum, size = _TRAILER.unpack_from(member, len(member) - TRAILER_BYTES)
    try:
        piece = decompress(member[HEADER_BYTES:-TRAILER_BYTES], max(min(size, member_bytes), 1))
    except ValueError as error:
        raise CopyCorrupt("the archive is damaged: a member does not unpack", "try another generation") from error
    if len(piece) != size or crc32(piece) != checksum:
        raise CopyCorrupt("the archive is damaged: a member's checksum is wrong", "try another generation")
    return piece


def _length(header: bytes) -> int:
    if len(header) == HEADER_BYTES:
        magic, _mtime, _xfl, _os, xlen, field, size, length = _HEADER.unpack(header)
        if (magic, xlen, field, size) == (_MAGIC, 8, _FIELD, 4):
            return int(length)
    raise CopyCorrupt("this is not an archive of backupd, or it is damaged", "gunzip unpacks any undamaged gzip file")


def choose_level(snapshot: BinaryIO, on_all_cores: Map) -> int:
    """Return the fastest level whose archive is at most 1.25 % larger than that of the slowest; deterministic.

    `on_all_cores` maps a function over the sample, as `map` does. Raises OSError.
    """

    def sizes_of(piece: bytes) -> list[int]:
        return [len(compress(piece, level)) for level in LEVELS]

    sizes = [sum(column) for column in zip(*on_all_cores(sizes_of, _sample(snapshot)), strict=True)]
    return next(
        (level for level, size in zip(LEVELS, sizes, strict=False) if size <= sizes[-1] * (1 + WORTH)), LEVELS[0]
    )


def _sample(snapshot: BinaryIO) -> Iterator[bytes]:
    """Yield pieces spread evenly over the snapshot; all of a small one."""
    step = max(_PIECE_BYTES, snapshot.seek(0, os.SEEK_END) // _PIECES)
    for number in range(_PIECES):
        snapshot.seek(number * step)
        piece = snapshot.read(_PIECE_BYTES)
        if piece:
            yield piece
