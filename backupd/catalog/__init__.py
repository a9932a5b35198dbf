"""The catalog: a SQLite database that indexes runs, generations, copies and checks.

Manifests are the truth; the catalog can be lost, and `rebuild.rebuild` makes it anew. What needs SQLAlchemy, `catalog`
and `rebuild`, is imported by who needs it.
"""

from backupd.catalog.errors import CatalogDamaged, CatalogNotOurs, CatalogOnBadDisk, CatalogUnavailable
from backupd.catalog.opening import open_catalog, read_catalog, read_copies
from backupd.catalog.records import Book, CheckRecord, History, LastRun, OutboxMessage, PingRecord, RunRecord, Told

__all__ = [
    "Book",
    "CatalogDamaged",
    "CatalogNotOurs",
    "CatalogOnBadDisk",
    "CatalogUnavailable",
    "CheckRecord",
    "History",
    "LastRun",
    "OutboxMessage",
    "PingRecord",
    "RunRecord",
    "Told",
    "open_catalog",
    "read_catalog",
    "read_copies",
]
