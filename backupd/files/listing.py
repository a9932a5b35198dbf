"""The list of a set of files, made of an index."""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple

from backupd.archive.file_list import decode_entries, encode_entry
from backupd.files.index import entry_of, is_database, path_of

_MOST_NAMED: Final = 3


class Sums(NamedTuple):
    """How many entries a list has, the bytes of its files, and which of them are databases."""

    files: int
    directories: int
    links: int
    size_bytes: int
    databases: tuple[bytes, ...]  # a few of them
    database_count: int


def write_list(lines: Iterable[bytes], out: BinaryIO, found_in: str, saw: Callable[[bytes], object]) -> Sums:
    """Write the list of the entries of an index, given its `lines`; `saw` gets each path of a file or link.

    Raises CopyCorrupt where it would be one that no restore accepts, OSError.
    """
    counts, databases = {"d": 0, "f": 0, "l": 0}, list[bytes]()
    size_bytes = 0
    for entry in decode_entries(_written(lines, out, databases), found_in):
        counts[entry.type] += 1
        size_bytes += entry.size_bytes
        if entry.type != "d":
            saw(entry.path)
    named = tuple(databases[:_MOST_NAMED])
    return Sums(counts["f"], counts["d"], counts["l"], size_bytes, named, len(databases))


def _written(lines: Iterable[bytes], out: BinaryIO, databases: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        if is_database(line):
            databases.append(path_of(line))
        encoded = encode_entry(entry_of(line))
        out.write(encoded)
        yield encoded
