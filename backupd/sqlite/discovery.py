"""Find the SQLite databases below a directory that somebody else may write to: bounded in time, depth and names."""

import os
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backupd.errors import BackupdError, SourceMissing, SourceUnusable
from backupd.formatting import counted, printable
from backupd.sqlite.history import KEPT
from backupd.sqlite.worker.protocol import LookReply, LookRequest
from backupd.sqlite.worker_process import WorkerProcess
from backupd.system.mounts import responding_stat

MAX_NAMES: Final = 10_000
MAX_DEPTH: Final = 5
BACKUPS: Final = frozenset(("backup", "backups"))
_LOOK_S: Final = 30.0
_NAMED: Final = 20
_NAME_IT: Final = "set BACKUPD_DATABASE (or path under [sources.NAME]) to the path of the database file itself, such as"


@dataclass(frozen=True, slots=True)
class DirectoryContents:
    """What was found in one directory, whose path without links is `real`, and below: databases, and other files.

    With `too_many` names some were not looked at; `complete` is whether everything was.
    """

    real: str
    databases: list[str]
    files: int
    size_bytes: int
    too_many: bool
    complete: bool

    @property
    def only(self) -> Path | None:
        """The only database, None where there is not exactly one, or that is not certain."""
        return Path(self.databases[0]) if len(self.databases) == 1 and not self.too_many else None


def contents_of(path: Path, without: Collection[Path], *, names: Collection[str] = ()) -> DirectoryContents:
    """Return what is in the directory `path` and below, but for the paths `without` and directories called as `names`.

    Hidden files, side files and databases that a restore kept are left out. Looks at 10,000 names and 5 directories
    deep. Raises BackupdError where the directory itself cannot be read, and after 30 s.
    """
    request = LookRequest(
        path=str(path), without=[*map(str, without)], names=[*names], kept=KEPT, most=MAX_NAMES, depth=MAX_DEPTH
    )
    with WorkerProcess[LookReply]("discovery", request, "/", time.monotonic() + _LOOK_S) as worker:
        return DirectoryContents(**worker.result())


def is_directory(path: Path) -> bool | None:
    """Return whether there is a directory at `path`; None on a mount that does not respond."""
    try:
        return stat.S_ISDIR(responding_stat(path).st_mode)
    except TimeoutError:
        return None
    except (OSError, ValueError):
        return False


def app_files(directory: Path) -> DirectoryContents | None:
    """Return what is below `directory` but for backups, None where that cannot be searched."""
    try:
        return contents_of(directory, (), names=BACKUPS)
    except BackupdError:
        return None


def find_database(directory: Path) -> Path | None:
    """Return the database below `directory`, `None` where there is not exactly one, or that is not certain."""
    found = app_files(directory)
    return found.only if found else None


def not_one_database(directory: Path) -> BackupdError:
    """Return the error of a source that is a directory: none, several, or one that has to be named."""
    try:
        found = contents_of(directory, (), names=BACKUPS)
    except BackupdError as error:
        what = f"{directory} is a directory that cannot be searched: {error.message}"
        return SourceUnusable(what, f"{error.hint}; or {_example(directory)}")
    databases = found.databases
    if found.too_many:
        what = f"{directory} has more than {MAX_NAMES} files and directories: backupd does not search it for a database"
        return SourceUnusable(what, _example(directory, *databases))
    if not databases:
        what = f"{directory} is a directory without a SQLite database, {MAX_DEPTH} directories deep"
        hint = (
            "start the app, which creates it; check that the right volume is mounted; an encrypted one is not found: "
        )
        return SourceMissing(what, hint + _example(directory))
    if len(databases) == 1:
        return SourceUnusable(f"{directory} is a directory", _example(directory, *databases))
    what = f"{counted(len(databases), 'database')} in the directory {directory}: {names_of(found, directory, _NAMED)}"
    return SourceUnusable(what, _example(directory, *databases))


def names_of(found: DirectoryContents, directory: Path, limit: int) -> str:
    """Return the first `limit` databases that were `found` below `directory` as text, and how many more there are."""
    names = ", ".join(printable(os.path.relpath(database, directory)) for database in found.databases[:limit])
    return f"{names} and {len(found.databases) - limit} more" if len(found.databases) > limit else names


def _example(directory: Path, *databases: str) -> str:
    return f"{_NAME_IT} {printable(databases[0]) if databases else directory / 'FILE'}"
