"""Sets of files: trees, their lists, contents in memory, and what a restore has to bring back."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backupd.archive.file_list import FileEntry, encode_entry
from backupd.errors import ContentMissing
from backupd.files.comparison import OWN_PREFIX, Changes, Comparison, Stays
from backupd.files.restoration import KEPT, Goal, Restoration, State, restorations
from backupd.files.staging import Staged, Staging, damage_error
from backupd.files.steps import Move
from backupd.model import NoProgress
from backupd.system.directory import Directory
from backupd.tasks.restore.files_left import discard_unused

GENERATION = "uploads-20261130-0400"
Facts = tuple[object, ...]


@dataclass
class MemoryContents:
    """Contents by digest."""

    held: dict[str, bytes] = field(default_factory=dict)

    def open(self, digest: str) -> BinaryIO:
        if digest not in self.held:
            raise ContentMissing(f"the content {digest} is not in the store", "use another generation")
        return io.BytesIO(self.held[digest])


def walk(root: Path) -> Iterator[Path]:
    """Yield what is below `root`, in the order of a list, without what backupd keeps there."""
    for path in sorted(root.iterdir(), key=os.fsencode):
        if not path.name.startswith(OWN_PREFIX):
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from walk(path)


def name_in(root: Path, path: Path) -> bytes:
    """Return the path of something as a list has it."""
    return os.fsencode(path.relative_to(root))


def entries_of(root: Path, contents: MemoryContents) -> list[FileEntry]:
    """Return the list of a tree, and put what its files hold into `contents`."""
    entries = []
    for path in walk(root):
        state = path.lstat()
        name, mode = name_in(root, path), stat.S_IMODE(state.st_mode)
        owner_and_time = (state.st_uid, state.st_gid, state.st_mtime_ns)
        if stat.S_ISDIR(state.st_mode):
            entries.append(FileEntry(name, "d", mode, *owner_and_time))
        elif stat.S_ISLNK(state.st_mode):
            target = os.readlink(os.fsencode(path))  # noqa: PTH115 - a Path would shorten it
            entries.append(FileEntry(name, "l", mode, *owner_and_time, target=target))
        elif stat.S_ISREG(state.st_mode):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            contents.held[digest] = data
            entries.append(FileEntry(name, "f", mode, *owner_and_time, len(data), digest))
    return entries


def lines_of(entries: list[FileEntry]) -> bytes:
    """Return the list as it is stored, before it is packed."""
    return b"".join(map(encode_entry, entries))


def facts(root: Path, *, inodes: bool = False) -> dict[bytes, Facts]:
    """Return what is in a tree: bytes, owner, mode and time of everything; with `inodes` also which file it is."""
    found: dict[bytes, Facts] = {}
    for path in walk(root):
        state = path.lstat()
        inside: object = None
        if stat.S_ISREG(state.st_mode):
            inside = path.read_bytes()
        elif stat.S_ISLNK(state.st_mode):
            inside = os.readlink(path)  # noqa: PTH115
        inode = state.st_ino if inodes else 0
        found[name_in(root, path)] = (
            state.st_mode,
            state.st_uid,
            state.st_gid,
            state.st_mtime_ns,
            inside,
            inode,
        )
    return found


@dataclass(frozen=True)
class Ready:
    """A restore that is ready to be moved into place."""

    restoration: Restoration
    changes: Changes
    staged: Staged


@contextmanager
def ready(
    root: Path,
    entries: list[FileEntry],
    contents: MemoryContents,
    now: datetime,
    *,
    exact: bool = False,
    stays: Stays = lambda _path, _is_directory: False,
) -> Iterator[Ready]:
    """Compare and unpack, as the task does; what was not moved is removed."""
    with Directory.open(root) as directory, Restoration.create(directory, now) as restoration:
        try:
            comparison = Comparison(directory, stays if exact else None, 2, NoProgress())
            restoration.write_plan(comparison.steps(entries))
            with restoration.new_tree() as new:
                puts = (step.path for step in restoration.steps() if isinstance(step, Move) and step.kind == "put")
                staged = Staging(new, contents.open, 2, lambda _done: None).unpack(entries, puts)
            if staged.damage:
                raise damage_error(staged, GENERATION)
            restoration.make_ready(State("restored", "ready", GENERATION, now.timestamp(), first=True))
            yield Ready(restoration, comparison.changes, staged)
        finally:
            discard_unused(restoration)


def put_back(
    root: Path,
    entries: list[FileEntry],
    contents: MemoryContents,
    now: datetime,
    *,
    exact: bool = False,
    stays: Stays = lambda _path, _is_directory: False,
) -> Changes:
    """Restore a set of files, and return what was changed."""
    with ready(root, entries, contents, now, exact=exact, stays=stays) as prepared:
        prepared.restoration.move()
        prepared.restoration.keep()
        return prepared.changes


def go_back(root: Path, goal: Goal = "reverted") -> None:
    """Undo the only restore, or redo it."""
    with Directory.open(root) as directory:
        (name,) = restorations(directory, KEPT)
        with Restoration.open(directory, name) as restoration:
            restoration.run_again()
            state = restoration.state()
            assert state is not None
            restoration.make_ready(replace(state, goal=goal, first=False))
            restoration.move()
            restoration.keep()
