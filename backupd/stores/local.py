"""A store in a local directory: the app's volume, a second disk, a mounted NAS.

DIRECTORY/tasks-20261123-0400.sqlite3.gz       complete and verified before it gets this name
          tasks-20261123-0400.manifest.json    published last: no manifest, no generation
          SHA256SUMS
          .backupd/staging/…                   work in progress, swept after a crash
                   removing/….manifest.json    generations that are being removed
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from backupd.errors import NoSpace, StoreUnusable
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_MAX_BYTES, MANIFEST_SUFFIX, is_generation_id
from backupd.stores import contract
from backupd.system.file_lock import directory_lock
from backupd.system.fs import (
    fsync_directory,
    inherit_owner,
    is_disk_full,
    note_extra_access,
    overwrite_in_place,
    replace_durably,
    write_durably,
)
from backupd.system.os_errors import dangling_link, explain_full, os_error_hint
from backupd.system.owners import ownership_hint

_STAGING_PREFIX = "run-"
_NO_LINKS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class DirectoryStore:
    """Keeps generations in one directory; see `stores.contract.Store`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.hidden = directory / contract.HIDDEN
        self._removing = self.hidden / "removing"
        self._staging = self.hidden / contract.STAGING

    def prepare(self) -> None:
        """Make missing directories: of the path only the last part, to notice a missing mount. Raises BackupdError."""
        self._make(self.directory, 0o750)
        for directory in (self.hidden, self._removing, self._staging):
            if directory.is_symlink():  # files outside the store would be swept
                raise StoreUnusable(f"{directory} is a symbolic link, which may lead out of the store", "remove it")
            self._make(directory, 0o700)

    def writable(self) -> bool:
        """Tell whether the store exists and may be written to."""
        directories = (self.directory, self.hidden) if self.hidden.exists() else (self.directory,)
        return all(os.access(directory, os.W_OK, effective_ids=True) for directory in directories)

    def list(self) -> contract.Listing:
        """Return all complete generations, in order of their ids."""
        archives, manifests = self._files()
        listing = []
        for key in sorted(archives.keys() & manifests):
            with suppress(FileNotFoundError):  # pruned since
                size_bytes = archives[key].stat(follow_symlinks=False).st_size
                listing.append(contract.ListedGeneration(key, size_bytes))
        return tuple(listing)

    def unpaired_files(self) -> tuple[str, ...]:
        """Return the names of archives without a manifest and of manifests without an archive."""
        archives, manifests = self._files()
        alone = [key + ARCHIVE_SUFFIX for key in archives.keys() - manifests]
        alone += [key + MANIFEST_SUFFIX for key in manifests - archives.keys()]
        return tuple(sorted(alone))

    def lost(self) -> tuple[str, ...]:
        """Return the ids of generations whose manifest exists and whose archive is lost, in order. Raises OSError."""
        archives, manifests = self._files()
        return tuple(sorted(key for key in manifests - archives.keys() if self._is_lost(key)))

    def has_files(self, generation_id: str) -> bool:
        """Tell whether the archive or the manifest of a generation exists."""
        return any(os.path.lexists(path) for path in (self.archive_path(generation_id), self._manifest(generation_id)))

    def ids_in_use(self) -> frozenset[str]:
        """Return the ids that have an archive or a manifest, from one listing of the directory. Raises OSError."""
        suffixes = (ARCHIVE_SUFFIX, MANIFEST_SUFFIX)
        names = [path.name for path in self.directory.iterdir()]
        return frozenset(name.removesuffix(end) for name in names for end in suffixes if name.endswith(end))

    def archive_path(self, generation_id: str) -> Path:
        """Return the path of the archive of a generation, which need not exist."""
        return self.directory / f"{generation_id}{ARCHIVE_SUFFIX}"

    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""
        descriptor, size_bytes = self._open(f"{self.directory}{os.sep}{generation_id}{MANIFEST_SUFFIX}", generation_id)
        try:
            return _read(descriptor, size_bytes, MANIFEST_MAX_BYTES + 1)
        finally:
            os.close(descriptor)

    def manifests(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its manifest, as `manifest` does."""
        return (partial(self.manifest, generation_id) for generation_id in ids)

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing, OSError."""
        descriptor, _ = self._open(str(self.archive_path(generation_id)), generation_id)
        os.lseek(descriptor, begin, os.SEEK_SET)
        return open(descriptor, "rb")

    def publish(self, generation_id: str, archive: Path, manifest: bytes) -> None:
        """Move the verified `archive`, a file in a staging directory of this store, and its manifest into place.

        The manifest is durable in staging before the archive gets its name, so that `recover` can finish a publication
        that was killed in between.
        """
        staged = archive.parent / f"{generation_id}{MANIFEST_SUFFIX}"
        write_durably(staged, manifest)
        note_extra_access(staged)
        fsync_directory(archive.parent)
        try:
            self._place(archive, self.archive_path(generation_id))
            self._place(staged, self._manifest(generation_id))
        except BaseException:  # SIGTERM as well: staging, and with it the manifest, is about to be removed
            if not self._manifest(generation_id).exists():
                self.archive_path(generation_id).unlink(missing_ok=True)
            raise

    def remove(self, generation_id: str) -> None:
        """Remove a generation: it is gone once its manifest is, and `recover` removes what is left of it."""
        if not is_generation_id(generation_id):
            return
        try:
            self._manifest(generation_id).rename(self._removing / f"{generation_id}{MANIFEST_SUFFIX}")
        except FileNotFoundError:
            return
        fsync_directory(self._removing)
        fsync_directory(self.directory)
        self._finish_removal(generation_id)

    def checksummed(self) -> frozenset[str]:
        """Return the ids of the archives that `SHA256SUMS` lists."""
        lines = (self._checksums() or b"").decode(errors="replace").splitlines()
        return frozenset(line.partition("  ")[2].removesuffix(ARCHIVE_SUFFIX) for line in lines)

    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Write `SHA256SUMS` with these archives, unless it has exactly this content."""
        text, old, path = contract.checksums_text(digests), self._checksums(), self.directory / contract.CHECKSUMS
        if old == text:
            return
        try:
            replace_durably(path, text, temporary=self.hidden / f"{contract.CHECKSUMS}.new", mode=0o644)
        except OSError as error:
            if not is_disk_full(error) or old is None or len(old) < len(text):
                raise
            overwrite_in_place(path, text)  # a full disk must not prevent pruning, which frees space

    def free_space(self) -> int:
        """Return the bytes free to this user on the file system of the store."""
        return shutil.disk_usage(self.directory).free

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty directory (0700) on the store's disk, removed at the end; a flock(2) on it tells we live."""
        with ExitStack() as stack:
            path = _make_staging(self._staging, stack)
            try:
                yield path
            finally:
                _remove(path)

    def recover(self) -> Iterator[contract.RecoveredItem]:
        """Finish what killed runs left unfinished, and yield each item. Needs the store's lock."""
        for key, _ in _manifests_in(self._removing):
            self._finish_removal(key)
            yield contract.RecoveredItem("removal", key)
        for abandoned in _abandoned(self._staging):
            for key, staged in _manifests_in(abandoned):
                if self.archive_path(key).exists() and not self._manifest(key).exists():
                    self._place(staged, self._manifest(key))
                    yield contract.RecoveredItem("publication", key)
            yield contract.RecoveredItem("staging", abandoned.name, _remove_tree(abandoned))
        (self.hidden / f"{contract.CHECKSUMS}.new").unlink(missing_ok=True)

    def _make(self, directory: Path, mode: int) -> None:
        try:
            if not directory.is_dir():
                directory.mkdir(mode)
                inherit_owner(directory.parent, directory)
                fsync_directory(directory.parent)
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

    def _place(self, path: Path, target: Path) -> None:
        inherit_owner(self.directory, path)
        path.rename(target)
        fsync_directory(self.directory)

    def _finish_removal(self, generation_id: str) -> None:
        if not self._manifest(generation_id).exists():  # else the generation was published again
            self.archive_path(generation_id).unlink(missing_ok=True)
            fsync_directory(self.directory)
        (self._removing / f"{generation_id}{MANIFEST_SUFFIX}").unlink()

    def _manifest(self, generation_id: str) -> Path:
        return self.directory / f"{generation_id}{MANIFEST_SUFFIX}"

    def _is_lost(self, generation_id: str) -> bool:
        """Check again: a generation that is published or removed during a listing looks incomplete."""
        manifest, archive = self._manifest(generation_id), self.archive_path(generation_id)
        gone = manifest.exists() and (archive.is_symlink() or not archive.is_file())
        return gone and manifest.exists()  # a removal takes the manifest first

    def _checksums(self) -> bytes | None:
        path = self.directory / contract.CHECKSUMS
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None

    def _files(self) -> tuple[dict[str, os.DirEntry[str]], set[str]]:
        """Return the archives by the id in their name, and the ids in the names of the manifests."""
        archives: dict[str, os.DirEntry[str]] = {}
        manifests: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                is_archive = entry.name.endswith(ARCHIVE_SUFFIX)
                key = entry.name.removesuffix(ARCHIVE_SUFFIX if is_archive else MANIFEST_SUFFIX)
                if key != entry.name and is_generation_id(key) and entry.is_file(follow_symlinks=False):
                    if is_archive:
                        archives[key] = entry
                    else:
                        manifests.add(key)
        return archives, manifests

    def _open(self, path: str, generation_id: str) -> tuple[int, int]:
        """Return descriptor and size of a regular file; follows no link. Raises GenerationMissing, OSError."""
        contract.require_generation_id(generation_id)
        try:
            descriptor = os.open(path, _NO_LINKS)
            state = os.fstat(descriptor)
            if stat.S_ISREG(state.st_mode):
                return descriptor, state.st_size
            os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            pass
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        raise contract.generation_missing(generation_id, self.name)


def _read(descriptor: int, size_bytes: int, limit_bytes: int) -> bytes:
    """Return the contents of a file, at most `limit_bytes`; a small one in one call, without a large buffer."""
    raw = os.read(descriptor, min(size_bytes + 1, limit_bytes))
    while len(raw) not in (size_bytes, limit_bytes) and (more := os.read(descriptor, limit_bytes - len(raw))):
        raw += more
    return raw


def _manifests_in(directory: Path) -> list[tuple[str, Path]]:
    """Return the manifests at any depth below `directory` with their ids; links are neither followed nor returned."""
    found = ((path.name.removesuffix(MANIFEST_SUFFIX), path) for path in directory.rglob(f"*{MANIFEST_SUFFIX}"))
    return sorted((key, path) for key, path in found if is_generation_id(key) and not path.is_symlink())


def _make_staging(root: Path, stack: ExitStack) -> Path:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
        inherit_owner(root, path)
        with suppress(OSError):
            if stack.enter_context(directory_lock(path)) and path.is_dir():
                return path
        stack.close()  # swept between mkdir and flock


def _abandoned(root: Path) -> Iterator[Path]:
    """Yield the staging directories whose process is dead."""
    for path in sorted(root.glob(f"{_STAGING_PREFIX}*")):
        with suppress(OSError), directory_lock(path) as held:
            if held:
                yield path


def _remove_tree(directory: Path) -> str:
    """Remove as much as possible of `directory`; returns why the rest remains, empty when nothing does."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        if directory.exists():
            shutil.rmtree(directory)  # again, for the reason of the first error
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _remove(directory: Path) -> None:
    """Remove `directory`, also when SIGTERM interrupts the removal."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
