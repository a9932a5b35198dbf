"""A store in a local directory: the app's volume, a second disk, a mounted NAS.

DIRECTORY/tasks-20261123-0400.sqlite3.gz       complete and verified before it gets this name
          tasks-20261123-0400.manifest.json    published last: no manifest, no generation
          uploads-20261123-0400.files.gz       the list of a set of files
          point-20261123-0400.point.json       index of a restore point, published after its parts
          SHA256SUMS
          .backupd/staging/…                   work in progress, swept after a crash
                   removing/….manifest.json    generations that are being removed
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from backupd.errors import NoSpace, StoreUnusable
from backupd.model import (
    MANIFEST_MAX_BYTES,
    MANIFEST_SUFFIX,
    POINT_SUFFIX,
    SUFFIXES,
    Kind,
    archive_name,
    is_generation_id,
    is_point_id,
)
from backupd.stores import contract
from backupd.stores.contents import LocalContents
from backupd.stores.staging import abandoned_staging, new_staging, remove_staging
from backupd.system.directory import Directory
from backupd.system.fs import is_disk_full, note_extra_access
from backupd.system.held_file import HeldFile
from backupd.system.os_errors import dangling_link, explain_full, os_error_hint
from backupd.system.owners import ownership_hint
from backupd.system.small_file import UnexpectedFile, open_regular, read_small_file

_HIDDEN: Final = contract.HIDDEN
_STAGING: Final = contract.STAGING
_REMOVING: Final = "removing"
_NEW_CHECKSUMS: Final = f"{contract.CHECKSUMS}.new"
_MAX_CHECKSUMS_BYTES: Final = 16 << 20
_NO_FILE: Final = (FileNotFoundError, NotADirectoryError, UnexpectedFile)


class DirectoryStore:
    """Keeps generations in one directory; see `stores.contract.Store`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.hidden = directory / contract.HIDDEN

    @property
    def contents(self) -> LocalContents:
        """The contents of the files of all sets."""
        return LocalContents(self.name, self.directory)

    def prepare(self) -> None:
        """Make missing directories: of the path only the last part, to notice a missing mount. Raises BackupdError."""
        self._make()
        with self._making_errors(self.directory), Directory.open(self.directory) as base, base.make(_HIDDEN) as hidden:
            for name in (_REMOVING, _STAGING):
                hidden.make(name).close()

    def writable(self) -> bool:
        """Tell whether the store exists and may be written to; False too where it cannot be seen."""
        directories = (self.directory, self.hidden) if os.path.lexists(self.hidden) else (self.directory,)
        return all(os.access(directory, os.W_OK | os.X_OK, effective_ids=True) for directory in directories)

    def list(self) -> contract.Listing:
        """Return all complete generations, in order of their ids."""
        return contract.listing(*self._files())

    def unpaired_files(self) -> tuple[str, ...]:
        """Return the names of archives without a manifest and of manifests without an archive."""
        archives, manifests = self._files()
        alone = [archive_name(key, kind) for key, kind in archives if key not in manifests]
        alone += [key + MANIFEST_SUFFIX for key in manifests - {key for key, _ in archives}]
        return tuple(sorted(alone))

    def lost(self) -> tuple[str, ...]:
        """Return the ids of generations whose manifest exists and whose archive is lost, in order. Raises OSError."""
        archives, manifests = self._files()
        return tuple(sorted(key for key in manifests - {key for key, _ in archives} if self._is_lost(key)))

    def has_files(self, generation_id: str) -> bool:
        """Tell whether the archive or the manifest of a generation exists."""
        return any(os.path.lexists(path) for path in (self.archive_path(generation_id), self._manifest(generation_id)))

    def ids_in_use(self) -> frozenset[str]:
        """Return the ids that have an archive, a manifest or an index, from one listing. Raises OSError."""
        suffixes = (*SUFFIXES.values(), MANIFEST_SUFFIX, POINT_SUFFIX)
        with os.scandir(self.directory) as entries:
            names = (entry.name for entry in entries)
            return frozenset(name.removesuffix(end) for name in names for end in suffixes if name.endswith(end))

    def archive_path(self, generation_id: str) -> Path:
        """Return the path of the archive of a generation, which need not exist: then as of a database."""
        database, files = (self.directory / archive_name(generation_id, kind) for kind in SUFFIXES)
        return files if os.path.lexists(files) and not os.path.lexists(database) else database

    def points(self) -> tuple[str, ...]:
        """Return the ids of all restore points, in order. Raises OSError."""
        with suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            found = (entry.name for entry in entries if entry.name.endswith(POINT_SUFFIX) and _is_file(entry))
            return tuple(sorted(filter(is_point_id, (name.removesuffix(POINT_SUFFIX) for name in found))))
        return ()

    def point(self, point_id: str) -> bytes:
        """Return the bytes of an index, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""
        contract.require_point_id(point_id)
        try:
            return _read_file(f"{self.directory}{os.sep}{point_id}{POINT_SUFFIX}")
        except _NO_FILE:
            raise contract.point_missing(point_id, self.name) from None

    def indexes(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its index, as `point` does."""
        return (partial(self.point, point_id) for point_id in ids)

    def publish_point(self, point_id: str, encoded: bytes) -> None:
        """Write an index, durably; one that is there already must have these bytes. Raises GenerationTaken, OSError."""
        contract.require_point_id(point_id)
        name = f"{point_id}{POINT_SUFFIX}"
        with self.staging() as staging, Directory.open(self.directory) as base:
            index = HeldFile.create(staging, name)
            index.write(encoded)
            base.give_owner(index.descriptor)
            try:
                staging.place(name, index.descriptor, base, name)
            except FileExistsError:
                contract.require_own_point(self, self.name, point_id, encoded)
            base.fsync()

    def remove_point(self, point_id: str) -> None:
        """Remove an index, durably; a missing one is accepted. Raises OSError."""
        contract.require_point_id(point_id)
        with Directory.open(self.directory) as base:
            if base.unlink(f"{point_id}{POINT_SUFFIX}"):
                base.fsync()

    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""
        contract.require_generation_id(generation_id)
        try:
            return _read_file(f"{self.directory}{os.sep}{generation_id}{MANIFEST_SUFFIX}")
        except _NO_FILE:
            raise contract.generation_missing(generation_id, self.name) from None

    def manifests(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its manifest, as `manifest` does."""
        return (partial(self.manifest, generation_id) for generation_id in ids)

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing, OSError."""
        contract.require_generation_id(generation_id)
        try:
            descriptor = open_regular(self.archive_path(generation_id))
        except _NO_FILE:
            raise contract.generation_missing(generation_id, self.name) from None
        os.lseek(descriptor, begin, os.SEEK_SET)
        return open(descriptor, "rb")

    def place(
        self,
        generation_id: str,
        archive: HeldFile,
        manifest: bytes,
        may_read: contract.MayRead = contract.anybody,
        *,
        kind: Kind = "database",
    ) -> None:
        """Move the verified `archive`, a file in a staging directory of this store, and its manifest into place.

        As root, both get the owner of the store where that user `may_read` them. The manifest is durable in staging
        before the archive gets its name, so that `recover` can finish a publication that was killed in between. Raises
        OSError.
        """
        name, staging = archive_name(generation_id, kind), archive.directory
        staged = HeldFile.create(staging, f"{generation_id}{MANIFEST_SUFFIX}")
        staged.write(manifest)
        note_extra_access(staged.descriptor, staged.path)
        staging.fsync()
        with Directory.open(self.directory) as base:
            if may_read(base.owner()[0]):
                for file in (archive, staged):  # not by `recover`, which cannot tell whether it was made here
                    base.give_owner(file.descriptor)
            try:
                _place(archive, base, name)
                _place(staged, base, f"{generation_id}{MANIFEST_SUFFIX}")
            except BaseException:  # SIGTERM as well: staging, and with it the manifest, is about to be removed
                if not base.holds(f"{generation_id}{MANIFEST_SUFFIX}", staged.descriptor):
                    base.unlink(name)
                raise

    def remove(self, generation_id: str) -> None:
        """Remove a generation: it is gone once its manifest is, and `recover` removes what is left of it."""
        if not is_generation_id(generation_id):
            return
        manifest = f"{generation_id}{MANIFEST_SUFFIX}"
        with self._opened(_REMOVING) as (base, removing):
            try:
                base.rename(manifest, removing, manifest)
            except FileNotFoundError:
                return
            removing.fsync()
            base.fsync()
            _finish_removal(generation_id, base, removing)

    def checksummed(self) -> frozenset[str]:
        """Return the names of the archives that `SHA256SUMS` lists."""
        lines = (self._checksums() or b"").decode(errors="replace").splitlines()
        return frozenset(line.partition("  ")[2] for line in lines)

    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Write `SHA256SUMS` with these archives, unless it has exactly this content."""
        text, old = contract.checksums_text(digests), self._checksums()
        if old == text:
            return
        with Directory.open(self.directory) as base, base.child(_HIDDEN) as hidden:
            try:
                base.replace(contract.CHECKSUMS, text, temporary=_NEW_CHECKSUMS, within=hidden, mode=0o644)
            except OSError as error:
                if not is_disk_full(error) or old is None or len(old) < len(text):
                    raise
                base.overwrite(contract.CHECKSUMS, text)  # a full disk must not prevent pruning, which frees space

    def free_space(self) -> int:
        """Return the bytes free to this user on the file system of the store."""
        return shutil.disk_usage(self.directory).free

    @contextmanager
    def staging(self) -> Iterator[Directory]:
        """Yield an empty directory (0700) on the store's disk, emptied and removed at the end.

        A flock(2) on it tells that its process lives.
        """
        with self._opened(_STAGING) as (_, root), new_staging(root) as directory:
            yield directory

    def recover(self) -> Iterator[contract.RecoveredItem]:
        """Finish what killed runs left unfinished, and yield each item. Needs the store's lock."""
        with self._opened(_REMOVING) as (base, removing):
            for key in _manifests_in(removing):
                _finish_removal(key, base, removing)
                yield contract.RecoveredItem("removal", key)
        with self._opened(_STAGING) as (base, root):
            for abandoned in abandoned_staging(root):
                for key in _publish_from(abandoned, base):
                    yield contract.RecoveredItem("publication", key)
                name = abandoned.name
                yield contract.RecoveredItem("staging", name, remove_staging(root, name))
        with Directory.open(self.directory) as base, base.child(_HIDDEN) as hidden:
            hidden.unlink(_NEW_CHECKSUMS)

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[Directory, Directory]]:
        """Open the directory of this store and a directory of its hidden one. Raises OSError."""
        with (
            Directory.open(self.directory) as base,
            base.child(_HIDDEN) as hidden,
            hidden.child(name) as directory,
        ):
            yield base, directory

    def _make(self) -> None:
        directory = self.directory
        with self._making_errors(directory):
            if directory.is_dir():
                return
            with Directory.open(directory.parent) as above:
                above.make(directory.name, 0o750, new=True).close()

    @contextmanager
    def _making_errors(self, directory: Path) -> Iterator[None]:
        try:
            yield
        except UnexpectedFile as error:
            raise StoreUnusable(f"{error.filename} is {error.strerror}", "remove it, or move it away") from error
        except FileNotFoundError as error:
            raise StoreUnusable(
                dangling_link(directory.parent) or f"the directory {directory.parent} does not exist",
                "make it, or mount the volume that belongs there",
            ) from error
        except FileExistsError as error:
            raise StoreUnusable(
                dangling_link(directory) or f"{directory} exists and is not a directory",
                "make the directory that it points to, or mount it" if directory.is_symlink() else "move it away",
            ) from error
        except OSError as error:
            if is_disk_full(error):
                what, hint = explain_full(error, directory.parent)
                raise NoSpace(f"cannot make {directory}: {what}", f"{hint}, or move backups_dir") from error
            raise StoreUnusable(
                f"cannot make the directory {directory}: {error.strerror}",
                ownership_hint(directory.parent, f"{os_error_hint(error, directory.parent)}; or set backups_dir"),
            ) from error

    def _manifest(self, generation_id: str) -> Path:
        return self.directory / f"{generation_id}{MANIFEST_SUFFIX}"

    def _is_lost(self, generation_id: str) -> bool:
        """Check again: a generation that is published or removed during a listing looks incomplete."""
        manifest, archive = self._manifest(generation_id), self.archive_path(generation_id)
        gone = manifest.exists() and (archive.is_symlink() or not archive.is_file())
        return gone and manifest.exists()  # a removal takes the manifest first

    def _checksums(self) -> bytes | None:
        with suppress(UnexpectedFile, FileNotFoundError):
            return read_small_file(self.directory / contract.CHECKSUMS, _MAX_CHECKSUMS_BYTES)
        return None

    def _files(self) -> tuple[dict[tuple[str, Kind], int], set[str]]:
        """Return the sizes of the archives by id and kind in their names, and the ids in the names of the manifests."""
        archives: dict[tuple[str, Kind], int] = {}
        manifests: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                if (archive := contract.archive_in(entry.name)) and _is_file(entry):
                    with suppress(FileNotFoundError):  # pruned since
                        archives[archive] = entry.stat(follow_symlinks=False).st_size
                key = entry.name.removesuffix(MANIFEST_SUFFIX)
                if key != entry.name and is_generation_id(key) and _is_file(entry):
                    manifests.add(key)
        return archives, manifests


