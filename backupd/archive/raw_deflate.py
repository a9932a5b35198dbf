"""Raw DEFLATE (RFC 1951) and CRC-32, by libdeflate; by zlib where the package deflate has no wheel, as on 32-bit ARM.

Each unpacks what the other packed.
"""

import zlib

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
