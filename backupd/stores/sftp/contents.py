"""The contents of files on another host, each once: hundreds of small ones are in flight, in both directions."""

import io
import posixpath
import stat
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from typing import BinaryIO, Final, NamedTuple

from paramiko import SFTPClient, sftp

from backupd.archive.archive import MEMBER_BYTES
from backupd.archive.content import unpacked
from backupd.archive.gzip_member import read_member, unpack_member
from backupd.errors import BackupdError, CopyCorrupt, NoSpace
from backupd.formatting import human_bytes
from backupd.model import LOCAL_STORE
from backupd.stores import contract
from backupd.stores.sftp import files
from backupd.stores.sftp.batch import Entry
from backupd.stores.sftp.connection import CHANNELS, SftpConnection, connection_errors
from backupd.stores.sftp.many_files import list_directories, read_files, request_each
from backupd.stores.sftp.protocol import stat_many
from backupd.stores.sftp.small_uploads import SMALL_BYTES, SmallFile, SmallUploads
from backupd.stores.sftp.upload import VerifiedParts, upload_open

_MAX_NAMES: Final = 500_000  # below `files`, whatever they are
_NAME_BYTES: Final = 67  # of a content
_LISTED_AT_ONCE: Final = 64  # directories
_READ_AT_ONCE: Final = 256  # small files
_READ_BYTES: Final = 8 << 20  # of small files at once
_FILES_OF_CHANNEL: Final = 32  # for which another channel is worth its opening
_BYTES_OF_NAME: Final = 20  # of which an operation moves as many as it takes time for a name, or for a file
_BYTES_OF_FILE: Final = 4 << 10
_BUFFER_BYTES: Final = 1 << 20
_PRIVATE: Final = struct.pack(">II", 4, 0o700)  # attributes: only a mode
_PART: Final = ".part"
_UNKNOWN: Final = -1
_PACKED: Final = ".gz"


class _Listed(NamedTuple):
    name: str
    size_bytes: int
    modified_at: float


