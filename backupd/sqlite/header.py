"""The first 100 bytes of a database file: https://sqlite.org/fileformat2.html#the_database_header."""

import os
from typing import Literal, NamedTuple

SIZE = 100
NEWEST_READ_VERSION = 2
_PAGE_SIZES = frozenset(512 << power for power in range(7))
_PAYLOAD_FRACTIONS = b"\x40\x20\x20"
MAGIC = b"SQLite format 3\x00"


class Header(NamedTuple):  # no dataclass: child processes import this
    """What the header says; `writer` is the SQLite that last wrote it, as `3.40.1`, or `unknown`.

    `checksums` (cksumvfs keeps one in each page) and `encrypted` (nothing else is known) are not in these bytes. No
    SQLite reads a file whose header is not `sane`, and none a `read_version` above `NEWEST_READ_VERSION`.
    """

    page_size: int
    journal_mode: Literal["wal", "rollback"]
    user_version: int
    application_id: int
    writer_number: int
    read_version: int = 1
    sane: bool = True
    encrypted: bool = False
    checksums: bool = False

    @property
    def writer(self) -> str:
        """The version number at offset 96 for people."""
        number = self.writer_number
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number else "unknown"


EMPTY = Header(page_size=4096, journal_mode="rollback", user_version=0, application_id=0, writer_number=0)


def parse_header(raw: bytes) -> Header | None:
    """Return the header in `raw`, or None when it is not that of a plain SQLite 3 database."""
    if len(raw) < SIZE or not raw.startswith(MAGIC):
        return None
    page_size = int.from_bytes(raw[16:18], "big")
    return Header(
        page_size=65536 if page_size == 1 else page_size,
        journal_mode="wal" if raw[18] == 2 else "rollback",  # noqa: PLR2004 - file format version 2 is WAL
        user_version=int.from_bytes(raw[60:64], "big", signed=True),
        application_id=int.from_bytes(raw[68:72], "big", signed=True),
        writer_number=int.from_bytes(raw[96:100], "big"),
        read_version=raw[19],
        sane=(page_size == 1 or page_size in _PAGE_SIZES) and raw[21:24] == _PAYLOAD_FRACTIONS,
    )


def read_header(path: str) -> Header | None:
    """Read the header of the file at `path`. Raises OSError.

    Never while this process has the database open: closing the descriptor would drop its locks.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return parse_header(os.pread(descriptor, SIZE, 0))
    finally:
        os.close(descriptor)
