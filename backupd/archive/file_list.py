r"""The list of a set of files: a line for each, which a shell can read. A list from another host is untrusted.

TYPE MODE UID GID MTIME SIZE CONTENT PATH, separated by tabs:

    d  0755  1000  1000  1764475200.000000000  -     -                 2026
    f  0644  1000  1000  1764475201.123456789  1234  (SHA-256 in hex)  2026/a cat.jpg
    l  0777  1000  1000  1764475202.000000000  -     ../b.jpg          2026/b.jpg

Lines are in the order of their paths, compared part by part as bytes: a directory precedes what is in it. Control
characters, backslashes and bytes that are not UTF-8 are written as `\0ooo`, which `printf %b` reads
(https://pubs.opengroup.org/onlinepubs/9799919799/utilities/printf.html).
"""

import hashlib
import re
from binascii import unhexlify
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, Literal, NamedTuple

from backupd.errors import CopyCorrupt

MAX_LINE_BYTES: Final = 64 << 10  # a path and the target of a link have at most 4,096 bytes, five characters for each
_MAX_PATH_BYTES: Final = 4096
_MAX_NAME_BYTES: Final = 255
_NS: Final = 10**9
_MAX_ID: Final = 2**32 - 2  # for chown(2) the next number means "do not change"
_PLAIN: Final = re.compile(rb"[ -\[\]-~]+")
_ESCAPED: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\\udc80-\udcff]")
_OCTAL: Final = re.compile(rb"\\(0[0-3][0-7]{2}|)")
_LINE: Final = re.compile(
    rb"([dfl])\t(0[0-7]{3}|[1-7][0-7]{3})\t(\d{1,10})\t(\d{1,10})\t(-?)(\d{1,12})\.(\d{9})\t(\d{1,19}|-)"
    rb"\t([^\t\n]+)\t([^\t\n]+)\n"
)
_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")
_FILE: Final = re.compile(rb"^f\t", re.MULTILINE)
_CONTENT: Final = re.compile(rb"^f(?:\t[^\t\n]*){5}\t([0-9a-f]{64})\t", re.MULTILINE)
_PIECE_BYTES: Final = 1 << 20

EntryType = Literal["d", "f", "l"]


class FileEntry(NamedTuple):
    """A directory, a file or a symbolic link; a NamedTuple, since lists are long and tuples are made fast."""

    path: bytes  # relative to the directory of the set
    type: EntryType
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int = 0  # of a file
    digest: str = ""  # SHA-256 of the contents of a file
    target: bytes = b""  # of a link


def encode_entry(entry: FileEntry) -> bytes:
    """Return the line of an entry, with its newline."""
    sign, ns = ("-", -entry.mtime_ns) if entry.mtime_ns < 0 else ("", entry.mtime_ns)
    size, content = "-", b"-"
    if entry.type == "f":
        size, content = str(entry.size_bytes), entry.digest.encode()
    elif entry.type == "l":
        content = escaped(entry.target)
    head = f"{entry.type}\t{entry.mode:04o}\t{entry.uid}\t{entry.gid}\t{sign}{ns // _NS}.{ns % _NS:09}\t{size}\t"
    return b"%s%s\t%s\n" % (head.encode(), content, escaped(entry.path))


def decode_entries(lines: Iterable[bytes], found_in: str) -> Iterator[FileEntry]:
    """Yield the entries in the list of generation `found_in`, given its lines, each with its newline.

    A path never leads out of the directory of the set, nor through a link: what is above it was a directory in this
    list. Raises CopyCorrupt for anything that `encode_entry` does not write.
    """
    above: list[bytes] = []  # the parts of the directory that the last entry is, or is in
    last: list[bytes] = []
    for line in lines:
        entry = _decode(line)
        parts = entry.path.split(b"/") if entry else []
        if entry is None or parts <= last or not _is_safe(parts) or parts[:-1] != above[: len(parts) - 1]:
            raise CopyCorrupt(
                f"the list of files of {found_in} is damaged: {line[:100]!r} cannot follow the line before",
                "use another generation (backupd list), and verify this one: backupd verify",
            )
        above = parts if entry.type == "d" else parts[:-1]
        last = parts
        yield entry


def decode_path(text: bytes) -> bytes:
    """Return the path of which `text` is the escaped form. Raises ValueError for one that leads out of a set."""
    path = unescaped(text)
    if escaped(path) != text or not _is_safe(path.split(b"/")):
        raise ValueError(f"{text[:120]!r} is not a path in a set of files")
    return path


def contents_in(listed: BinaryIO, sha256: str, found_in: str) -> Iterator[bytes]:
    """Yield the raw digest of each file in the open list of generation `found_in`, whose own digest is `sha256`.

    Many times faster than `decode_entries`, and as strict only where such a list was written from entries. Raises
    CopyCorrupt, at the end for a list of another digest.
    """
    digest, rest = hashlib.sha256(), b""
    while piece := listed.read(_PIECE_BYTES):
        digest.update(piece)
        lines, newline, rest = (rest + piece).rpartition(b"\n")
        found = _CONTENT.findall(lines + newline)
        if len(found) != len(_FILE.findall(lines + newline)):
            break
        yield from map(unhexlify, found)
    if rest or piece or digest.hexdigest() != sha256:
        raise CopyCorrupt(
            f"the list of files of {found_in} is damaged: it differs from its manifest",
            f"verify it (backupd verify {found_in}), and remove it if it is damaged: backupd remove {found_in}",
        )


def _decode(line: bytes) -> FileEntry | None:
    """Return the entry in a line, None where it is not one."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    kind, mode, uid, gid, sign, seconds, fraction, size, content, path = found.groups()
    mtime_ns = int(seconds) * _NS + int(fraction)
    try:
        entry = FileEntry(
            path=unescaped(path),
            type=kind.decode(),  # type: ignore[arg-type] # one of the three, by the pattern
            mode=int(mode, 8),
            uid=int(uid),
            gid=int(gid),
            mtime_ns=-mtime_ns if sign else mtime_ns,
            size_bytes=int(size) if kind == b"f" else 0,
            digest=content.decode() if kind == b"f" else "",
            target=unescaped(content) if kind == b"l" else b"",
        )
    except ValueError:
        return None
    is_digest = _DIGEST.fullmatch(content) is not None
    is_consistent = is_digest if kind == b"f" else size == b"-" and (kind == b"l" or content == b"-")
    fits = max(entry.uid, entry.gid) <= _MAX_ID and len(entry.target) <= _MAX_PATH_BYTES and b"\0" not in entry.target
    return entry if is_consistent and fits and encode_entry(entry) == line else None


def _is_safe(parts: list[bytes]) -> bool:
    """Return whether a path stays in the directory that it is relative to, and can exist."""
    if sum(map(len, parts)) + len(parts) > _MAX_PATH_BYTES:
        return False
    return all(part not in (b"", b".", b"..") and b"\0" not in part and len(part) <= _MAX_NAME_BYTES for part in parts)


def escaped(text: bytes) -> bytes:
    """Return a path, or a part of one, as a list has it."""
    if _PLAIN.fullmatch(text):
        return text
    return _ESCAPED.sub(_octal, text.decode(errors="surrogateescape")).encode()


def _octal(found: re.Match[str]) -> str:
    return "".join(f"\\0{byte:03o}" for byte in found[0].encode(errors="surrogateescape"))


def unescaped(text: bytes) -> bytes:
    """Return the bytes that were escaped. Raises ValueError for a backslash that escapes nothing."""
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), text) if b"\\" in text else text
