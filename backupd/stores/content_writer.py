"""Add contents of files to a directory, many at a time, each verified on the disk before it gets its name."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count, groupby
from threading import Lock
from typing import Final, NamedTuple

from backupd.errors import CopyCorrupt
from backupd.stores.contract import content_names
from backupd.system.directory import Directory
from backupd.system.fs import note_extra_access, visible_directory, write_all
from backupd.system.sync import can_sync_at_once, sync_at_once

_MOST_FILES: Final = 1000  # that get their names together
_MOST_BYTES: Final = 128 << 20
_FEW: Final = 8  # files for which it is not worth to write out all that others have written


class _Staged(NamedTuple):
    """A complete file in staging that waits for its name."""

    staged: str
    name: str
    size_bytes: int
    sha256: str  # of the file as it is stored


class ContentPart:
    """A content that is being written to a file in staging."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.digest = b""  # of what it holds, once it is finished
        self.packed = False

    def write(self, data: bytes) -> None:
        """Write the next bytes, as they are to be stored. Raises OSError."""
        with open(self._descriptor, "r+b", buffering=0, closefd=False) as stream:
            write_all(stream, data)
        self._sha256.update(data)
        self.size_bytes += len(data)
        # Linux starts writing dirty pages now (mm/fadvise.c), not in one burst that would delay the app.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def finish(self, digest: bytes, *, packed: bool) -> None:
        """Tell the SHA-256 of what it holds, by which it gets its name with the next commit."""
        self.digest, self.packed = digest, packed

    @property
    def sha256(self) -> str:
        """The digest of the file as it is stored."""
        return self._sha256.hexdigest()


class ContentWriter:
    """Adds contents to the directory `files`, through files in `staging`; used by several threads at a time.

    `is_sound` tells whether the content of a digest is there, undamaged. With an `owner`, files get that of this
    directory, if root makes them.
    """

    def __init__(
        self, files: Directory, staging: Directory, is_sound: Callable[[str], bool], owner: Directory | None
    ) -> None:
        self._files, self._staging, self._is_sound, self._owner = files, staging, is_sound, owner
        self._at_once = can_sync_at_once(staging.fixed_path)
        self._numbers = count()
        self._waiting: dict[bytes, _Staged] = {}
        self._committing: Mapping[bytes, _Staged] = {}
        self._sound: set[bytes] = set()
        self._lock, self._commit_lock = Lock(), Lock()

    def holds(self, digest: bytes) -> bool:
        """Tell whether the content of a digest (32 bytes) is there, undamaged; it is then not swept for a while.

        What is damaged is replaced when it is added. Raises OSError.
        """
        if self._is_known(digest):
            return True
        if sound := self._is_sound(digest.hex()):
            with self._lock:
                self._sound.add(digest)
        return sound

    @contextmanager
    def part(self) -> Iterator[ContentPart]:
        """Begin a content, which is discarded at the end of the block unless it was finished. Raises OSError.

        The end of the block may commit.
        """
        name = f"content-{next(self._numbers)}"
        descriptor = self._staging.create_file(name)
        part = ContentPart(descriptor)
        is_added = False
        try:
            yield part
            if part.digest:
                if not self._at_once:
                    os.fsync(descriptor)
                is_added = self._add(part, name)
        finally:
            os.close(descriptor)
            if not is_added:
                with suppress(OSError):
                    self._staging.unlink(name)
        if self._is_full():
            self.commit()

    def commit(self) -> None:
        """Make all that were added durable, verify them on the disk, and give them their names, durably.

        Raises CopyCorrupt, OSError.
        """
        with self._commit_lock:
            with self._lock:
                self._committing, self._waiting = self._waiting, {}
            if self._committing:
                self._place(sorted(self._committing.values(), key=lambda staged: staged.name))
            with self._lock:
                self._committing = {}

    def _is_known(self, digest: bytes) -> bool:
        with self._lock:
            return digest in self._waiting or digest in self._committing or digest in self._sound

    def _add(self, part: ContentPart, staged: str) -> bool:
        """Let a file wait for its name; False where another one of the same content does."""
        name = content_names(part.digest.hex())[0 if part.packed else 1]
        with self._lock:
            if part.digest in self._waiting or part.digest in self._committing:
                return False
            self._waiting[part.digest] = _Staged(staged, name, part.size_bytes, part.sha256)
        return True

    def _is_full(self) -> bool:
        with self._lock:
            waiting = tuple(self._waiting.values())
        return len(waiting) >= _MOST_FILES or sum(staged.size_bytes for staged in waiting) >= _MOST_BYTES

    def _place(self, batch: list[_Staged]) -> None:
        at_once = self._at_once and len(batch) > _FEW
        if at_once:
            sync_at_once(self._staging.descriptor, self._staging.path)
        for prefix, group in groupby(batch, key=lambda staged: staged.name[:2]):
            with self._files.make(prefix, durable=not at_once) as directory:
                for staged in group:
                    self._place_one(staged, directory, is_durable=at_once or not self._at_once)
                if not at_once:
                    directory.fsync()
        if at_once:
            sync_at_once(self._files.descriptor, self._files.path)

    def _place_one(self, staged: _Staged, directory: Directory, *, is_durable: bool) -> None:
        descriptor = self._staging.open_file(staged.staged)
        try:
            if not is_durable:
                os.fsync(descriptor)
            self._verify(descriptor, staged)
            if self._owner is not None:
                self._owner.give_owner(descriptor)
            note_extra_access(descriptor, self._staging.path_of(staged.staged))
            try:
                self._staging.place(staged.staged, descriptor, directory, staged.name)
            except FileExistsError:  # something else, or damaged: `holds` has read it
                self._staging.move(staged.staged, descriptor, directory, staged.name)
        finally:
            os.close(descriptor)
        for other in content_names(staged.name.removesuffix(".gz")):
            if other != staged.name:
                with suppress(OSError):  # a directory
                    directory.unlink(other)

    def _verify(self, descriptor: int, staged: _Staged) -> None:
        """Read the durable file back from the disk, past the page cache. Raises CopyCorrupt, OSError."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with open(descriptor, "rb", closefd=False) as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != staged.sha256:
                where = visible_directory(self._files.path)
                raise CopyCorrupt(f"a file in {where} reads back differently than written", "test the disk (smartctl)")
