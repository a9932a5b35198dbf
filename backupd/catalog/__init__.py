"""The catalog: a SQLite database that indexes runs, generations, copies and checks.

Manifests are the truth; the catalog can be lost, and `rebuild` makes it anew.
"""

from backupd.catalog.catalog import Catalog, open_catalog, read_catalog
from backupd.catalog.marks import RunMark
from backupd.catalog.rebuild import rebuild
from backupd.catalog.records import CheckRecord, History, RunRecord
from backupd.catalog.unavailable import CatalogDamaged, CatalogOnBadDisk, CatalogUnavailable

__all__ = [
    "Catalog",
    "CatalogDamaged",
    "CatalogOnBadDisk",
    "CatalogUnavailable",
    "CheckRecord",
    "History",
    "RunMark",
    "RunRecord",
    "open_catalog",
    "read_catalog",
    "rebuild",
]
