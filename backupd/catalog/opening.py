"""How a catalog is opened; whoever only looks for copies, as a listing does, is spared SQLAlchemy and its start."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.catalog.database import connect, directory_lock, prepare, require_ready
from backupd.catalog.errors import unavailable

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog


def open_catalog(path: Path) -> "Catalog":
    """Open the catalog at `path`, made where there is none and migrated where it is old.

    Raises CatalogUnavailable when it is damaged, newer, another program's, a link, not writable or locked for long.
    """
    from backupd.catalog.catalog import Catalog

    with unavailable(path):
        prepare(path)
        return Catalog(path)


def read_catalog(path: Path) -> "Catalog":
    """Open the catalog at `path` to read it: nothing is made or migrated.

    Raises CatalogUnavailable as `open_catalog` does, and when there is none, or one that has to be migrated first.
    """
    from backupd.catalog.catalog import Catalog

    with unavailable(path):
        require_ready(path)
        return Catalog(path)


def read_copies(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the stores by id of generation; those of damaged copies too, not those of missing ones.

    Raises CatalogUnavailable as `read_catalog` does.
    """
    query = "SELECT generation, store FROM copy WHERE state != 'missing' ORDER BY generation, store"
    found: dict[str, tuple[str, ...]] = {}
    with unavailable(path):
        require_ready(path)
        with directory_lock(path.parent, exclusive=False), closing(connect(path, "query_only=ON")) as connection:
            for generation, store in connection.execute(query):
                found[generation] = (*found.get(generation, ()), store)
    return found
