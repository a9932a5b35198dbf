"""Unpack what a restore puts into a directory: into a hidden tree on its mount, where nobody else may look or write.

Each file gets owner, mode and time by its descriptor, and each directory after all that is in it. Contents are verified
while they are written; blocks of zeros become holes.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final

from backupd.archive.file_list import FileEntry
from backupd.errors import BackupdError, CopyCorrupt
from backupd.files.comparison import MAX_DEPTH, too_deep
from backupd.files.steps import DIRECTORY_MODE, FILE_MODE
from backupd.formatting import counted
from backupd.system.directory import Directory
from backupd.system.sync import can_sync_at_once

_IN_FLIGHT: Final = 64
_CHUNK_BYTES: Final = 1 << 20
_BLOCK: Final = bytes(4096)
_MAX_NAMED: Final = 3

OpenContent = Callable[[str], BinaryIO]  # by the digest; what it reads is unpacked, and not yet compared with it


@dataclass
class Staged:
    """What was unpacked, and what could not be: `damage` for each content that is missing or damaged."""

    files: int = 0
    size_bytes: int = 0
    foreign: int = 0  # that did not get the owner in the list
    set_id: int = 0  # that lost the bits by which a program runs as its owner or group
    damage: list[tuple[bytes, BackupdError]] = field(default_factory=list)


@dataclass
class _Frame:
    path: bytes
    directory: Directory
    entry: FileEntry | None  # None: a directory that is there already, and here only holds what is to be put in it


class Staging:
    """Unpacks what is to be put into the tree `new`."""

    def __init__(self, new: Directory, contents: OpenContent, workers: int, advance: Callable[[int], None]) -> None:
        self.staged = Staged()
        self._contents, self._workers, self._advance = contents, workers, advance
        self._frames = [_Frame(b"", new, None)]
        self._fsync = not can_sync_at_once(new.fixed_path)
        self._open: set[Directory] = set()
        self._waiting: deque[Callable[[], None]] = deque()

    def unpack(self, entries: Iterable[FileEntry], puts: Iterator[bytes]) -> Staged:
        """Unpack those of `entries` that are in `puts`, paths in the order of the list, or below one of them.

        Raises CopyCorrupt where a content is missing or damaged, at the end: all of them are named or counted. Raises
        TargetRefused for a path that is too long, OSError, and what `entries` and contents raise.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="unpack")
        try:
            for entry in wanted_entries(entries, puts):
                self._take(entry, pool)
                while len(self._waiting) > _IN_FLIGHT:
                    self._waiting.popleft()()
            while len(self._frames) > 1:
                self._leave()
            while self._waiting:
                self._waiting.popleft()()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for directory in self._open:
                directory.close()
        return self.staged

    def _take(self, entry: FileEntry, pool: ThreadPoolExecutor) -> None:
        *above, last = entry.path.split(b"/")
        directory, name = self._directory(above), os.fsdecode(last)
        if entry.type == "d":
            self._enter(entry.path, directory, name, entry)
        elif entry.type == "l":
            self.staged.foreign += _make_link(directory, name, entry)
        else:
            self.staged.set_id += bool(entry.mode & ~FILE_MODE & 0o6000)
            done = pool.submit(_write_file, directory, name, entry, self._contents, fsync=self._fsync)
            self._waiting.append(partial(self._written, entry, done))

    def _directory(self, above: Sequence[bytes]) -> Directory:
        """Return the directory of these parts, made where it is only needed to hold what is put into it."""
        path = b"/".join(above)
        while not _is_in(path, self._frames[-1].path):
            self._leave()
        for depth in range(len(self._frames), len(above) + 1):
            self._enter(b"/".join(above[:depth]), self._frames[-1].directory, os.fsdecode(above[depth - 1]), None)
        return self._frames[-1].directory

    def _enter(self, path: bytes, above: Directory, name: str, entry: FileEntry | None) -> None:
        if len(self._frames) > MAX_DEPTH:
            raise too_deep(path)
        directory = above.make(name, new=True, durable=False)
        self._open.add(directory)
        self._frames.append(_Frame(path, directory, entry))

    def _leave(self) -> None:
        self._waiting.append(partial(self._finish, self._frames.pop()))

    def _finish(self, frame: _Frame) -> None:
        if frame.entry is not None:
            self.staged.foreign += _set_attributes(frame.directory.descriptor, frame.entry, DIRECTORY_MODE)
        self._open.discard(frame.directory)
        frame.directory.close()

    def _written(self, entry: FileEntry, done: Future[bool]) -> None:
        try:
            self.staged.foreign += done.result()
        except BackupdError as error:
            if error.kind != "corrupt":
                raise
            self.staged.damage.append((entry.path, error))
            return
        self.staged.files += 1
        self.staged.size_bytes += entry.size_bytes
        self._advance(self.staged.size_bytes)


