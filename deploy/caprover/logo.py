"""Draws logo.png: `python deploy/caprover/logo.py`. Three disks, the lowest of them green."""

import struct
import zlib
from pathlib import Path

SIZE = 128
FINE = 4  # sub-pixels each way, for smooth edges
NIGHT, SLATE, GREEN = (24, 32, 44), (148, 163, 184), (52, 190, 120)
CENTRE, WIDTH, HEIGHT, THICKNESS = 64, 38, 10, 8
DISKS = ((37, SLATE), (61, SLATE), (85, GREEN))  # the middle of each upper side
STRAIGHT, ROUND = 40, 24  # half of an edge of the tile, and the radius of its corners


def colour(x: float, y: float) -> tuple[int, int, int, int]:
    """Return the colour at a point."""
    for middle, paint in DISKS:
        if _in_ellipse(x, y - middle):
            return *paint, 255
        if y > middle and _in_ellipse(x, y - middle - THICKNESS):
            return *(part * 3 // 4 for part in paint), 255
    beyond = [max(abs(value - CENTRE) - STRAIGHT, 0) for value in (x, y)]
    return *NIGHT, 255 if sum(value**2 for value in beyond) <= ROUND**2 else 0


def _in_ellipse(x: float, y: float) -> bool:
    return ((x - CENTRE) / WIDTH) ** 2 + (y / HEIGHT) ** 2 <= 1


def pixel(column: int, row: int) -> bytes:
    """Return the mean colour of a pixel."""
    points = [colour(column + (i + 0.5) / FINE, row + (j + 0.5) / FINE) for i in range(FINE) for j in range(FINE)]
    return bytes(sum(point[part] for point in points) // len(points) for part in range(4))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG (RFC 2083 §3.2)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def main() -> None:
    """Write the file beside this one."""
    rows = b"".join(b"\0" + b"".join(pixel(column, row) for column in range(SIZE)) for row in range(SIZE))
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 6, 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    Path(__file__).with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)


if __name__ == "__main__":
    main()
