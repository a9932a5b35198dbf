"""Find the SQLite databases below a directory that somebody else may write to: bounded, through no link or pipe."""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backupd.errors import BackupdError, SourceMissing, SourceUnusable
from backupd.formatting import counted
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.history import KEPT
from backupd.system.directory import Directory
from backupd.system.small_file import UnexpectedFile

MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 5
BACKUPS: Final = frozenset(("backup", "backups"))
_MAGIC: Final = b"SQLite format 3\0"  # https://sqlite.org/fileformat2.html §1.3.1
_NAMED: Final = 20
_NAME_IT: Final = "set BACKUPD_DATABASE (or path under [sources.NAME]) to the path of the database file itself, such as"


@dataclass(slots=True)
class Contents:
    """What was found in one directory and below."""

    databases: list[str] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0
    too_many: bool = False  # not all files were looked at
    complete: bool = True  # everything was looked at


def contents_of(path: Path, without: Collection[Path], *, names: Collection[str] = ()) -> Contents:
    """Return what is in the directory `path` and below, but for the paths `without` and directories called as `names`.

    Hidden files, side files and databases that a restore kept are left out. Looks at 10,000 files and 5 directories
    deep. Raises OSError where the directory itself cannot be read.
    """
    found = Contents()
    with rights_of_owner(path.stat(), readable=os.access(path, os.R_OK)), Directory.open(path) as directory:
        _look(directory, without, names, found, MAX_DEPTH)
    found.databases.sort()
    return found


def is_directory(path: Path) -> bool:
    """Return whether a directory can be seen at `path`."""
    with suppress(OSError, ValueError):
        return stat.S_ISDIR(path.stat().st_mode)
    return False


def find_database(directory: Path) -> Path | None:
    """Return the database below `directory`, `None` where there is not exactly one, or that is not certain."""
    try:
        found = contents_of(directory, (), names=BACKUPS)
    except OSError:
        return None
    return Path(found.databases[0]) if len(found.databases) == 1 and not found.too_many else None


def not_one_database(directory: Path) -> BackupdError:
    """Return the error of a source that is a directory: none, several, or one that has to be named."""
    try:
        found = contents_of(directory, (), names=BACKUPS)
    except OSError as error:
        return SourceUnusable(f"{directory} is a directory that cannot be read: {error.strerror}", _example(directory))
    databases = found.databases
    if found.too_many:
        what = f"{directory} has more than {MAX_FILES} files: backupd does not search it for a database"
        return SourceUnusable(what, _example(directory, *databases))
    if not databases:
        what = f"{directory} is a directory without a SQLite database, {MAX_DEPTH} directories deep"
        hint = (
            "start the app, which creates it; check that the right volume is mounted; an encrypted one is not found: "
        )
        return SourceMissing(what, hint + _example(directory))
    if len(databases) == 1:
        return SourceUnusable(f"{directory} is a directory", _example(directory, *databases))
    names = ", ".join(os.path.relpath(database, directory) for database in databases[:_NAMED])
    more = f" and {len(databases) - _NAMED} more" if len(databases) > _NAMED else ""
    what = f"{counted(len(databases), 'database')} in the directory {directory}: {names}{more}"
    return SourceUnusable(what, _example(directory, *databases))


def _example(directory: Path, *databases: str) -> str:
    return f"{_NAME_IT} {databases[0] if databases else directory / 'FILE'}"


def _look(directory: Directory, without: Collection[Path], names: Collection[str], found: Contents, depth: int) -> None:
    below: list[str] = []
    for name in _entries(directory, found):
        path = directory.path_of(name)
        if Path(path) in without or name.endswith(SIDE_SUFFIXES) or name.startswith(".") or KEPT in name:
            continue
        if found.files + len(found.databases) >= MAX_FILES:
            found.too_many, found.complete = True, False
            return
        try:
            with _access(directory, name) as state:
                if stat.S_ISREG(state.st_mode):
                    _count(directory, name, state, found)
                elif stat.S_ISDIR(state.st_mode) and name not in names:
                    below.append(name)
        except OSError:  # it was removed, or belongs to another user
            found.complete = False
    for name in below:
        try:
            if not depth:
                raise NotADirectoryError(name)
            with _access(directory, name), directory.child(name) as child:
                _look(child, without, names, found, depth - 1)
        except OSError:
            found.complete = False


def _entries(directory: Directory, found: Contents) -> list[str]:
    try:
        return sorted(directory.names(MAX_FILES))
    except UnexpectedFile:  # too many
        found.files += MAX_FILES
        found.too_many, found.complete = True, False
        return []


def _count(directory: Directory, name: str, state: os.stat_result, found: Contents) -> None:
    with open(directory.open_file(name), "rb", buffering=0) as stream:
        is_database = stream.read(len(_MAGIC)) == _MAGIC
    if is_database:
        found.databases.append(directory.path_of(name))
    else:
        found.files, found.size_bytes = found.files + 1, found.size_bytes + state.st_size


@contextmanager
def _access(directory: Directory, name: str) -> Iterator[os.stat_result]:
    """Open `name` for the block. Raises FileNotFoundError, PermissionError."""
    state = directory.stat(name)
    if state is None:
        raise FileNotFoundError(name)
    with rights_of_owner(state, readable=os.access(name, os.R_OK, dir_fd=directory.descriptor, follow_symlinks=False)):
        yield state


@contextmanager
def rights_of_owner(state: os.stat_result, *, readable: bool) -> Iterator[None]:
    """Take the rights of the owner for the block where root has fewer, as in a container without DAC_OVERRIDE.

    Raises PermissionError without SETUID.
    """
    changes = os.geteuid() == 0 and state.st_uid != 0 and not readable
    if changes:
        os.seteuid(state.st_uid)
    try:
        yield
    finally:
        if changes:
            os.seteuid(0)
