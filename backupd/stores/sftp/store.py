"""A store on another host, over SFTP: plain files that its administrator can check with `sha256sum -c`.

PATH/tasks-20261123-0400.sqlite3.gz       complete and verified before it gets this name
     tasks-20261123-0400.manifest.json    published last: no manifest, no generation
     point-20261123-0400.point.json        index of a restore point, published after its parts
     SHA256SUMS
     .backupd/SENDER/….part               in transfer; each sender has its own directory
              removing/….manifest.json    generations that are being removed

Listings and contents from the other host are untrusted: files with other names are ignored.
"""

import io
import posixpath
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import BinaryIO, Concatenate, Final, ParamSpec, TypeVar

from paramiko import SFTPAttributes, SFTPClient, SSHException

from backupd.errors import GenerationMissing, ReplicaFailed, StoreUnusable
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
from backupd.stores.sftp import files
from backupd.stores.sftp.connection import SftpConnection, connection_errors
from backupd.stores.sftp.contents import SftpContents
from backupd.stores.sftp.protocol import SAFE_BLOCK_BYTES, stat_many
from backupd.stores.sftp.upload import VerifiedParts, compare, upload
from backupd.system.small_file import open_regular

_MAX_MANIFESTS_BYTES: Final = 64 << 20  # that are read at once
_BUFFER_BYTES: Final = 1 << 20
_PRIVATE_DIRECTORY: Final = 0o700

P = ParamSpec("P")
T = TypeVar("T")


def _limited(method: Callable[Concatenate["SftpStore", P], T]) -> Callable[Concatenate["SftpStore", P], T]:
    """Let a method that moves few bytes take as long as an operation may."""

    @wraps(method)
    def limited(self: "SftpStore", /, *arguments: P.args, **named: P.kwargs) -> T:
        with self._connection.operation():
            return method(self, *arguments, **named)

    return limited


