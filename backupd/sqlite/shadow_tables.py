"""The shadow tables of virtual tables, in which a module stores its data (https://sqlite.org/vtab.html#xshadowname).

They are recognised by their names: without the module, SQLite treats them as ordinary tables.
"""

from collections.abc import Mapping
from types import MappingProxyType

_FTS = MappingProxyType({"content": True, "docsize": True, "segments": False, "segdir": False, "stat": False})
_RTREE = MappingProxyType({"rowid": True, "node": False, "parent": False})
# By module, the suffixes of its shadow tables, and whether they have one row for each row of the virtual table. The
# others hold the index, which has fewer rows after it was optimized without a loss of data.
SHADOW_TABLES: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {
        "fts3": _FTS,
        "fts4": _FTS,
        "fts5": MappingProxyType({"content": True, "docsize": True, "data": False, "idx": False, "config": False}),
        "rtree": _RTREE,
        "rtree_i32": _RTREE,
        "geopoly": _RTREE,
    }
)


def shadow_tables_of(table: str, module: str) -> dict[str, bool]:
    """Return the names of the shadow tables of a virtual table, and whether each has one row for each of its rows."""
    return {f"{table}_{suffix}": by_row for suffix, by_row in SHADOW_TABLES.get(module, {}).items()}
