"""A store on another host, over SFTP: plain files that its admin can check with `sha256sum -c`.

PATH/tasks-20261123-0400.sqlite3.gz       complete and read back before it bears this name
     tasks-20261123-0400.manifest.json    put in place last: no manifest, no generation
     SHA256SUMS
     .backupd/SENDER/….part               on their way; each sender has a directory of its own
              removing/….manifest.json    generations that are on their way out

What the other host lists and sends is a stranger's word: names that are none of ours are passed over.
"""

import io
import posixpath
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from paramiko import SFTPAttributes, SFTPClient, SSHException

from backupd.errors import GenerationMissing, StoreUnusable
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_MAX_BYTES, MANIFEST_SUFFIX, is_generation_id
from backupd.stores.contract import (
    ListedGeneration,
    Listing,
    ProbeResult,
    RecoveredItem,
    Transfer,
    find_manifest,
    require_unchanged_manifest,
    taken,
)
from backupd.stores.sftp.connection import SftpConnection
from backupd.stores.sftp.files import (
    RemoteFile,
    claim,
    entries,
    is_file,
    put_small,
    read_many,
    read_small,
    replace,
    space_left,
)
from backupd.stores.sftp.protocol import looked_up
from backupd.stores.sftp.upload import VerifiedParts, compare, partial_removed_on_error, upload

CHECKSUMS: Final = "SHA256SUMS"
HIDDEN: Final = ".backupd"
_MOST_ENTRIES: Final = 200_000
_BUFFER_BYTES: Final = 1 << 20
_PROBE: Final = b"written, renamed and deleted by backupd doctor"
_PRIVATE_DIRECTORY: Final = 0o700


