"""Where archives are unpacked to be proven: on the disk of the store, or beside one that may only be read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.errors import NoSpace
from backupd.jobs.site import Site


@contextmanager
def workplace(site: Site) -> Iterator[Path]:
    """Lend an empty directory, gone at the end: of the store, or of the system where the store is read-only."""
    if site.store.writable():
        with site.store.staging() as place:
            yield place
        return
    with tempfile.TemporaryDirectory(prefix="backupd-") as name:
        try:
            yield Path(name)
        except NoSpace as error:
            raise NoSpace(error.message, "free space there, or set TMPDIR to a directory with more room") from error
