"""The files that a database names, by the `query` of a set of files, and whether its list has each of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from typing import Final

from backupd.formatting import counted, printable
from backupd.sqlite.inspection import query_names
from backupd.system.held_file import HeldFile
from backupd.tasks.requests import FilesRequest

_MOST_NAMED: Final = 3


class References:
    """The files that the database of a set names, and that were not seen in the list of the set yet."""

    def __init__(self, database: str, source: str, names: Iterator[bytes], roots: tuple[Path | str, ...]) -> None:
        self.database, self.source = database, source
        prefixes = tuple({os.fsencode(root).rstrip(b"/") + b"/" for root in roots})
        self._lacking = {_relative(name, prefixes) for name in names if name}

    @classmethod
    def read(cls, copy: HeldFile, request: FilesRequest, *roots: Path | str) -> "References":
        """Run the query of a set on the copy of its database; `roots` are paths of its directory.

        Raises DrillFailed, also after its time limit, SnapshotFailed, OSError.
        """
        assert request.query is not None  # noqa: S101 - for the type checker
        names = query_names(copy, request.query, request.timeout_s, request.source)
        return cls(request.database, request.source, names, (request.path, *roots))

    def saw(self, path: bytes) -> None:
        """Note that a file or link is in the list."""
        self._lacking.discard(path)

    @property
    def lacking(self) -> int:
        """How many files were not seen."""
        return len(self._lacking)

    def __str__(self) -> str:
        shown = ", ".join(printable(os.fsdecode(path)) for path in sorted(self._lacking)[:_MOST_NAMED])
        more = f" and {self.lacking - _MOST_NAMED} more" if self.lacking > _MOST_NAMED else ""
        return f"{self.database} names {counted(self.lacking, 'file')} that {self.source} does not have: {shown}{more}"


def _relative(name: bytes, prefixes: tuple[bytes, ...]) -> bytes:
    """Return a name as a list has it; one that is outside of the directory as it is."""
    path = normpath(name)
    return next((path.removeprefix(prefix) for prefix in prefixes if path.startswith(prefix)), path)
