r"""The index of a set of files: what was read when, so that what has not changed since is not read again. A cache.

KEY, PATH, CONTENT, DAY, separated by tabs, in the order of the list (`archive.file_list`), and a last line:

    f 644 1000 1000 1764475201123456789 1234 1764475201123456789 393226  2026/a.jpg  (SHA-256 in hex)  20422
        {"list_sha256": "...", "crc32": "..."}

CONTENT of a file that is a SQLite database ends with `*`. KEY is type, mode (octal), user, group, mtime (ns), size,
ctime (ns) and inode; DAY counts from 1970 on. Two equal keys of a path mean that nothing was changed there, see `racy`.
"""

import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple

from backupd.archive.file_list import EntryType, FileEntry, unescaped

DAY_DIGITS: Final = 5
GRAIN_NS: Final = 2_000_000_000  # of the time stamps of the coarsest file system
DATABASE: Final = b"*"
_DIGEST_DIGITS: Final = 64
_DAY_NS: Final = 86_400 * 10**9
_TRAILER_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 20
_LATEST_NS: Final = 10**21 - 1  # that a list can hold
_TYPE_BITS: Final = 0o170000
_MODE_BITS: Final = 0o7777
_TYPES: Final = {stat.S_IFDIR: b"d", stat.S_IFREG: b"f", stat.S_IFLNK: b"l"}


class Trailer(NamedTuple):
    """What the last line of an index tells of it."""

    list_sha256: str = ""  # of the list that has these entries; empty while there is none
    uncovered: tuple[str, ...] = ()  # databases among the files, a few of them by name
    uncovered_count: int = 0


def key_of(state: os.stat_result) -> bytes:
    """Return the key of a directory, a file or a link; empty for anything else."""
    mode = state.st_mode
    if kind := _TYPES.get(mode & _TYPE_BITS):
        return b"%s %o %d %d %d %d %d %d" % (
            kind,
            mode & _MODE_BITS,
            state.st_uid,
            state.st_gid,
            state.st_mtime_ns,
            state.st_size if kind != b"d" else 0,
            state.st_ctime_ns,
            state.st_ino,
        )
    return b""


def racy(key: bytes, read_ns: int) -> bytes:
    """Return the key of what was read at `read_ns`; one that equals no other if a change then may not show in it."""
    parts = key.split(b" ")
    if read_ns - max(int(parts[4]), int(parts[6])) > GRAIN_NS:
        return key
    return b" ".join((*parts[:6], b"0", parts[7]))


def day_of(time_ns: int) -> bytes:
    """Return the day of a time, as lines have it."""
    return b"%0*d" % (DAY_DIGITS, max(0, time_ns // _DAY_NS))


def order_of(line: bytes) -> bytes:
    """Return what lines are sorted by: the path of one, part by part. Raises ValueError, IndexError."""
    return path_of(line).replace(b"/", b"\0")


def entry_of(line: bytes) -> FileEntry:
    """Return the entry of a list that a line stands for. Raises ValueError."""
    key, path, content, _day = line.split(b"\t")
    kind, mode, uid, gid, mtime_ns, size, _ctime_ns, _inode = key.split(b" ")
    return FileEntry(
        path=unescaped(path),
        type=_type(kind),
        mode=int(mode, 8),
        uid=int(uid),
        gid=int(gid),
        mtime_ns=max(-_LATEST_NS, min(int(mtime_ns), _LATEST_NS)),
        size_bytes=int(size) if kind == b"f" else 0,
        digest=content[:_DIGEST_DIGITS].decode() if kind == b"f" else "",
        target=unescaped(content) if kind == b"l" else b"",
    )


def _type(kind: bytes) -> EntryType:
    match kind:
        case b"d":
            return "d"
        case b"f":
            return "f"
        case b"l":
            return "l"
    raise ValueError(f"{kind!r} is not a type of an entry")


def path_of(line: bytes) -> bytes:
    """Return the path of a line. Raises ValueError, IndexError."""
    return unescaped(line.split(b"\t")[1])


def digest_of(line: bytes) -> bytes:
    """Return the raw digest of the line of a file. Raises ValueError, IndexError."""
    return bytes.fromhex(line.split(b"\t")[2][:_DIGEST_DIGITS].decode())


def is_database(line: bytes) -> bool:
    """Tell whether the line is that of a file that is a SQLite database. Raises IndexError."""
    return line.startswith(b"f") and line.split(b"\t")[2].endswith(DATABASE)


def lines_of(index: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of the open index from its beginning, without the last one."""
    index.seek(0)
    for line in index:
        if line.startswith(b"\t"):
            return
        yield line


class IndexWriter:
    """Writes the lines of an index to an open, empty file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._crc32 = stream, 0

    def write(self, line: bytes) -> None:
        """Write the next line."""
        self._crc32 = zlib.crc32(line, self._crc32)
        self._stream.write(line)

    def last_line(self, trailer: Trailer) -> bytes:
        """Return the line that ends the index."""
        return b"\t%s\n" % json.dumps(trailer._asdict() | {"crc32": f"{self._crc32:08x}"}).encode()


def read_trailer(index: BinaryIO) -> Trailer | None:
    """Return the last line of an index whose bytes match its checksum, None for anything else. Raises OSError."""
    size = index.seek(0, os.SEEK_END)
    index.seek(max(0, size - _TRAILER_BYTES))
    last = index.read().rpartition(b"\t{")[2]
    left, crc32 = size - len(last) - 2, 0
    index.seek(0)
    while left > 0 and (piece := index.read(min(left, _PIECE_BYTES))):
        crc32, left = zlib.crc32(piece, crc32), left - len(piece)
    with suppress(ValueError, TypeError, KeyError):
        facts = json.loads(b"{" + last)
        if int(facts.pop("crc32"), 16) == crc32:
            return Trailer(
                str(facts["list_sha256"]), tuple(map(str, facts["uncovered"])), int(facts["uncovered_count"])
            )
    return None
