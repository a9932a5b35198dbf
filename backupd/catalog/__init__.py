"""The catalog: a SQLite database that indexes runs, generations, copies and checks.

Manifests are the truth; the catalog can be lost, and `rebuild` makes it anew.
"""

from backupd.catalog.catalog import Catalog, open_catalog, read_catalog
from backupd.catalog.rebuild import rebuild
from backupd.catalog.records import Book, CheckRecord, History, LastRun, Queued, RunRecord, Told
from backupd.catalog.unavailable import CatalogDamaged, CatalogOnBadDisk, CatalogUnavailable

__all__ = [
    "Book",
    "Catalog",
    "CatalogDamaged",
    "CatalogOnBadDisk",
    "CatalogUnavailable",
    "CheckRecord",
    "History",
    "LastRun",
    "Queued",
    "RunRecord",
    "Told",
    "open_catalog",
    "read_catalog",
    "rebuild",
]
