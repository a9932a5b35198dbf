"""Check a database whose schema SQLite cannot parse: find the reason, and which page belongs to which object.

The reason may be the limits of this SQLite, the syntax of another engine, or damage: SQLite reports "malformed database
schema" for all three. `dbstat` follows the b-trees from their root pages, and needs only those from the schema.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal, NamedTuple

import apsw

from backupd.sqlite.file_format import HEADER_BYTES, parse_header
from backupd.sqlite.worker.connection import empty_database, text_rows
from backupd.system.small_file import opened_file

Cause = Literal["limits", "function", "newer", "other engine", "damage"]

_MALFORMED = r"(?s)malformed database schema \((.*?)\)(?: - (.*))?"
# Compiled when needed, as in `integrity_levels`. Only a library with higher limits can have written these
# (https://sqlite.org/limits.html): no changed bit creates two thousand columns.
_LIMIT = r"too many (columns|terms|arguments)|Expression tree is too large|parser stack overflow"
_FUNCTION = r"wrong number of arguments to function|misuse of (aggregate|window function)"
_SYNTAX = r'(?s)near ".*": syntax error|unknown table option: .*|unknown datatype for .*'
# What no newer syntax explains; SQLite does not report text that does not begin like a statement.
_DAMAGED = r"$|invalid rootpage|orphan index|incomplete input|unrecognized token"
_STATEMENT = r"(?i)create "
# Reported for valid statements that are parsed alone, or that the checks handle with stand-ins.
_IRRELEVANT = r"no such (table|function|module|collation)|unknown function|.*already (exists|a table|another)"
_CONTROL = r"[\x00-\x08\x0e-\x1f\x7f]"
_BEFORE_BYTES, _AFTER_BYTES = 256, 64
_MOST_BYTES = 256 << 20  # parsed in about two seconds


class SchemaError(NamedTuple):
    """What SQLite reports about the object `name` of a schema, and the cause."""

    name: str
    message: str
    cause: Cause

    def __str__(self) -> str:
        """Return it as a sentence."""
        made = {"limits": "made with other limits", "newer": "made by a newer SQLite"}
        cause = made.get(self.cause, f"made by another {'SQLite' if self.cause == 'function' else 'engine'}")
        return f"{self.name} is not readable by SQLite {apsw.sqlite_lib_version()}, {cause}: {self.message}"


def schema_error_in(connection: apsw.Connection, text: str, writer: str) -> SchemaError | None:
    """Return the error that SQLite's message `text` reports of a schema that `writer` wrote; None if it reports none.

    `connection` ignores what it cannot parse (`writable_schema`).
    """
    message = re.fullmatch(_MALFORMED, text)
    if message is None:
        return None
    name, why = message[1], message[2] or ""
    kind, sql = next(((kind, sql) for kind, of, sql in _objects(connection) if of == name), ("", None))
    return SchemaError(name, why, _cause(connection if kind != "table" else empty_database(), sql, why, writer))


def schema_errors(connection: apsw.Connection, writer: str) -> Iterator[SchemaError]:
    """Yield the errors of each object, parsed alone: SQLite does not report those that it ignores."""
    empty = empty_database()
    for kind, name, sql in _objects(connection):
        target = empty if kind == "table" else connection  # indexes, views and triggers need their tables
        message = "it is not UTF-8" if sql is None else _parse(target, sql)[0]
        if message:
            yield SchemaError(name, message, _cause(target, sql, message, writer))


def _objects(connection: apsw.Connection) -> Iterator[tuple[str, str, str | None]]:
    """Yield type, name and SQL (None where it is no text) of each object."""
    columns = "CAST(type AS BLOB), CAST(name AS BLOB), CAST(sql AS BLOB)"
    query = f"SELECT {columns} FROM sqlite_schema WHERE sql NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"  # noqa: S608
    for kind, name, sql in text_rows(connection, query, errors="surrogateescape"):
        broken = sql.encode(errors="replace").decode() != sql
        yield kind, name.encode(errors="backslashreplace").decode(), None if broken else sql


def _parse(connection: apsw.Connection, sql: str) -> tuple[str, int]:
    """Parse the first statement in `sql` and run nothing; returns what is wrong with it, and at which byte or -1."""
    cursor = connection.cursor()
    cursor.exec_trace = lambda *_statement: False
    try:
        cursor.execute(sql, can_cache=False)
    except apsw.ExecTraceAbort:
        return "", -1
    except apsw.Error as error:
        text = str(error)
        return ("", -1) if re.match(_IRRELEVANT, text) else (text, int(getattr(error, "error_offset", -1)))
    except ValueError as error:  # a zero byte
        return str(error), -1
    return "it is not a statement", -1


def _cause(connection: apsw.Connection, sql: str | None, message: str, writer: str) -> Cause:
    if re.match(_LIMIT, message):
        return "limits"
    if re.match(_FUNCTION, message):
        return "function"
    if sql is None or not re.match(_STATEMENT, sql) or re.search(_CONTROL, sql) or re.match(_DAMAGED, message):
        return "damage"
    if _one_bit_explains(connection, sql):
        return "damage"
    if _version(writer) > _version(apsw.sqlite_lib_version()):
        return "newer"
    return "other engine" if re.fullmatch(_SYNTAX, message) else "damage"


def _one_bit_explains(connection: apsw.Connection, sql: str) -> bool:
    """Return whether `sql` can be parsed with one bit of it changed: then damage is the likely reason.

    Bytes far before the place of the syntax error did not cause it. True where it would take too long to try.
    """
    raw = bytearray(sql.encode())
    at = _parse(connection, sql)[1]
    places = range(len(raw)) if at < 0 else range(max(0, at - _BEFORE_BYTES), min(len(raw), at + _AFTER_BYTES))
    if len(places) * 8 * len(raw) > _MOST_BYTES:
        return True
    for place in places:
        for bit in range(8):
            raw[place] ^= 1 << bit
            with suppress(UnicodeDecodeError):
                if not _parse(connection, raw.decode())[0]:
                    return True
            raw[place] ^= 1 << bit
    return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


_PENDING_BYTE = 0x40000000
_TABLE_PAGES = b"\x0d\x05"  # the rows of such a b-tree are in its leaves alone
_PTRMAP_ENTRY_BYTES = 5
_EVERY_PAGE = "SELECT CAST(name AS BLOB), pagetype, pageno, ncell FROM dbstat"


class PageOwners(NamedTuple):
    """The damage of the pages, and the rows of each b-tree, by the name of its table or index."""

    damage: list[str]
    rows: dict[str, int]


class _File:
    """The open copy, and what its header says about its pages."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        raw = os.pread(descriptor, HEADER_BYTES, 0)
        header = parse_header(raw)
        self.page_size = header.page_size if header else 1
        self.count = os.fstat(descriptor).st_size // self.page_size
        self.trunk = int.from_bytes(raw[32:36], "big")
        self.usable = self.page_size - raw[20]
        self.auto_vacuum = any(raw[52:56])

    def page(self, number: int) -> bytes:
        return os.pread(self._descriptor, self.page_size, (number - 1) * self.page_size)