class SftpStore:
    """Keeps generations in one directory of another host, see `stores.contract.Replica`; needs an open connection."""

    def __init__(
        self,
        name: str,
        directory: str,
        sender: Callable[[], str],
        connection: SftpConnection,
        verified: VerifiedParts | None = None,
    ) -> None:
        self.name = name
        self._directory, self._sender = directory.rstrip("/") or "/", sender
        self._connection = connection
        self._hidden = f"{self._directory}/{contract.HIDDEN}"
        self._removing = f"{self._hidden}/removing"
        self._verified = verified or VerifiedParts()
        self.last_transfer = contract.Transfer(0, 0)

    @cached_property
    def _parts(self) -> str:
        """The directory of files in transfer from this sender."""
        return f"{self._hidden}/{self._sender()}"

    @cached_property
    def contents(self) -> SftpContents:
        """The contents of files."""
        return SftpContents(self.name, self._directory, lambda: self._parts, self._connection, self._verified)

    @property
    def sent_bytes(self) -> int:
        """Bytes of archives sent so far, failed transfers included, over all connections that share `VerifiedParts`."""
        return self._verified.sent_bytes

    @property
    def _client(self) -> SFTPClient:
        return self._connection.client

    @_limited
    def has_hidden(self, path: str) -> bool:
        """Tell whether `path` exists in the hidden directory there, whatever it is. Raises OSError."""
        hidden, found = stat_many(self._client, (self._hidden, f"{self._hidden}/{path}"))
        if hidden is not None:
            files.refuse_link(self._hidden, hidden, self.name)
        return found is not None

    @_limited
    def prepare(self) -> None:
        """Make missing directories: of the path, only its last part. Raises BackupdError, OSError."""
        self._make_directories(self._parts, self._removing)

    @_limited
    def list(self) -> contract.Listing:
        """Return all complete generations, in order of their ids. Raises OSError."""
        archives: dict[tuple[str, Kind], int] = {}
        manifests: set[str] = set()
        for entry in filter(files.is_file, self._entries(self._directory)):
            if archive := contract.archive_in(entry.filename):
                archives[archive] = entry.st_size or 0
            elif entry.filename.endswith(MANIFEST_SUFFIX):
                manifests.add(entry.filename.removesuffix(MANIFEST_SUFFIX))
        return contract.listing(archives, manifests)

    @_limited
    def points(self) -> tuple[str, ...]:
        """Return the ids of all restore points, in order. Raises OSError."""
        names = (entry.filename for entry in self._entries(self._directory) if files.is_file(entry))
        ids = (name.removesuffix(POINT_SUFFIX) for name in names if name.endswith(POINT_SUFFIX))
        return tuple(sorted(filter(is_point_id, ids)))

    @_limited
    def point(self, point_id: str) -> bytes:
        """Return the bytes of an index, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""
        try:
            return files.read_small_file(self._client, self._index(point_id), MANIFEST_MAX_BYTES + 1)
        except FileNotFoundError as error:
            raise contract.point_missing(point_id, self.name) from error

    @_limited
    def publish_point(self, point_id: str, encoded: bytes) -> None:
        """Write an index, durably; one that is there already must have these bytes. Raises GenerationTaken, OSError."""
        final, staged = self._index(point_id), f"{self._parts}/{point_id}{POINT_SUFFIX}.part"
        files.write_small_file(self._client, staged, encoded)
        try:
            files.rename_exclusively(self._client, staged, final)
        except FileExistsError:
            self._client.remove(staged)
            contract.require_own_point(self, self.name, point_id, encoded)

    @_limited
    def remove_point(self, point_id: str) -> None:
        """Remove an index, durably; a missing one is accepted. Raises OSError."""
        with suppress(FileNotFoundError):
            self._client.remove(self._index(point_id))

    @_limited
    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""
        path = self._path(generation_id, MANIFEST_SUFFIX)
        with self._missing_errors(generation_id):
            return files.read_small_file(self._client, path, MANIFEST_MAX_BYTES + 1)

    def manifests(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its manifest; several are requested at once."""
        paths = [self._path(generation_id, MANIFEST_SUFFIX) for generation_id in ids]
        return self._read_many(ids, paths, contract.generation_missing)

    def indexes(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its index, as `point` does; several are requested at once."""
        return self._read_many(ids, [self._index(point_id) for point_id in ids], contract.point_missing)

    def _read_many(
        self, ids: Sequence[str], paths: Sequence[str], missing: Callable[[str, str], GenerationMissing]
    ) -> Iterator[Callable[[], bytes]]:
        readers = files.read_small_files(self._client, paths, MANIFEST_MAX_BYTES + 1)
        operation = self._connection.operation(min(len(ids) * SAFE_BLOCK_BYTES, _MAX_MANIFESTS_BYTES))
        read_bytes = 0

        def limited(key: str, read: Callable[[], bytes]) -> bytes:
            nonlocal read_bytes
            try:
                with operation:
                    found = read()
            except FileNotFoundError as error:
                raise missing(key, self.name) from error
            read_bytes += len(found)
            if read_bytes > _MAX_MANIFESTS_BYTES:
                what = f"the manifests at {self.name} are larger than {_MAX_MANIFESTS_BYTES >> 20} MiB in all"
                raise ReplicaFailed(what, "remove the files there that backupd did not send")
            return found

        for key in ids:
            with operation:
                read = next(readers)
            yield partial(limited, key, read)

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing, OSError."""
        paths = [self._path(generation_id, suffix) for suffix in SUFFIXES.values()]
        with (
            connection_errors(self.name),
            self._connection.operation(),
            self._missing_errors(generation_id),
            self._refusal_errors(generation_id),
        ):
            found = zip(paths, stat_many(self._client, paths), strict=True)
            path, attributes = next(((path, one) for path, one in found if one), (paths[0], None))
            if attributes is None or not files.is_file(attributes):
                raise FileNotFoundError(path)
            file = files.RemoteFile(self._client.open(path, "r"), begin, attributes.st_size or 0, self._connection)
            return io.BufferedReader(file, _BUFFER_BYTES)

    def publish(
        self,
        generation_id: str,
        archive: Path,
        manifest: bytes,
        kind: Kind = "database",
        replaces: bytes | None = None,
    ) -> None:
        """Send the verified `archive`, resuming an earlier transfer, and its manifest.

        Both are verified before they get their names. Raises CopyCorrupt, GenerationTaken when another sender has
        published that id, ReplicaUnreachable, OSError.
        """
        # What lies there is perhaps compared before, and what was sent afterwards.
        with self._connection.operation(3 * archive.stat().st_size):
            self._publish(generation_id, archive, manifest, kind, replaces)

    def _publish(self, generation_id: str, archive: Path, manifest: bytes, kind: Kind, replaces: bytes | None) -> None:
        final, part = self._path(generation_id, SUFFIXES[kind]), self._part(generation_id, kind)
        final_manifest = self._path(generation_id, MANIFEST_SUFFIX)
        old_manifest, old_archive = stat_many(self._client, (final_manifest, final))
        if old_manifest:
            contract.require_unchanged_manifest(self, generation_id, replaces, manifest)
        complete = None  # where a publication was interrupted just before its end
        if old_archive and files.is_file(old_archive) and old_archive.st_size == archive.stat().st_size:
            complete = self._verify_published(final, archive)
        self.last_transfer = complete or upload(archive, part, self._connection, self._verified)
        staged = f"{self._parts}/{generation_id}{MANIFEST_SUFFIX}.part"
        with files.partial_removed_on_error(self._client, part):
            files.write_small_file(self._client, staged, manifest)
        contract.require_unchanged_manifest(self, generation_id, replaces, manifest)
        try:
            if complete is None:
                (files.replace if old_archive else files.rename_exclusively)(self._client, part, final)
            (files.replace if old_manifest else files.rename_exclusively)(self._client, staged, final_manifest)
        except FileExistsError as error:  # another sender published at the same time
            raise contract.generation_taken(generation_id, self.name) from error

    @_limited
    def remove(self, generation_id: str) -> None:
        """Remove a generation: it is gone once its manifest is, and `recover` removes what is left of it."""
        if not is_generation_id(generation_id):
            return
        marker = f"{self._removing}/{generation_id}{MANIFEST_SUFFIX}"
        try:
            files.replace(self._client, self._path(generation_id, MANIFEST_SUFFIX), marker)
        except FileNotFoundError:
            return
        self._finish_removal(generation_id)

    def recover(self) -> Iterator[contract.RecoveredItem]:
        """Finish interrupted removals. Raises OSError."""
        operation = self._connection.operation()
        with operation:
            interrupted = self._ids_in(self._removing, MANIFEST_SUFFIX)
        for generation_id in interrupted:
            with operation:
                self._finish_removal(generation_id)
            yield contract.RecoveredItem("removal", generation_id)

    def sweep(self, keep: Collection[str]) -> Iterator[contract.RecoveredItem]:
        """Remove what this sender has in transfer, except the generations to `keep`. Raises OSError."""
        operation = self._connection.operation()
        for suffix in (f"{suffix}.part" for suffix in (*SUFFIXES.values(), MANIFEST_SUFFIX, POINT_SUFFIX)):
            with operation:
                in_transfer = self._ids_in(self._parts, suffix)
            for generation_id in in_transfer:
                if generation_id not in keep:
                    with operation:
                        self._client.remove(f"{self._parts}/{generation_id}{suffix}")
                    yield contract.RecoveredItem("staging", f"{generation_id}{suffix}")

    @_limited
    def partial_bytes(self, generation_id: str) -> int:
        """Return how many bytes an earlier transfer of a generation left."""
        parts = [self._part(generation_id, kind) for kind in SUFFIXES]
        return sum(found.st_size or 0 for found in stat_many(self._client, parts) if found)

    @_limited
    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Write `SHA256SUMS` with these archives, unless it has exactly this content."""
        text, path = contract.checksums_text(digests), f"{self._directory}/{contract.CHECKSUMS}"
        with suppress(OSError):
            if files.read_small_file(self._client, path, len(text) + 1) == text:
                return
        staged = f"{self._parts}/{contract.CHECKSUMS}.new"
        files.write_small_file(self._client, staged, text, mode=0o644)
        files.replace(self._client, staged, path)

    @_limited
    def free_space(self) -> int | None:
        """Return the free bytes, None when the server does not say."""
        return files.free_bytes(self._client, self._directory)

    @_limited
    def probe(self) -> contract.ProbeResult:
        """Write, read back, rename and delete a small file. Raises BackupdError, OSError."""
        self._make_directories()
        name, other = (f"{self._hidden}/probe-{secrets.token_hex(4)}" for _ in range(2))
        try:
            missing = files.write_small_file(self._client, name, contract.PROBE_DATA)
            files.write_small_file(self._client, other, contract.PROBE_DATA)
            try:
                self._client.posix_rename(name, other)
            except OSError:
                missing = (*missing, "posix-rename")
                files.replace(self._client, name, other)
            written_at = self._client.stat(other).st_mtime
            self._client.remove(other)
        except BaseException:
            for path in (name, other):
                with suppress(OSError, EOFError, SSHException):
                    self._client.remove(path)
            raise
        free = self.free_space()
        if free is None:
            missing = (*missing, "statvfs")
        return contract.ProbeResult(missing, written_at - time.time() if written_at else None, free)

    def _make_directories(self, *more: str) -> None:
        directories = (self._directory, self._hidden, *more)
        for directory, found in zip(directories, stat_many(self._client, directories), strict=True):
            if found is None:
                self._make_directory(directory)
            elif directory != self._directory:  # which may be a link; one below it could lead out of the store
                files.refuse_link(directory, found, self.name)

    def _make_directory(self, directory: str) -> None:
        """Make a private directory. Raises StoreUnusable when its parent is missing, OSError."""
        try:
            self._client.mkdir(directory, _PRIVATE_DIRECTORY)
        except FileNotFoundError as error:
            what = f"the directory {posixpath.dirname(directory)} does not exist on {self.name}"
            raise StoreUnusable(what, "make it there, or correct the path in url") from error
        except OSError as error:
            try:
                self._client.lstat(directory)  # another sender may have made it at the same time
            except FileNotFoundError:
                raise error from None

    def _verify_published(self, final: str, archive: Path) -> contract.Transfer | None:
        """Return the transfer of an archive that has its final name already, None when it differs from `archive`."""
        size_bytes = archive.stat().st_size
        with open(open_regular(archive), "rb", buffering=0) as source:
            equal, method = compare(source, final, self._connection, 0, size_bytes, self._verified)
        return contract.Transfer(0, size_bytes, method, self._verified.fallback_reason) if equal == size_bytes else None

    def _finish_removal(self, generation_id: str) -> None:
        try:
            self._client.lstat(self._path(generation_id, MANIFEST_SUFFIX))
        except FileNotFoundError:  # else the generation was published again
            for suffix in SUFFIXES.values():
                with suppress(FileNotFoundError):
                    self._client.remove(self._path(generation_id, suffix))
        with suppress(FileNotFoundError):
            self._client.remove(f"{self._removing}/{generation_id}{MANIFEST_SUFFIX}")

    def _part(self, generation_id: str, kind: Kind) -> str:
        return f"{self._parts}/{archive_name(generation_id, kind)}.part"

    def _index(self, point_id: str) -> str:
        contract.require_point_id(point_id)
        return f"{self._directory}/{point_id}{POINT_SUFFIX}"

    def _path(self, generation_id: str, suffix: str) -> str:
        contract.require_generation_id(generation_id)
        return f"{self._directory}/{generation_id}{suffix}"

    def _entries(self, directory: str) -> Iterator[SFTPAttributes]:
        """Yield the entries of a directory, none where it is missing."""
        with suppress(FileNotFoundError):
            yield from files.list_directory(self._client, directory)

    def _ids_in(self, directory: str, suffix: str) -> tuple[str, ...]:
        """Return the ids of the generations that have a file with this suffix in `directory`. Raises OSError."""
        names = (entry.filename for entry in self._entries(directory))
        ids = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return tuple(filter(is_generation_id, ids))

    @contextmanager
    def _missing_errors(self, generation_id: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise contract.generation_missing(generation_id, self.name) from error

    @contextmanager
    def _refusal_errors(self, generation_id: str) -> Iterator[None]:
        """Raise OSError where a generation that is listed is called missing: some servers say that for a refusal."""
        try:
            yield
        except FileNotFoundError as error:
            if any(stored.id == generation_id for stored in self.list()):
                raise OSError(f"{generation_id} is listed there, and its archive cannot be opened") from error
            raise