class SftpStore:
    """Keeps generations in one directory of another host; see `stores.contract.Store`. Lives as long as its link."""

    def __init__(
        self,
        name: str,
        directory: str,
        sender: Callable[[], str],
        link: SftpConnection,
        proven: VerifiedParts | None = None,
    ) -> None:
        self.name = name
        self._directory, self._sender, self._link = directory.rstrip("/") or "/", sender, link
        self._removing = f"{self._directory}/{HIDDEN}/removing"
        self._proven = proven or VerifiedParts()
        self.last_transfer = Transfer(0, 0)

    @cached_property
    def _parts(self) -> str:
        """Where what we send is on its way: apart from what others send there."""
        return f"{self._directory}/{HIDDEN}/{self._sender()}"

    @property
    def sent_bytes(self) -> int:
        """How many bytes of archives were sent so far, also in vain, over all links that share what is proven."""
        return self._proven.sent_bytes

    @property
    def _client(self) -> SFTPClient:
        return self._link.client

    def prepare(self) -> None:
        """Make the directories that are missing: of the path, only its last part. Raises OSError."""
        self._make_all(self._parts, self._removing)

    def list(self) -> Listing:
        """Return all complete generations, in order of their ids. Raises OSError."""
        sizes, manifests = self._files()
        return tuple(ListedGeneration(key, sizes[key]) for key in sorted(sizes) if key in manifests)

    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, cut off just past MANIFEST_MAX_BYTES. Raises GenerationMissing."""
        path = self._path(generation_id, MANIFEST_SUFFIX)
        with _missing(generation_id, self.name):
            return read_small(self._client, path, MANIFEST_MAX_BYTES + 1)

    def manifests(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` what returns its manifest, as `manifest` does; many are asked for at once."""
        paths = [self._path(generation_id, MANIFEST_SUFFIX) for generation_id in ids]
        for generation_id, read in zip(ids, read_many(self._client, paths, MANIFEST_MAX_BYTES + 1), strict=True):
            yield _missing(generation_id, self.name)(read)

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""
        path = self._path(generation_id, ARCHIVE_SUFFIX)
        with _missing(generation_id, self.name):
            size_bytes = self._require_file(path).st_size or 0
            remote = RemoteFile(self._client.open(path, "r"), begin, size_bytes, self._link)
            return io.BufferedReader(remote, _BUFFER_BYTES)

    def publish(self, generation_id: str, archive: Path, manifest: bytes) -> None:
        """Send the proven `archive`, of which a part may be there from an earlier try, and its manifest.

        Both are proven before they get their names. Raises CopyCorrupt, GenerationTaken when another sender has
        published that id meanwhile, ReplicaUnreachable, OSError.
        """
        final, part = self._path(generation_id, ARCHIVE_SUFFIX), self._part(generation_id)
        manifest_known, archive_known = looked_up(self._client, (self._path(generation_id, MANIFEST_SUFFIX), final))
        before = find_manifest(self, generation_id) if manifest_known else None
        size_there = archive_known.st_size if archive_known and is_file(archive_known) else None
        there = self._holding(final, archive) if size_there == archive.stat().st_size else None
        self.last_transfer = there or upload(archive, part, self._link, self._proven)
        staged = f"{self._parts}/{generation_id}{MANIFEST_SUFFIX}.part"
        with partial_removed_on_error(self._client, part):
            put_small(self._client, staged, manifest)
        require_unchanged_manifest(self, generation_id, before, manifest)
        with _claimed_once(generation_id, self.name):
            if there is None:
                (replace if archive_known else claim)(self._client, part, final)
            (replace if manifest_known else claim)(self._client, staged, self._path(generation_id, MANIFEST_SUFFIX))

    def remove(self, generation_id: str) -> None:
        """Remove a generation: once its manifest is away it is absent, and `recover` finishes what is left to do."""
        if not is_generation_id(generation_id):
            return
        marker = f"{self._removing}/{generation_id}{MANIFEST_SUFFIX}"
        try:
            replace(self._client, self._path(generation_id, MANIFEST_SUFFIX), marker)
        except FileNotFoundError:
            return
        self._finish_removal(generation_id)

    def recover(self) -> Iterator[RecoveredItem]:
        """Finish removals that were cut short. Raises OSError."""
        for key in self._ids_in(self._removing, MANIFEST_SUFFIX):
            self._finish_removal(key)
            yield RecoveredItem("removal", key)

    def sweep(self, wanted: Collection[str]) -> Iterator[RecoveredItem]:
        """Remove what is on its way from us, but not of the `wanted` generations. Raises OSError."""
        for suffix in (f"{ARCHIVE_SUFFIX}.part", f"{MANIFEST_SUFFIX}.part"):
            for key in self._ids_in(self._parts, suffix):
                if key not in wanted:
                    self._client.remove(f"{self._parts}/{key}{suffix}")
                    yield RecoveredItem("staging", f"{key}{suffix}")

    def partial_bytes(self, generation_id: str) -> int:
        """Return how many bytes of a generation lie there from an earlier try."""
        with suppress(OSError):
            return self._client.lstat(self._part(generation_id)).st_size or 0
        return 0

    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Let `SHA256SUMS` list just these archives; a file that says so already is left alone."""
        text = "".join(f"{digests[key]}  {key}{ARCHIVE_SUFFIX}\n" for key in sorted(digests)).encode()
        path = f"{self._directory}/{CHECKSUMS}"
        with suppress(OSError):
            if read_small(self._client, path, len(text) + 1) == text:
                return
        staged = f"{self._parts}/{CHECKSUMS}.new"
        put_small(self._client, staged, text, mode=0o644)
        replace(self._client, staged, path)

    def free_space(self) -> int | None:
        """Return the bytes that are free there, None when the server cannot tell."""
        return space_left(self._client, self._directory)

    def probe(self) -> ProbeResult:
        """Write, read back, rename and delete a small file there. Raises BackupdError, OSError."""
        self._make_all()
        name, other = (f"{self._directory}/{HIDDEN}/probe-{secrets.token_hex(4)}" for _ in range(2))
        try:
            lacks = put_small(self._client, name, _PROBE)
            put_small(self._client, other, _PROBE)
            try:
                self._client.posix_rename(name, other)
            except OSError:
                lacks = (*lacks, "posix-rename")
                replace(self._client, name, other)
            written_at = self._client.stat(other).st_mtime
            self._client.remove(other)
        except BaseException:
            for path in (name, other):
                with suppress(OSError, EOFError, SSHException):
                    self._client.remove(path)
            raise
        free = self.free_space()
        if free is None:
            lacks = (*lacks, "statvfs")
        return ProbeResult(lacks, written_at - time.time() if written_at else None, free)

    def _make_all(self, *more: str) -> None:
        directories = (self._directory, f"{self._directory}/{HIDDEN}", *more)
        for directory, found in zip(directories, looked_up(self._client, directories), strict=True):
            if found is None:
                self._make(directory)
            elif stat.S_ISLNK(found.st_mode or 0) and directory != self._directory:
                # the operator's own may be a link, ours may not: it could lead outside
                what = f"{directory} on {self.name} is a symbolic link, which may lead out of it"
                raise StoreUnusable(what, "remove it")

    def _make(self, directory: str) -> None:
        """Make a directory for us alone. Raises StoreUnusable when that which it would be in is missing, OSError."""
        try:
            self._client.mkdir(directory, _PRIVATE_DIRECTORY)
        except FileNotFoundError as error:
            what = f"there is no directory {posixpath.dirname(directory)} on {self.name}"
            raise StoreUnusable(what, "make it there, or correct the path in url") from error
        except OSError as error:
            try:
                self._client.lstat(directory)  # another sender may have made it in the same moment
            except FileNotFoundError:
                raise error from None

    def _holding(self, final: str, archive: Path) -> Transfer | None:
        """Return what it costs if the archive there is right: a publication was cut off just before its end."""
        size_bytes = archive.stat().st_size
        with archive.open("rb", buffering=0) as source:
            equal, verified_by = compare(source, final, self._link, 0, size_bytes, self._proven)
        return Transfer(0, size_bytes, verified_by, self._proven.doubt) if equal == size_bytes else None

    def _finish_removal(self, generation_id: str) -> None:
        try:
            self._client.lstat(self._path(generation_id, MANIFEST_SUFFIX))
        except FileNotFoundError:  # else somebody has put the generation back meanwhile
            with suppress(FileNotFoundError):
                self._client.remove(self._path(generation_id, ARCHIVE_SUFFIX))
        with suppress(FileNotFoundError):
            self._client.remove(f"{self._removing}/{generation_id}{MANIFEST_SUFFIX}")

    def _part(self, generation_id: str) -> str:
        return f"{self._parts}/{generation_id}{ARCHIVE_SUFFIX}.part"

    def _ids_in(self, directory: str, suffix: str) -> tuple[str, ...]:
        """Return the ids of the files in a directory of ours whose names end so."""
        names = [entry.filename for entry in islice(entries(self._client, directory), _MOST_ENTRIES)]
        keys = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return tuple(key for key in keys if is_generation_id(key))

    def _path(self, generation_id: str, suffix: str) -> str:
        if not is_generation_id(generation_id):
            raise GenerationMissing(f"{generation_id[:120]!r} is no generation's id", "see backupd list")
        return f"{self._directory}/{generation_id}{suffix}"

    def _require_file(self, path: str) -> SFTPAttributes:
        """Return what is known of `path`, itself and not what it links to. Raises FileNotFoundError if no file."""
        attributes = self._client.lstat(path)
        if not is_file(attributes):
            raise FileNotFoundError(path)
        return attributes

    def _entries(self) -> Iterator[SFTPAttributes]:
        with suppress(FileNotFoundError):  # nothing was ever sent there
            yield from entries(self._client, self._directory)

    def _files(self) -> tuple[dict[str, int], set[str]]:
        sizes: dict[str, int] = {}
        manifests: set[str] = set()
        for entry in islice(self._entries(), _MOST_ENTRIES):
            for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
                key = entry.filename.removesuffix(suffix)
                if key == entry.filename or not is_generation_id(key) or not is_file(entry):
                    continue
                if suffix == MANIFEST_SUFFIX:
                    manifests.add(key)
                else:
                    sizes[key] = entry.st_size or 0
        return sizes, manifests


@contextmanager
def _claimed_once(generation_id: str, store: str) -> Iterator[None]:
    """Raise GenerationTaken when another sender gave its own files the names in the same moment."""
    try:
        yield
    except FileExistsError as error:
        raise taken(generation_id, store) from error


@contextmanager
def _missing(generation_id: str, store: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise GenerationMissing(f"no generation {generation_id} in store {store}", "see backupd list") from error
