"""Find what lies beside the databases and is in no backup: other databases, and files such as uploads."""

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backupd.formatting import counted, human_bytes
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.history import KEPT
from backupd.system.directory import Directory
from backupd.system.small_file import UnexpectedFile
from backupd.tasks.doctor import Finding

_MAGIC = b"SQLite format 3\0"  # https://sqlite.org/fileformat2.html §1.3.1
_MAX_FILES = 10_000
_MAX_DEPTH = 5
_NAMED = 3


@dataclass(slots=True)
class _Found:
    """What was found in one directory and below."""

    databases: list[str] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0
    complete: bool = True  # everything was looked at


def find_uncovered(databases: Collection[Path], backups: Path) -> Iterator[Finding]:
    """Yield a finding for the other databases and one for the other files in each directory of `databases`.

    Looks at 10,000 files and 5 directories deep, through no link; what is in `backups` is left out. It is advice: each
    is `ok`.
    """
    ours = {path.resolve() for path in databases} | {backups.resolve()}
    directories = {path.resolve().parent for path in databases}
    for path in sorted(directories):
        if directories.isdisjoint(path.parents):  # the directory above shows what is in this one
            found = _Found()
            try:
                with Directory.open(path) as directory:
                    _look(directory, ours, found, _MAX_DEPTH)
            except OSError:  # an unreadable directory is a finding of the source
                continue
            yield from _findings(path, found)


def _look(directory: Directory, ours: Collection[Path], found: _Found, depth: int) -> None:
    try:
        names = sorted(directory.names(_MAX_FILES))
    except UnexpectedFile:  # too many
        found.files, found.complete = found.files + _MAX_FILES, False
        return
    for name in names:
        path = directory.path_of(name)
        if Path(path) in ours or name.endswith(SIDE_SUFFIXES) or name.startswith(".") or KEPT in name:
            continue
        if found.files + len(found.databases) >= _MAX_FILES:
            found.complete = False
            return
        try:
            _count(directory, name, ours, found, depth)
        except OSError:  # it was removed, or belongs to another user
            found.complete = False


def _count(directory: Directory, name: str, ours: Collection[Path], found: _Found, depth: int) -> None:
    state = directory.stat(name)
    if state is None:
        return
    if stat.S_ISDIR(state.st_mode):
        if not depth:
            found.complete = False
            return
        with directory.child(name) as below:
            _look(below, ours, found, depth - 1)
    elif stat.S_ISREG(state.st_mode):
        with open(directory.open_file(name), "rb", buffering=0) as stream:
            is_database = stream.read(len(_MAGIC)) == _MAGIC
        if is_database:
            found.databases.append(directory.path_of(name))
        else:
            found.files, found.size_bytes = found.files + 1, found.size_bytes + state.st_size


def _findings(path: Path, found: _Found) -> Iterator[Finding]:
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
