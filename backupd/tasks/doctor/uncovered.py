"""Find what lies beside the databases and is in no backup: other databases, and files such as uploads."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from backupd.formatting import counted, human_bytes
from backupd.sqlite.discovery import Contents, contents_of, is_directory
from backupd.tasks.doctor import Finding

_NAMED = 3


def find_uncovered(databases: Collection[Path], backups: Path) -> Iterator[Finding]:
    """Yield a finding for the other databases and one for the other files in each directory of `databases`.

    Looks at 10,000 files and 5 directories deep, through no link; what is in `backups` is left out. It is advice: each
    is `ok`.
    """
    ours = {_real(path) for path in (*databases, backups)}
    directories = {_real(path) if is_directory(path) else _real(path).parent for path in databases}
    for path in sorted(directories):
        if directories.isdisjoint(path.parents):  # the directory above shows what is in this one
            try:
                found = contents_of(path, ours)
            except OSError:  # an unreadable directory is a finding of the source
                continue
            yield from _findings(path, found)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises RuntimeError for links that lead to each other


def _findings(path: Path, found: Contents) -> Iterator[Finding]:
    least = "" if found.complete else "at least "
    if found.databases:
        names = ", ".join(os.path.relpath(database, path) for database in found.databases[:_NAMED])
        more = f" and {len(found.databases) - _NAMED} more" if len(found.databases) > _NAMED else ""
        detail = f"{least}{counted(len(found.databases), 'database')} in {path} without a backup: {names}{more}"
        yield Finding("not backed up", ok=True, detail=detail, hint="add each that matters: [sources.NAME] path = …")
    if found.files:
        size = f", {human_bytes(found.size_bytes)}" if found.complete else ""
        detail = f"{least}{counted(found.files, 'other file')} in {path}{size}"
        hint = "backupd copies databases only: back up uploads and keys with another tool (docs/comparison.md)"
        yield Finding("not backed up", ok=True, detail=detail, hint=hint)