class SftpContents:
    """The contents below a directory on another host, see `contract.ReplicaContents`; needs an open connection."""

    def __init__(
        self, store: str, directory: str, parts: Callable[[], str], connection: SftpConnection, verified: VerifiedParts
    ) -> None:
        self._store, self._root, self._parts = store, f"{directory}/{contract.CONTENTS}", parts
        self._connection, self._verified = connection, verified
        self._begun_at = 0

    def list(self) -> Iterator[contract.ListedContent]:
        """Yield all contents, in no order; whatever else lies there is skipped. Raises ReplicaFailed, OSError."""
        for listed in self._listed():
            digest = contract.content_digest(listed.name)
            if digest is not None:
                yield contract.ListedContent(digest, listed.size_bytes, listed.modified_at)

    def sizes(self) -> Mapping[bytes, int]:
        """Return the stored bytes of each, by its raw digest, from listings: none is read. Raises OSError."""
        return {content.digest: content.stored_bytes for content in self.list()}

    def open(self, digest: str) -> BinaryIO:
        """Open a content for reading, unpacked, and not yet compared with its digest; see `contract.Contents`."""
        names = contract.content_names(digest) if contract.is_digest(digest) else ()
        paths = [self._path(name) for name in names]
        with connection_errors(self._store), self._connection.operation():
            for name, path, found in zip(names, paths, stat_many(self._client, paths), strict=True):
                if found and files.is_file(found):
                    remote = self._client.open(path, "r")
                    file = files.RemoteFile(remote, 0, found.st_size or 0, self._connection)
                    stored = io.BufferedReader(file, _BUFFER_BYTES)
                    return stored if name == digest else unpacked(stored)
        raise contract.content_missing(digest, self._store)

    def opened(self, digests: Iterable[str]) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
        """Yield each with what opens it as `open` does, to be called before the next; small ones are read at once."""
        with connection_errors(self._store):
            yield from self._opened(digests)

    def _opened(self, digests: Iterable[str]) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
        there = {listed.name.removesuffix(_PACKED): listed for listed in self._listed()}
        waiting: list[_Listed] = []
        for digest in digests:
            listed = there.get(digest)
            if listed is None or listed.size_bytes > SMALL_BYTES:
                yield digest, partial(self.open, digest)
                continue
            waiting.append(listed)
            at_once = min(_READ_AT_ONCE, self._connection.open_files)
            if len(waiting) == at_once or sum(one.size_bytes for one in waiting) > _READ_BYTES:
                yield from self._read(waiting)
                waiting = []
        yield from self._read(waiting)

    def remove(self, digests: Collection[str]) -> None:
        """Remove what no list names any more; missing ones are accepted. Raises OSError."""
        paths = [self._path(name) for digest in digests for name in contract.content_names(digest)]
        with self._connection.operation(len(paths) * _BYTES_OF_FILE):
            request_each(self._connection, sftp.CMD_REMOVE, "remove", paths)

    def publish(
        self, digests: Iterable[str], local: contract.SendableContents, damaged: Collection[str] = ()
    ) -> contract.Transfer:
        """Send what is not there in the size that it has here; see `contract.ReplicaContents`.

        What is missing or damaged here is raised at the end. Raises WriteRefused for lack of space.
        """
        sizes, replaced = self._lacking(digests, local, frozenset(map(bytes.fromhex, damaged)))
        before, sound = self._verified.sent_bytes, _Sound(local)
        self._begun_at, needed = before, sum(sizes.values())
        with self._connection.operation(2 * needed + len(sizes) * _BYTES_OF_FILE):
            self._require_room(needed)
            large = [digest for digest in sizes if sizes[digest] > SMALL_BYTES]
            self._clear_parts(large)
            self._make_directories(sorted({digest[:2] for digest in sizes}))
            doubtful = self._send_small(sound.read(digest for digest in sizes if sizes[digest] <= SMALL_BYTES))
            resumed_bytes = sum(self._send_large(*stored) for stored in sound.opened([*doubtful, *large]))
            self._remove_others(replaced, sound.names)
        if sound.error is not None:
            raise sound.error
        sent_bytes = self._verified.sent_bytes - before
        return contract.Transfer(sent_bytes, resumed_bytes, contents=len(sizes))

    def _lacking(
        self, digests: Iterable[str], local: contract.SendableContents, damaged: Collection[bytes]
    ) -> tuple[dict[str, int], AbstractSet[str]]:
        """Return the sizes here of what is not there, or `damaged`, in order; and what is there, but not so.

        What is not here has none, and may be there in any.
        """
        replaced = set[bytes]()
        found = dict.fromkeys(map(bytes.fromhex, digests), _UNKNOWN)
        for content in local.list():
            if content.digest in found:
                found[content.digest] = content.stored_bytes
        for content in self.list():
            if content.digest not in damaged and found.get(content.digest) in (content.stored_bytes, _UNKNOWN):
                del found[content.digest]
            elif content.digest in found:
                replaced.add(content.digest)
        sizes = {digest.hex(): max(0, found[digest]) for digest in sorted(found)}
        return sizes, {digest.hex() for digest in replaced & found.keys()}

    def _remove_others(self, replaced: AbstractSet[str], sent: AbstractSet[str]) -> None:
        """Remove what would be read instead of what was `sent`: the same content packed, or as it is."""
        pairs = [contract.content_names(digest) for digest in replaced]
        others = [name for pair in pairs if not sent.isdisjoint(pair) for name in pair if name not in sent]
        request_each(self._connection, sftp.CMD_REMOVE, "remove", list(map(self._path, others)), tolerated=OSError)

    def _require_room(self, needed: int) -> None:
        free = files.free_bytes(self._client, posixpath.dirname(self._root)) if needed else None
        if free is not None and free < needed:
            what = (
                f"the contents of files need {human_bytes(needed)} at {self._store}, where {human_bytes(free)} are free"
            )
            raise NoSpace(what, "free space there")

    def _send_small(self, stored: Iterable[tuple[str, bytes]]) -> Sequence[str]:
        """Send small files by name; returns the digests of those that `_send_large` has to look after."""
        stored = iter(stored)
        first = tuple(islice(stored, _FILES_OF_CHANNEL))
        self._connection.open_channels(CHANNELS if len(first) == _FILES_OF_CHANNEL else 1, near=True)
        uploads = SmallUploads(self._connection, self._connection.channels(CHANNELS), self._count)
        files_ = (SmallFile(name, self._part(name), self._path(name), data) for name, data in chain(first, stored))
        uploads.send(files_)
        if uploads.error is not None:
            request_each(self._connection, sftp.CMD_REMOVE, "remove", [self._part(name) for name in uploads.failed])
            raise uploads.error
        return [name.removesuffix(_PACKED) for name in uploads.doubtful]

    def _send_large(self, name: str, source: BinaryIO) -> int:
        """Send a file by itself, resuming what came earlier; returns the bytes that had come."""
        with source:
            transfer = upload_open(source, self._part(name), self._connection, self._verified)
        files.replace(self._client, self._part(name), self._path(name))
        return transfer.resumed_bytes

    def _clear_parts(self, large: Sequence[str]) -> None:
        """Remove what earlier transfers left, except of `large` ones, which are resumed."""
        kept = {f"{name}{_PART}" for digest in large for name in contract.content_names(digest)}
        found = {entry.filename for entry in files.list_directory(self._client, self._parts())}
        left = [name for name in found - kept if contract.content_digest(name.removesuffix(_PART))]
        paths = [f"{self._parts()}/{name}" for name in left]
        request_each(self._connection, sftp.CMD_REMOVE, "remove", paths)

    def _make_directories(self, prefixes: Sequence[str]) -> None:
        """Make the directories of contents that begin so, where they are missing. Raises StoreUnusable, OSError."""
        paths = [self._root, *(f"{self._root}/{prefix}" for prefix in prefixes)] if prefixes else []
        for tolerated in (OSError, FileNotFoundError):  # another sender may make some at the same time
            found = dict(zip(paths, stat_many(self._client, paths), strict=True))
            for path, attributes in found.items():
                if attributes is not None:
                    files.refuse_link(path, attributes, self._store)
            missing = [path for path in paths if found[path] is None]
            request_each(self._connection, sftp.CMD_MKDIR, "make the directory", missing, _PRIVATE, tolerated)

    def _listed(self) -> Iterator[_Listed]:
        operation = self._connection.operation(_MAX_NAMES * _BYTES_OF_NAME)
        with operation:
            (root,) = stat_many(self._client, [self._root])
            if root is None:
                return
            files.refuse_link(self._root, root, self._store)
            found = files.list_directory(self._client, self._root)
            prefixes = sorted(entry.filename for entry in found if _is_directory(entry.st_mode))
        prefixes = [prefix for prefix in prefixes if contract.content_digest(prefix * 32)]  # two hex digits
        left, at_once = _MAX_NAMES, min(_LISTED_AT_ONCE, self._connection.open_files)
        for begin in range(0, len(prefixes), at_once):
            some = prefixes[begin : begin + at_once]
            with operation:
                paths = [f"{self._root}/{prefix}" for prefix in some]
                listed, count = list_directories(self._connection, paths, _content_in, left)
            left -= count
            for prefix, contents in zip(some, listed, strict=True):
                yield from (content for content in contents if content.name.startswith(prefix))

    def _read(self, listed: Sequence[_Listed]) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
        sizes = {self._path(one.name): one.size_bytes for one in listed}
        with self._connection.operation(sum(sizes.values()) + len(sizes) * _BYTES_OF_FILE):
            found = read_files(self._connection, sizes)
        for one in listed:
            digest, stored = one.name.removesuffix(_PACKED), found.get(self._path(one.name))
            yield digest, partial(self.open, digest) if stored is None else partial(_opened, one.name, stored)

    @property
    def _client(self) -> SFTPClient:
        return self._connection.client

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    def _part(self, name: str) -> str:
        return f"{self._parts()}/{name}{_PART}"

    def _count(self, sent_bytes: int) -> None:
        self._verified.sent_bytes += sent_bytes
        self._verified.progress.advance(self._verified.sent_bytes - self._begun_at)


