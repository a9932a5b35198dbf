"""The shadow tables of virtual tables: where a module stores what it holds (https://sqlite.org/vtab.html#xshadowname).

They are recognised by their names: without the module SQLite takes them for ordinary tables.
"""

from collections.abc import Mapping
from types import MappingProxyType

_FTS = MappingProxyType({"content": True, "docsize": True, "segments": False, "segdir": False, "stat": False})
_RTREE = MappingProxyType({"rowid": True, "node": False, "parent": False})
# By module, the suffixes of its shadow tables, and whether they have one row for each row of the virtual table. The
# others hold the index: their rows become fewer when it is optimized, and nothing is lost.
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
    """Return the names that the shadow tables of a virtual table have, and which of them have a row for each row."""
    return {f"{table}_{suffix}": by_row for suffix, by_row in SHADOW_TABLES.get(module, {}).items()}
