"""Whether a pinned database is all there: SQLite reads zeros where a file ends too soon, and may well find them sound.

So a file that lost its end would be copied, checked and published as good, with bytes of its last pages gone.
"""

import os
from collections.abc import Iterator
from contextlib import closing

import apsw

from backupd.errors import SourceCorrupt

# The page of the lock bytes is never written (https://sqlite.org/fileformat2.html#the_lock_byte_page).
_PENDING_BYTE = 0x40000000
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24


def require_not_truncated(source: apsw.Connection, path: str, inode: int, page_size: int) -> None:
    """Refuse the database at `path`, pinned by `source`, when pages of it are in neither the file nor its WAL.

    Raises SourceCorrupt. The database file itself is only looked at by `stat`; one that is no longer `inode` was
    replaced, which is for others to say.
    """
    pages, state = _page_count(source), os.stat(path)
    size_bytes = state.st_size
    if pages * page_size <= size_bytes or state.st_ino != inode:
        return
    lacking = set(range(size_bytes // page_size + 1, pages + 1)) - {_PENDING_BYTE // page_size + 1}
    lacking -= set(_pages_in_wal(f"{path}-wal", page_size))
    if lacking:
        raise SourceCorrupt(
            f"{path} is cut off: it has {size_bytes} bytes, and {len(lacking)} of its {pages} pages are not all there",
            "restore the last good generation (backupd list); what is left can be read with sqlite3 .recover",
        )


def _page_count(source: apsw.Connection) -> int:
    """Ask for the size of the snapshot in a way that needs no schema that can be parsed."""
    with (
        closing(apsw.Connection(":memory:")) as nowhere,
        closing(nowhere.backup("main", source, "main")) as backup,
    ):
        backup.step(0)
        return int(backup.page_count)


def _pages_in_wal(path: str, page_size: int) -> Iterator[int]:
    """Yield the numbers of the pages that valid frames hold (https://sqlite.org/fileformat2.html#walformat)."""
    try:
        wal = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        salt = os.pread(wal, _WAL_HEADER_BYTES, 0)[16:24]
        at = _WAL_HEADER_BYTES
        while len(frame := os.pread(wal, _FRAME_HEADER_BYTES, at)) == _FRAME_HEADER_BYTES and frame[8:16] == salt:
            yield int.from_bytes(frame[:4], "big")
            at += _FRAME_HEADER_BYTES + page_size
    finally:
        os.close(wal)
