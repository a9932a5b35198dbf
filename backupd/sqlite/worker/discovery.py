"""Look for databases below a directory that somebody else may write to: bounded, through no link or pipe.

In a separate process, which can be abandoned on a dead mount, and takes the rights of owners, which all threads of a
process share.
"""

import os
import stat
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.worker.protocol import LookReply, LookRequest
from backupd.system.directory import Directory
from backupd.system.owners import rights_of_owner
from backupd.system.path_patterns import Matches, PathPattern, excluded
from backupd.system.small_file import UnexpectedFile
from backupd.system.worker import ParentPipe, serve

_MAGIC: Final = b"SQLite format 3\0"  # https://sqlite.org/fileformat2.html §1.3.1
_MOST_KEYS: Final = 20


def look(request: LookRequest, _pipe: ParentPipe) -> LookReply:
    """Return what is in a directory and below. Raises OSError where the directory itself cannot be read."""
    path = request["path"]
    found = LookReply(
        real=os.path.realpath(path), databases=[], keys=[], files={}, sizes={}, too_many=False, complete=True
    )
    with rights_of_owner(os.stat(path), readable=os.access(path, os.R_OK)), Directory.open(path) as directory:
        search = _Search(request, found)
        search.look(_Place(directory, "", request["depth"], search.wanted.start))
    found["databases"].sort()
    return found


class _Place(NamedTuple):
    """A directory of the search."""

    directory: Directory
    path: str  # from the top, with a slash at its end
    depth: int  # of the search from here
    wanted: frozenset[int]  # how far the pattern has come


class _Search:
    """A search with a limit of names, which counts names of every kind."""

    def __init__(self, request: LookRequest, found: LookReply) -> None:
        self.wanted = PathPattern(request["pattern"] or "**")
        self._left_out = {kind: excluded(request["exclude"], directories=kind) for kind in (True, False)}
        self._without = frozenset(os.path.realpath(path) for path in request["without"])
        self._names, self._kept, self._keys = frozenset(request["names"]), request["kept"], request["keys"]
        self._left, self._found = request["most"], found

    def look(self, place: _Place) -> None:
        """Count what is in a directory and below."""
        below: list[tuple[str, os.stat_result]] = []
        for name in self._entries(place.directory):
            if not self._is_looked_at(place, name):
                continue
            try:
                state = place.directory.stat(name)
                if state is None:
                    self._found["complete"] = False  # it was removed
                elif _matches(self._left_out[stat.S_ISDIR(state.st_mode)], place.path + name):
                    continue
                elif stat.S_ISREG(state.st_mode):
                    self._count(place, name, state)
                elif stat.S_ISDIR(state.st_mode) and name not in self._names and not name.startswith("."):
                    below.append((name, state))
            except OSError:  # it was removed, or belongs to another user
                self._found["complete"] = False
        for name, state in below:
            if wanted := self.wanted.below(place.wanted, name):  # else nothing in it can match
                self._look_into(place, name, state, wanted)

    def _look_into(self, place: _Place, name: str, state: os.stat_result, wanted: frozenset[int]) -> None:
        above = place.directory
        readable = os.access(name, os.R_OK, dir_fd=above.descriptor, follow_symlinks=False)
        try:
            if not place.depth:
                raise NotADirectoryError(name)
            with rights_of_owner(state, readable=readable), above.child(name) as child:
                self.look(_Place(child, f"{place.path}{name}/", place.depth - 1, wanted))
        except OSError:
            self._found["complete"] = False

    def _entries(self, directory: Directory) -> list[str]:
        try:
            names = sorted(directory.names(self._left))
        except UnexpectedFile:  # too many
            self._found["files"][""] = self._found["files"].get("", 0) + self._left
            self._found["too_many"], self._found["complete"] = True, False
            self._left = 0
            return []
        self._left -= len(names)
        return names

    def _is_looked_at(self, place: _Place, name: str) -> bool:
        """Tell whether `name` is not left out: hidden (but for keys), a side file, kept, or `without`."""
        if name.startswith(".") and not self._is_key(name):
            return False
        if name.endswith(SIDE_SUFFIXES) or self._kept in name:
            return False
        return os.path.join(self._found["real"], place.path + name) not in self._without

    def _is_key(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._keys)

    def _count(self, place: _Place, name: str, state: os.stat_result) -> None:
        path = place.path + name
        if self._is_key(name) and place.path.count("/") <= 1:
            if len(self._found["keys"]) < _MOST_KEYS:
                self._found["keys"].append(path)
        elif not self.wanted.matched(self.wanted.below(place.wanted, name)):
            return
        elif _is_database(place.directory, name, state):
            self._found["databases"].append(path)
        else:
            top = path.partition("/")[0] if place.path else ""
            self._found["files"][top] = self._found["files"].get(top, 0) + 1
            self._found["sizes"][top] = self._found["sizes"].get(top, 0) + state.st_size


def _matches(pattern: Matches | None, path: str) -> bool:
    return pattern is not None and bool(pattern(os.fsencode(path)))


def _is_database(directory: Directory, name: str, state: os.stat_result) -> bool:
    """Return whether a file begins as SQLite's do; it is read with the rights of its owner, where root has fewer."""
    try:
        descriptor = directory.open_file(name)
    except PermissionError:
        with rights_of_owner(state, readable=False):
            descriptor = directory.open_file(name)
    with open(descriptor, "rb", buffering=0) as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


if __name__ == "__main__":
    serve(look)
