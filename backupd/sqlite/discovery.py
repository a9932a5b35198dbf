"""Find the SQLite databases below a directory that somebody else may write to: bounded in time, depth and names."""

import glob
import os
import re
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
from backupd.system.path_patterns import PathPattern, is_excluded

MAX_NAMES: Final = 10_000
MAX_DEPTH: Final = 5
MAX_DATABASES: Final = 200
BACKUPS: Final = frozenset(("backup", "backups"))
_LOOK_S: Final = 30.0
_NAMED: Final = 20
NARROWER: Final = "name what is not needed in exclude, or write a narrower pattern as path (docs/sources.md)"


@dataclass(frozen=True, slots=True)
class DirectoryContents:
    """What was found in one directory, whose path without links is `real`, and below.

    Databases and keys are relative paths; files, which are neither, are counted by the directory in it that they are
    below, "" for those that are in it. With `too_many` names some were not looked at; `complete` is whether everything
    was.
    """

    real: str
    databases: list[str]
    keys: list[str]
    files: dict[str, int]
    sizes: dict[str, int]
    too_many: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class Search:
    """Look for the databases of the section `name`: below `directory`, at relative paths that match the `pattern`.

    Not where the relative path, or that of a directory above, matches one of `exclude`, by the rules of .gitignore, nor
    at the paths `without`.
    """

    name: str
    directory: Path
    pattern: str = ""  # of every path
    exclude: tuple[str, ...] = ()
    without: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """The path as configured: a directory, or a pattern."""
        return self.directory / self.pattern

    def covers(self, relative: str) -> bool:
        """Return whether a database at this relative path would be one of the section."""
        path = self.directory / relative
        inner = [one for one in self.without if self.directory in one.parents]
        left_out = any(path == one or one in path.parents for one in inner)
        is_wanted = not self.pattern or PathPattern(self.pattern).match(relative)
        return is_wanted and not left_out and not is_excluded(relative, self.exclude)

    def contents(self) -> DirectoryContents | None:
        """Return what is found now, None where the directory cannot be searched."""
        try:
            return self._look()
        except BackupdError:
            return None

    def _look(self) -> DirectoryContents:
        return contents_of(self.directory, self.without, names=BACKUPS, pattern=self.pattern, exclude=self.exclude)

    def failure(self) -> BackupdError:
        """Return the error of a source that is the search itself, since it has found no database, or too many."""
        try:
            found = self._look()
        except BackupdError as error:
            what = f"{self.directory} is a directory that cannot be searched: {error.message}"
            return SourceUnusable(what, f"{error.hint}; or set path to that of the database file itself")
        if len(found.databases) > MAX_DATABASES:
            what = f"{len(found.databases)} databases at {self.path}, more than {MAX_DATABASES}"
            return SourceUnusable(what, NARROWER)
        if found.too_many:
            return SourceUnusable(self.too_many_names, NARROWER)
        if named := names_of(found, _NAMED):
            what = f"{self.path} is a directory with {counted(len(found.databases), 'database')}: {named}"
            return SourceUnusable(what, "run the command again; the daemon looks again each minute")
        hint = (
            "start the app, which creates it; check that the right volume is mounted; an encrypted one is not found: "
            "set BACKUPD_DATABASE (or path under [sources.NAME]) to the path of the database file itself, such as "
            f"{self.directory / 'FILE'}"
        )
        if self.pattern:
            return SourceMissing(f"no SQLite database matches {self.path}", hint)
        what = f"{self.directory} is a directory without a SQLite database, {MAX_DEPTH} directories deep"
        return SourceMissing(what, hint)

    @property
    def too_many_names(self) -> str:
        """The problem that a part of the directory is not searched."""
        return f"{self.directory} has more than {MAX_NAMES} files and directories: backupd does not look at all of them"


def how_to_forget(search: Search | None, path: Path) -> str:
    """Return what to do about a database at `path` that was removed for good; empty where no `search` found it."""
    if search is None:
        return ""
    relative = printable(f"/{glob.escape(os.path.relpath(path, search.directory))}")
    variable = f"BACKUPD_SOURCES__{re.sub('[-.]', '_', search.name.upper())}__EXCLUDE"
    return f"; if it was removed for good: name {relative} in exclude of [sources.{search.name}] ({variable})"


def contents_of(
    path: Path,
    without: Collection[Path],
    *,
    names: Collection[str] = (),
    pattern: str = "",
    exclude: Collection[str] = (),
    keys: Collection[str] = (),
) -> DirectoryContents:
    """Return what is in the directory `path` and below, but for the paths `without` and directories called as `names`.

    Hidden files, side files and databases that a restore kept are left out. With a `pattern` only what matches it, and
    nothing that matches one of `exclude`; `keys` are patterns of names. Looks at 10,000 names and 5 directories deep.
    Raises BackupdError where the directory itself cannot be read, and after 30 s.
    """
    request = LookRequest(
        path=str(path),
        pattern=pattern,
        exclude=[*exclude],
        without=[*map(str, without)],
        names=[*names],
        keys=[*keys],
        kept=KEPT,
        most=MAX_NAMES,
        depth=MAX_DEPTH,
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


def names_of(found: DirectoryContents, limit: int) -> str:
    """Return the first `limit` databases that were `found` as text, and how many more there are."""
    names = ", ".join(map(printable, found.databases[:limit]))
    return f"{names} and {len(found.databases) - limit} more" if len(found.databases) > limit else names
