"""What was said, in memory and in the catalog: a catalog that is out of order keeps nobody from telling so."""

from backupd.catalog import Book, CatalogUnavailable, open_catalog
from backupd.jobs.site import Site
from backupd.told.trouble import PASSING


class Notebook:
    """The book of `scope`; the catalog's is read once, and written whenever something changed.

    Where the catalog cannot be read for a while, the book begins empty: at worst something is said once more.
    """

    def __init__(self, scope: str, site: Site) -> None:
        self._scope, self._site = scope, site
        self._kept: Book | None = None
        self._began = site.clock()
        self.book: Book | None = None

    def open(self) -> bool:
        """Tell whether there is a book to go by."""
        if self.book is None:
            self.book = self._kept = self._read()
        return self.book is not None

    def forget(self) -> None:
        """Read the book anew before it is used again: somebody else may write it meanwhile."""
        self.book = self._kept = None

    def keep(self, book: Book) -> None:
        """Go by `book` from now on, and write it to the catalog, now or as soon as that works."""
        self.book = book
        if book == self._kept:
            return
        try:
            with open_catalog(self._site.catalog_path) as catalog:
                catalog.write_book(self._scope, book)
            self._kept = book
        except CatalogUnavailable:
            self._kept = None  # one of the things that will be told

    def _read(self) -> Book | None:
        try:
            with open_catalog(self._site.catalog_path) as catalog:
                return catalog.read_book(self._scope)
        except CatalogUnavailable:
            return Book() if self._site.clock() - self._began >= PASSING else None
