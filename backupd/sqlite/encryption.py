"""Whether a file is an encrypted database: all of it looks random, and it has the size of whole pages.

SQLCipher has a random salt where SQLite has its name, or with `cipher_plaintext_header_size` the first bytes of a plain
header; SEE and SQLite3 Multiple Ciphers leave bytes 16 to 23 plain. Everything else of each page is ciphertext. Without
the key a sound one and random bytes look the same: the caller has to know what was there before.
"""

import math
import os
from collections.abc import Iterator

from backupd.sqlite.header import EMPTY, MAGIC, SIZE, Header, parse_header

_SMALLEST_PAGE, _USUAL_PAGE = 512, 4096
# A plain header is followed by zeros here (https://sqlite.org/fileformat2.html#the_database_header, offset 72).
_RESERVED = slice(72, 92)
_SAMPLES, _SAMPLE_BYTES = 32, 4096
# Of random bytes the chi-square statistic over 256 values is 255 on average, with a deviation of sqrt(2 * 255): beyond
# nine of them no random bytes are met, while text, numbers and zeros begin at many times that.
_VALUES, _MOST_DEVIATIONS = 256, 9
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
    """Tell whether the open file looks like an encrypted database, by reading 128 KiB of it at most. Raises OSError.

    Never while this process has the file open in SQLite: closing the descriptor would drop its locks.
    """
    size_bytes = os.fstat(descriptor).st_size
    first = os.pread(descriptor, _SMALLEST_PAGE, 0)
    if size_bytes < _SMALLEST_PAGE or size_bytes % _SMALLEST_PAGE or first.startswith(_OTHER_FILES):
        return False
    if first.startswith(MAGIC) and not any(first[_RESERVED]):
        return False
    return all(_is_random(sample) for sample in _samples(descriptor, size_bytes))


def is_encrypted(path: str) -> bool:
    """Tell the same of the file at `path`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return looks_encrypted(descriptor)
    finally:
        os.close(descriptor)


def encrypted_header(descriptor: int) -> Header | None:
    """Return what can be known of the open file if it looks like an encrypted database, else None. Raises OSError.

    Page size and journal mode are those of its header where it is plain, else a size that fits and `rollback`.
    """
    if not looks_encrypted(descriptor):
        return None
    size_bytes = os.fstat(descriptor).st_size
    plain = parse_header(MAGIC + os.pread(descriptor, SIZE, 0)[len(MAGIC) :])
    if plain is not None and plain.sane and size_bytes % plain.page_size == 0:
        return EMPTY._replace(page_size=plain.page_size, journal_mode=plain.journal_mode, encrypted=True)
    return EMPTY._replace(page_size=min(_USUAL_PAGE, size_bytes & -size_bytes), encrypted=True)


def _samples(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    """Yield pieces from all over the file; SQLite does not write what is in free pages, which may be zeros."""
    yield os.pread(descriptor, _SAMPLE_BYTES - SIZE, SIZE)
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