def damage_error(staged: Staged, generation: str) -> CopyCorrupt:
    """Return the error for contents that are missing or damaged."""
    named = "; ".join(f"{os.fsdecode(path)!r}: {error.message}" for path, error in staged.damage[:_MAX_NAMED])
    more = f"; and {len(staged.damage) - _MAX_NAMED} more" if len(staged.damage) > _MAX_NAMED else ""
    return CopyCorrupt(
        f"{generation}: {counted(len(staged.damage), 'file')} cannot be restored: {named}{more}",
        "use another restore point (backupd list --points), or this one from another store (--from NAME)",
    )


def wanted_entries(entries: Iterable[FileEntry], puts: Iterator[bytes]) -> Iterator[FileEntry]:
    """Yield the entries whose paths are in `puts`, and those below them."""
    put, below = next(puts, None), b"/"  # no path begins with that
    for entry in entries:
        if entry.path == put:
            put, below = next(puts, None), entry.path + b"/"
            yield entry
        elif entry.path.startswith(below):
            yield entry
        elif put is None:
            return


def _is_in(path: bytes, directory: bytes) -> bool:
    """Return whether `path` is `directory` or below it; everything is below the empty path."""
    return not directory or path == directory or path.startswith(directory + b"/")


def _write_file(directory: Directory, name: str, entry: FileEntry, contents: OpenContent, *, fsync: bool) -> bool:
    """Write a file; return whether it did not get its owner. Raises CopyCorrupt, ContentMissing, OSError."""
    descriptor = directory.create_file(name)
    try:
        with contents(entry.digest) as content, open(descriptor, "wb", buffering=0, closefd=False) as stream:
            digest, size_bytes = hashlib.sha256(), 0
            while chunk := content.read(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > entry.size_bytes:
                    break
                digest.update(chunk)
                _write_sparse(stream, chunk)
        if size_bytes != entry.size_bytes or digest.hexdigest() != entry.digest:
            raise CopyCorrupt(f"the stored content {entry.digest} is damaged", "use another generation or store")
        if os.fstat(descriptor).st_size != size_bytes:  # it ends in a hole
            os.ftruncate(descriptor, size_bytes)
        is_foreign = _set_attributes(descriptor, entry, FILE_MODE)
        if fsync:
            os.fsync(descriptor)
        return is_foreign
    finally:
        os.close(descriptor)


def _write_sparse(stream: BinaryIO, chunk: bytes) -> None:
    """Write a chunk at the position of an unbuffered stream, but leave holes for blocks of zeros."""
    view, begin = memoryview(chunk), 0
    if _BLOCK in chunk:
        for at in range(0, len(chunk), len(_BLOCK)):
            if view[at : at + len(_BLOCK)] == _BLOCK:
                _write_all(stream, view[begin:at])
                stream.seek(len(_BLOCK), os.SEEK_CUR)
                begin = at + len(_BLOCK)
    _write_all(stream, view[begin:])


def _write_all(stream: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[stream.write(view) :]


def _set_attributes(descriptor: int, entry: FileEntry, modes: int) -> bool:
    """Give an open file or directory owner, mode and time of an entry; return whether it did not get the owner."""
    is_foreign = _set_owner(partial(os.fchown, descriptor), os.fstat(descriptor), entry)
    with suppress(PermissionError):  # FAT and SMB have one mode for all
        os.fchmod(descriptor, entry.mode & modes)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    return is_foreign


def _make_link(directory: Directory, name: str, entry: FileEntry) -> bool:
    """Make a symbolic link, where nobody else may write; return whether it did not get its owner. Raises OSError."""
    here, raw = directory.descriptor, os.fsencode(name)
    os.symlink(entry.target, raw, dir_fd=here)
    state = os.stat(raw, dir_fd=here, follow_symlinks=False)
    is_foreign = _set_owner(partial(os.chown, raw, dir_fd=here, follow_symlinks=False), state, entry)
    os.utime(raw, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=here, follow_symlinks=False)
    return is_foreign


def _set_owner(change: Callable[[int, int], None], state: os.stat_result, entry: FileEntry) -> bool:
    if (state.st_uid, state.st_gid) == (entry.uid, entry.gid):
        return False
    try:
        change(entry.uid if os.geteuid() == 0 else -1, entry.gid)
    except OSError:  # not root, without CHOWN, an id that this user namespace does not map, or FAT
        return True
    return state.st_uid != entry.uid and os.geteuid() != 0