def _place(file: HeldFile, base: Directory, name: str) -> None:
    file.move(base, name)
    base.fsync()


def _finish_removal(generation_id: str, base: Directory, removing: Directory) -> None:
    if base.stat(f"{generation_id}{MANIFEST_SUFFIX}") is None:  # else the generation was published again
        for kind in SUFFIXES:
            base.unlink(archive_name(generation_id, kind))
        base.fsync()
    removing.unlink(f"{generation_id}{MANIFEST_SUFFIX}")


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _read_file(path: str) -> bytes:
    """Return a manifest or an index, at most MANIFEST_MAX_BYTES + 1; follows no link. Raises OSError."""
    descriptor = open_regular(path)
    try:
        return _read(descriptor, os.fstat(descriptor).st_size, MANIFEST_MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _read(descriptor: int, size_bytes: int, limit_bytes: int) -> bytes:
    """Return the contents of a file, at most `limit_bytes`; a small one in one call, without a large buffer."""
    raw = os.read(descriptor, min(size_bytes + 1, limit_bytes))
    while len(raw) not in (size_bytes, limit_bytes) and (more := os.read(descriptor, limit_bytes - len(raw))):
        raw += more
    return raw


def _manifests_in(directory: Directory) -> list[str]:
    """Return the ids of the manifests in `directory`, in order."""
    names = (name for name in directory.names() if name.endswith(MANIFEST_SUFFIX))
    return sorted(filter(is_generation_id, (name.removesuffix(MANIFEST_SUFFIX) for name in names)))


def _publish_from(staging: Directory, base: Directory) -> Iterator[str]:
    """Move the manifests that lie in `staging` or a directory in it beside their archives; yield their ids."""
    with ExitStack() as stack:
        places = [staging]
        for name in staging.names():
            with suppress(OSError):  # no directory
                places.append(stack.enter_context(staging.child(name)))
        for place in places:
            for key in _manifests_in(place):
                name = f"{key}{MANIFEST_SUFFIX}"
                archives = (base.stat(archive_name(key, kind)) for kind in SUFFIXES)
                if any(archives) and base.stat(name) is None:
                    with suppress(UnexpectedFile):
                        _place(HeldFile.open(place, name), base, name)
                        yield key
