"""Which page belongs to what, of a database whose schema cannot be parsed: each page must belong to one thing.

`dbstat` follows the b-trees from their root pages, and needs to know no more of the schema than where these are.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import apsw

from backupd.sqlite.header import SIZE, parse_header
from backupd.sqlite.worker.texts import texts

_PENDING_BYTE = 0x40000000
_TABLE_PAGES = b"\x0d\x05"  # the rows of such a b-tree are in its leaves alone
_PTRMAP_ENTRY_BYTES = 5
_EVERY_PAGE = "SELECT CAST(name AS BLOB), pagetype, pageno, ncell FROM dbstat"


class Walked(NamedTuple):
    """What is wrong with the pages, and how many rows each b-tree holds, by the name of its table or index."""

    damage: list[str]
    rows: dict[str, int]


class _File:
    """The open copy, and what its header says of its pages."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        raw = os.pread(descriptor, SIZE, 0)
        header = parse_header(raw)
        self.page_size = header.page_size if header else 1
        self.count = os.fstat(descriptor).st_size // self.page_size
        self.trunk = int.from_bytes(raw[32:36], "big")
        self.usable = self.page_size - raw[20]
        self.auto_vacuum = any(raw[52:56])

    def page(self, number: int) -> bytes:
        return os.pread(self._descriptor, self.page_size, (number - 1) * self.page_size)


def walk(connection: apsw.Connection, path: str) -> Walked:
    """Follow every b-tree, the freelist and the pointer map of the copy at `path`, which `connection` has open.

    Raises apsw.Error where a b-tree cannot be followed, OSError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        file = _File(descriptor)
        trees = _Trees(connection, file)
        owners = bytearray(file.count + 1)
        damage = list(trees.damage)
        for number in (*trees.pages, *_free_pages(file), *_fixed_pages(file)):
            if not 1 <= number <= file.count:
                damage.append(f"page {number} is beyond the end")
            elif owners[number]:
                damage.append(f"page {number} belongs to two things")
            else:
                owners[number] = 1
        damage += [f"page {number} belongs to nothing" for number in range(1, file.count + 1) if not owners[number]]
    finally:
        os.close(descriptor)
    return Walked(damage, trees.rows)


class _Trees:
    """The pages of all b-trees, and the rows in each."""

    def __init__(self, connection: apsw.Connection, file: _File) -> None:
        self.damage: list[str] = []
        self.rows: dict[str, int] = {}
        self.pages: list[int] = []
        in_leaves = {
            name: file.page(root)[0] in _TABLE_PAGES
            for name, root in texts(connection, "SELECT CAST(name AS BLOB), rootpage FROM sqlite_schema")
            if isinstance(root, int) and 1 <= root <= file.count
        }
        for name, kind, number, cells in texts(connection, _EVERY_PAGE):
            self.pages.append(number)
            if kind == "corrupted":
                self.damage.append(f"page {number} of {name} is no page of a b-tree")
            elif kind == "leaf" or (kind == "internal" and not in_leaves.get(name, True)):
                self.rows[name] = self.rows.get(name, 0) + cells


def _free_pages(file: _File) -> Iterator[int]:
    """Yield the pages of the freelist; one that runs in circles or out of the file ends where it does."""
    trunk, left = file.trunk, file.count
    while trunk and left > 0:
        yield trunk
        if trunk > file.count:
            return
        raw = file.page(trunk)
        leaves = min(int.from_bytes(raw[4:8], "big"), file.usable // 4 - 2)
        yield from (int.from_bytes(raw[at : at + 4], "big") for at in range(8, 8 + 4 * leaves, 4))
        trunk, left = int.from_bytes(raw[:4], "big"), left - 1 - leaves


def _fixed_pages(file: _File) -> Iterator[int]:
    """Yield the pages that have one place: of the lock bytes, and of the pointer map of a database with auto-vacuum."""
    lock = _PENDING_BYTE // file.page_size + 1
    if lock <= file.count:
        yield lock
    if file.auto_vacuum:
        step = file.usable // _PTRMAP_ENTRY_BYTES + 1
        yield from (number + (number == lock) for number in range(2, file.count + 1, step))
