"""Compare a directory with the list of a set of files: what has to be put there, and with it what has to go.

A file stays only where its bytes are those in the copy. To read them costs less than to unpack them, and size and time
say nothing after a failing disk, a restored volume, or a program that sets the old time again.
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from backupd.archive.archive import digest_of
from backupd.archive.file_list import FileEntry
from backupd.errors import TargetRefused
from backupd.files.steps import FILE_MODE, Attributes, Move, SetAttributes, Step
from backupd.files.tree import names_in
from backupd.model import Progress
from backupd.system.directory import Directory, mount_of_descriptor

OWN_PREFIX: Final = ".backupd"  # of names that backupd alone gives
MAX_DEPTH: Final = 200  # directories that are open at a time, of the 1,024 files that a process may have open
_IN_FLIGHT: Final = 64
_MAX_NAMED: Final = 3

Stays = Callable[[bytes, bool], bool]  # whether that path, of a directory or not, is none of the set: it is left alone
_Steps = Iterable[Step]
_Kind = Literal["missing", "differing", "extra"]


@dataclass
class Changes:
    """What a restore changes: files, links, and directories with all that is in them."""

    missing: int = 0
    differing: int = 0
    extra: int = 0
    unchanged: int = 0  # files and links
    attributes: int = 0  # directories that get another owner, mode or time
    new_names: int = 0
    new_files: int = 0
    new_bytes: int = 0
    examples: dict[str, list[bytes]] = field(default_factory=dict)  # the first paths of each kind, for people

    @property
    def is_none(self) -> bool:
        """Whether everything is as in the copy."""
        return not (self.missing or self.differing or self.extra or self.attributes or self.new_names)

    def count(self, kind: _Kind, path: bytes) -> None:
        """Count one of a kind."""
        setattr(self, kind, getattr(self, kind) + 1)
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _MAX_NAMED:
            examples.append(path)

    def count_new(self, entry: FileEntry) -> None:
        """Count what has to be unpacked or made."""
        self.new_names += 1
        self.new_files += entry.type == "f"
        self.new_bytes += entry.size_bytes


@dataclass
class _Frame:
    """A directory that is there, and the names in it that the list has had so far."""

    path: bytes
    directory: Directory
    above: "_Frame | None"
    entry: FileEntry | None = None
    state: os.stat_result | None = None
    listed: set[str] = field(default_factory=set)
    is_changed: bool = False


class Comparison:
    """Yields the steps that make the directory `root` what the list says, once; then `changes` are complete.

    Without `stays`, what the list does not have is left alone. With it all of that goes, except what `stays`, what
    backupd keeps itself, and what is neither directory, file nor link.
    """

    def __init__(self, root: Directory, stays: Stays | None, workers: int, progress: Progress) -> None:
        self.changes = Changes()
        self._stays, self._workers, self._progress = stays, workers, progress
        self._mount = mount_of_descriptor(root.descriptor)
        self._as_root = os.geteuid() == 0  # nobody else can change owners
        self._frames = [_Frame(b"", root, None)]
        self._open: set[Directory] = set()
        self._waiting: deque[Callable[[], _Steps]] = deque()
        self._put_path: bytes | None = None  # of a directory that has to be put, with all that follows in it
        self._done_bytes = 0

    def steps(self, entries: Iterable[FileEntry]) -> Iterator[Step]:
        """Yield the steps, those in a directory before that of its attributes.

        Raises TargetRefused where another file system is in the way, OSError, and what `entries` raise.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="compare")
        try:
            for entry in entries:
                self._compare(entry, pool)
                while len(self._waiting) > _IN_FLIGHT:
                    yield from self._waiting.popleft()()
            while self._frames:
                self._leave()
            while self._waiting:
                yield from self._waiting.popleft()()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for directory in self._open:
                directory.close()

    def _compare(self, entry: FileEntry, pool: ThreadPoolExecutor) -> None:
        if self._put_path is not None and entry.path.startswith(self._put_path):
            self.changes.count_new(entry)
            return
        above, _, last = entry.path.rpartition(b"/")
        while self._frames[-1].path != above:
            self._leave()
        self._put_path, frame, name = None, self._frames[-1], os.fsdecode(last)
        if self._stays is not None:
            frame.listed.add(name)
        state = frame.directory.stat(name)
        if state is None or not self._resembles(entry, state):
            self._waiting.append(partial(self._put, frame, entry, "missing" if state is None else "differing"))
            self._put_path = entry.path + b"/"
        elif entry.type == "d":
            self._enter(frame, name, entry, state)
        else:
            check = pool.submit(self._is_equal, frame.directory, name, entry)
            self._waiting.append(partial(self._checked, frame, entry, check))

    def _resembles(self, entry: FileEntry, state: os.stat_result) -> bool:
        """Return whether all is equal but the contents; of a directory only the kind has to be."""
        kind = {"d": stat.S_ISDIR, "f": stat.S_ISREG, "l": stat.S_ISLNK}[entry.type]
        if not kind(state.st_mode) or entry.type == "d":
            return kind(state.st_mode)
        is_owner = not self._as_root or (state.st_uid, state.st_gid) == (entry.uid, entry.gid)
        is_mode = entry.type == "l" or not (state.st_mode ^ entry.mode) & FILE_MODE
        is_size = entry.type == "l" or state.st_size == entry.size_bytes
        return is_owner and is_mode and is_size and state.st_mtime_ns == entry.mtime_ns

    def _enter(self, above: _Frame, name: str, entry: FileEntry, state: os.stat_result) -> None:
        directory = above.directory.child(name)
        self._open.add(directory)
        if mount_of_descriptor(directory.descriptor) != self._mount:
            raise TargetRefused(
                f"{directory.path} is a file system of its own: no file can be moved into it in one step",
                "unmount it for the restore; or restore to another directory, and copy what is missed",
            )
        if len(self._frames) > MAX_DEPTH:
            raise too_deep(entry.path)
        self._frames.append(_Frame(entry.path, directory, above, entry, state))

    def _leave(self) -> None:
        self._waiting.append(partial(self._left, self._frames.pop()))

    def _put(self, frame: _Frame, entry: FileEntry, kind: _Kind) -> _Steps:
        frame.is_changed = True
        self.changes.count(kind, entry.path)
        self.changes.count_new(entry)
        return (Move("put", entry.path),)

    def _is_equal(self, directory: Directory, name: str, entry: FileEntry) -> bool:
        """Return whether a file or link holds what the entry says; False for one that cannot be read."""
        try:
            if entry.type == "l":
                return os.readlink(os.fsencode(name), dir_fd=directory.descriptor) == entry.target
            with open(directory.open_file(name), "rb", buffering=0) as stream:
                return digest_of(stream) == entry.digest
        except OSError:
            return False

    def _checked(self, frame: _Frame, entry: FileEntry, check: Future[bool]) -> _Steps:
        is_equal = check.result()
        self._done_bytes += entry.size_bytes
        self._progress.advance(self._done_bytes)
        if not is_equal:
            return self._put(frame, entry, "differing")
        self.changes.unchanged += 1
        return ()

    def _left(self, frame: _Frame) -> _Steps:
        """Return the last steps of a directory: what goes from it, and its attributes."""
        steps: list[Step] = []
        if self._stays is not None:
            for name in (name for name in names_in(frame.directory) if name not in frame.listed):
                steps += self._extra(frame.directory, name, _joined(frame.path, name), self._stays)[1]
            for step in steps:
                self.changes.count("extra", step.path)
        frame.is_changed |= bool(steps)
        if frame.entry is not None and frame.state is not None:
            was = _attributes(frame.state)
            now = Attributes.of(frame.entry)
            if not self._as_root:
                now = now._replace(uid=was.uid, gid=was.gid)
            if now != was:
                self.changes.attributes += 1
            if now != was or frame.is_changed:  # a step changes its time
                steps.append(SetAttributes(frame.path, frame.state.st_ino, was, now))
            self._open.discard(frame.directory)
            frame.directory.close()
        return steps

    def _extra(self, above: Directory, name: str, path: bytes, stays: Stays) -> tuple[bool, list[Step]]:
        """Return whether all at `path`, which the list does not have, goes, and the steps that remove what goes."""
        state = above.stat(name)
        if state is None:
            return True, []
        is_directory = stat.S_ISDIR(state.st_mode)
        if name.startswith(OWN_PREFIX) or stays(path, is_directory):
            return False, []
        if not is_directory:
            goes = stat.S_ISREG(state.st_mode) or stat.S_ISLNK(state.st_mode)
            return goes, [Move("away", path)] if goes else []
        if path.count(b"/") > MAX_DEPTH:
            raise too_deep(path)
        with above.child(name) as directory:
            if mount_of_descriptor(directory.descriptor) != self._mount:
                return False, []
            inner = [self._extra(directory, each, _joined(path, each), stays) for each in names_in(directory)]
        if all(goes for goes, _ in inner):
            return True, [Move("away", path)]
        return False, [step for _, steps in inner for step in steps]


def too_deep(path: bytes) -> TargetRefused:
    """Return the error for a path of too many parts."""
    return TargetRefused(
        f"{os.fsdecode(path)[:200]!r} is nested deeper than {MAX_DEPTH} directories",
        "restore it by the loop in the runbook, which has no such limit",
    )


def _attributes(state: os.stat_result) -> Attributes:
    return Attributes(state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode) & 0o3777, state.st_mtime_ns)


def _joined(path: bytes, name: str) -> bytes:
    return path + b"/" + os.fsencode(name) if path else os.fsencode(name)
