"""The catalog: a SQLite database that indexes runs, generations, copies and checks.

Manifests are the truth: a lost catalog is rebuilt from them (`rebuild.rebuild`). Only `catalog` and `rebuild` need
SQLAlchemy, which is slow to import: `open_catalog` and `read_catalog` import it when they are called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from backupd.catalog.database import (
    catalog_errors,
    prepare,
    read_copies,
    require_ready,
)
from backupd.catalog.records import (
    CheckRecord,
    GenerationHistory,
    LastRun,
    NoticeRecord,
    NotificationState,
    OutboxMessage,
    PingRecord,
    RunRecord,
    RunSummary,
)
from backupd.errors import CatalogDamaged, CatalogDiskError, CatalogForeign, CatalogUnavailable

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog

__all__ = [
    "CatalogDamaged",
    "CatalogDiskError",
    "CatalogForeign",
    "CatalogUnavailable",
    "CheckRecord",
    "GenerationHistory",
    "LastRun",
    "NoticeRecord",
    "NotificationState",
    "OutboxMessage",
    "PingRecord",
    "RunRecord",
    "RunSummary",
    "catalog_errors",
    "open_catalog",
    "read_catalog",
    "read_copies",
]


def open_catalog(path: Path) -> "Catalog":
    """Open the catalog at `path`; creates a missing one and migrates an old one.

    Raises CatalogUnavailable when it is damaged, newer, of another program, a link, not writable or locked for long.
    """
    from backupd.catalog.catalog import Catalog

    with catalog_errors(path):
        prepare(path)
        return Catalog(path)


def read_catalog(path: Path) -> "Catalog":
    """Open the catalog at `path` for reading; creates and migrates nothing.

    Raises CatalogUnavailable as `open_catalog` does, and when the catalog is missing or needs a migration.
    """
    from backupd.catalog.catalog import Catalog

    with catalog_errors(path):
        require_ready(path)
        return Catalog(path)