def follow_pages(connection: apsw.Connection, path: str) -> PageOwners:
    """Follow every b-tree, the freelist and the pointer map of the copy at `path`, which `connection` has open.

    Raises apsw.Error where a b-tree cannot be followed, OSError.
    """
    with opened_file(path) as descriptor:
        file = _File(descriptor)
        pages, rows, damage = _b_trees(connection, file)
        owned = bytearray(file.count + 1)
        for number in (*pages, *_free_pages(file), *_fixed_pages(file)):
            if not 1 <= number <= file.count:
                damage.append(f"page {number} is beyond the end")
            elif owned[number]:
                damage.append(f"page {number} belongs to two things")
            else:
                owned[number] = 1
        damage += [f"page {number} belongs to nothing" for number in range(1, file.count + 1) if not owned[number]]
    return PageOwners(damage, rows)


def _b_trees(connection: apsw.Connection, file: _File) -> tuple[list[int], Counter[str], list[str]]:
    """Return the pages of all b-trees, the rows in each by name, and the damage."""
    pages: list[int] = []
    rows: Counter[str] = Counter()
    damage: list[str] = []
    in_leaves = {
        name: file.page(root)[0] in _TABLE_PAGES
        for name, root in text_rows(connection, "SELECT CAST(name AS BLOB), rootpage FROM sqlite_schema")
        if isinstance(root, int) and 1 <= root <= file.count
    }
    for name, kind, number, cells in text_rows(connection, _EVERY_PAGE):
        pages.append(number)
        if kind == "corrupted":
            damage.append(f"page {number} of {name} is not a page of a b-tree")
        elif kind == "leaf" or (kind == "internal" and not in_leaves.get(name, True)):
            rows[name] += cells
    return pages, rows, damage


def _free_pages(file: _File) -> Iterator[int]:
    """Yield the pages of the freelist, also of a damaged one that is a cycle or leaves the file."""
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
    """Yield the pages at fixed places: that of the lock bytes, and those of the pointer map with auto-vacuum."""
    lock = _PENDING_BYTE // file.page_size + 1
    if lock <= file.count:
        yield lock
    if file.auto_vacuum:
        step = file.usable // _PTRMAP_ENTRY_BYTES + 1
        yield from (number + (number == lock) for number in range(2, file.count + 1, step))