class _Sound:
    """What is stored here, in the order asked for, except what is missing or damaged: `error` is the first of that.

    `names` are those of all that was yielded.
    """

    def __init__(self, local: contract.SendableContents) -> None:
        self._local = local
        self.names = set[str]()
        self.error: BackupdError | None = None

    def read(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield names and contents of small files."""
        for digest in digests:
            with self._noting(digest):
                name, stored = self._local.open_stored(digest)
                with stored:
                    data = stored.read(SMALL_BYTES + 1)
                _require_sound(name, data)
                self.names.add(name)
                yield name, data

    def opened(self, digests: Iterable[str]) -> Iterator[tuple[str, BinaryIO]]:
        """Yield names and files."""
        for digest in digests:
            with self._noting(digest):
                self._local.require_sound(digest)
                name, stored = self._local.open_stored(digest)
                self.names.add(name)
                yield name, stored

    @contextmanager
    def _noting(self, digest: str) -> Iterator[None]:
        try:
            yield
        except BackupdError as error:
            self.error = self.error or error
        except OSError as error:
            self.error = self.error or contract.content_missing(
                digest, LOCAL_STORE, f"cannot be read ({error.strerror})"
            )


def _require_sound(name: str, stored: bytes) -> None:
    """Raise CopyCorrupt where a stored file does not hold what its name says."""
    digest, plain, packed = name.removesuffix(_PACKED), sha256(), io.BytesIO(stored)
    if name == digest:
        plain.update(stored)
    else:
        while member := read_member(packed, MEMBER_BYTES):
            plain.update(unpack_member(member, MEMBER_BYTES))
    if plain.hexdigest() != digest:
        raise CopyCorrupt(f"the content {digest!r} of a file in store {LOCAL_STORE} is damaged", contract.CONTENT_HINT)


def _opened(name: str, stored: bytes) -> BinaryIO:
    file = io.BytesIO(stored)
    return unpacked(file) if name.endswith(_PACKED) else file


def _content_in(entry: Entry) -> _Listed | None:
    name = entry.name.decode(errors="replace") if len(entry.name) <= _NAME_BYTES else ""
    is_file = stat.S_IFMT(entry.mode or 0) in (0, stat.S_IFREG)
    if is_file and contract.content_digest(name):
        return _Listed(name, entry.size_bytes or 0, float(entry.mtime_s or 0))
    return None


def _is_directory(mode: int | None) -> bool:
    return mode is None or stat.S_IFMT(mode) in (0, stat.S_IFDIR)
