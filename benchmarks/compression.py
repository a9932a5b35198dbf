"""Libraries, levels and sizes of members: `python -m benchmarks.compression DATABASE` (needs isal and zlib-ng)."""

import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import deflate
from isal import igzip
from zlib_ng import zlib_ng

_SAMPLE = 64 << 20
_KIB = (256, 512, 1024)


def measure(compress: Callable[[bytes], bytes], data: bytes, piece: int) -> tuple[int, float]:
    """Return the number of compressed bytes, and MB a second on one core."""
    began = time.perf_counter()
    out = sum(len(compress(data[at : at + piece])) for at in range(0, len(data), piece))
    return out, len(data) / 1e6 / (time.perf_counter() - began)


def main(database: Path) -> None:
    """Print a Markdown table; sizes are against `gzip -9` of the whole."""
    with database.open("rb") as stream:
        stream.seek(max(0, (database.stat().st_size - _SAMPLE) // 2))
        data = stream.read(_SAMPLE)
    whole, speed = measure(lambda d: zlib.compress(d, 9), data, len(data))
    print("| compressor | member | size | MB/s on one core |\n|---|---|---|---|")
    print(f"| zlib 9 (gzip -9) | whole | 1.000 | {speed:.0f} |")
    for kib in _KIB:
        rivals: dict[str, Callable[[bytes], bytes]] = {
            **{
                f"libdeflate {level}": (lambda d, level=level: deflate.gzip_compress(d, level))
                for level in (4, 5, 6, 7, 9)
            },
            "zlib-ng 6": lambda d: zlib_ng.compress(d, 6),
            "ISA-L 3": lambda d: igzip.compress(d, 3),
        }
        for name, compress in rivals.items():
            out, speed = measure(compress, data, kib << 10)
            print(f"| {name} | {kib} KiB | {out / whole:.3f} | {speed:.0f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
