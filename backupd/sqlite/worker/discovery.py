"""Look for databases below a directory that somebody else may write to: bounded, through no link or pipe.

In a separate process, which can be abandoned on a dead mount, and takes the rights of owners, which all threads of a
process share.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.worker.protocol import LookReply, LookRequest
from backupd.system.directory import Directory
from backupd.system.owners import rights_of_owner
from backupd.system.small_file import UnexpectedFile
from backupd.system.worker import ParentPipe, serve

_MAGIC: Final = b"SQLite format 3\0"  # https://sqlite.org/fileformat2.html §1.3.1


def look(request: LookRequest, _pipe: ParentPipe) -> LookReply:
    """Return what is in a directory and below. Raises OSError where the directory itself cannot be read."""
    path = request["path"]
    found = LookReply(real=os.path.realpath(path), databases=[], files=0, size_bytes=0, too_many=False, complete=True)
    with rights_of_owner(os.stat(path), readable=os.access(path, os.R_OK)), Directory.open(path) as directory:
        _Search(request, found).look(directory, request["depth"])
    found["databases"].sort()
    return found


class _Search:
    """A search with a limit of names, which counts names of every kind."""

    def __init__(self, request: LookRequest, found: LookReply) -> None:
        self._without, self._names = frozenset(request["without"]), frozenset(request["names"])
        self._kept, self._left, self._found = request["kept"], request["most"], found

    def look(self, directory: Directory, depth: int) -> None:
        """Count what is in `directory`, and `depth` directories below."""
        below: list[str] = []
        for name in self._entries(directory):
            if name.startswith(".") or name.endswith(SIDE_SUFFIXES) or self._kept in name:
                continue
            if directory.path_of(name) in self._without:
                continue
            try:
                with _access(directory, name) as state:
                    if stat.S_ISREG(state.st_mode):
                        self._count(directory, name, state)
                    elif stat.S_ISDIR(state.st_mode) and name not in self._names:
                        below.append(name)
            except OSError:  # it was removed, or belongs to another user
                self._found["complete"] = False
        for name in below:
            try:
                if not depth:
                    raise NotADirectoryError(name)
                with _access(directory, name), directory.child(name) as child:
                    self.look(child, depth - 1)
            except OSError:
                self._found["complete"] = False

    def _entries(self, directory: Directory) -> list[str]:
        try:
            names = sorted(directory.names(self._left))
        except UnexpectedFile:  # too many
            self._found["files"] += self._left
            self._found["too_many"], self._found["complete"] = True, False
            self._left = 0
            return []
        self._left -= len(names)
        return names

    def _count(self, directory: Directory, name: str, state: os.stat_result) -> None:
        with open(directory.open_file(name), "rb", buffering=0) as stream:
            is_database = stream.read(len(_MAGIC)) == _MAGIC
        if is_database:
            self._found["databases"].append(directory.path_of(name))
        else:
            self._found["files"] += 1
            self._found["size_bytes"] += state.st_size


@contextmanager
def _access(directory: Directory, name: str) -> Iterator[os.stat_result]:
    """Look at `name` for the block. Raises FileNotFoundError, PermissionError."""
    state = directory.stat(name)
    if state is None:
        raise FileNotFoundError(name)
    with rights_of_owner(state, readable=os.access(name, os.R_OK, dir_fd=directory.descriptor, follow_symlinks=False)):
        yield state


if __name__ == "__main__":
    serve(look)
