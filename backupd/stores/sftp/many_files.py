"""Requests for many remote files and directories at once: list, read, make, remove."""

import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Generic, TypeVar

from paramiko import sftp

from backupd.errors import ReplicaFailed
from backupd.stores.sftp.batch import (
    Entry,
    RequestBatch,
    data_in,
    entries_in,
    finish,
    handle_in,
    is_end,
    require_ok,
    text,
    unexpected,
)
from backupd.stores.sftp.connection import SftpConnection
from backupd.stores.sftp.paramiko_internals import ProtocolViolated

T = TypeVar("T")

_AT_ONCE: Final = 4096  # requests without a handle
_OPEN: Final = struct.pack(">II", sftp.SFTP_FLAG_READ, 0)  # and no attributes
_RANGE: Final = struct.Struct(">QI")


def request_each(
    connection: SftpConnection,
    kind: int,
    operation: str,
    paths: Sequence[str],
    tail: bytes = b"",
    tolerated: type[OSError] = FileNotFoundError,
) -> None:
    """Send a request for each path, and go on after errors. Raises the first one that is not `tolerated`, OSError."""
    errors: list[OSError] = []

    def answered(path: str, kind: int, body: bytes) -> None:
        try:
            require_ok(kind, body, f"{operation} {path}")
        except tolerated:
            pass
        except OSError as error:
            errors.append(error)

    for begin in range(0, len(paths), _AT_ONCE):
        batch = RequestBatch(connection.client)
        for path in paths[begin : begin + _AT_ONCE]:
            batch.send(kind, text(path.encode()) + tail, partial(answered, path))
        finish((batch,), connection.watchdog)
    if errors:
        raise errors[0]


def list_directories(
    connection: SftpConnection, paths: Sequence[str], accept: Callable[[Entry], T | None], most: int
) -> tuple[list[list[T]], int]:
    """Return what `accept` makes of the entries of each directory, none where it is missing; all are open at once.

    The number is that of all entries, accepted or not. Raises ReplicaFailed for more than `most` of them, OSError.
    """
    listing = _Listing(RequestBatch(connection.client), paths, accept, most)
    finish((listing.batch,), connection.watchdog)
    if listing.error is not None:
        raise listing.error
    return listing.accepted, most - listing.left


class _Listing(Generic[T]):
    """Directories that are being listed."""

    def __init__(
        self, batch: RequestBatch, paths: Sequence[str], accept: Callable[[Entry], T | None], most: int
    ) -> None:
        self.batch, self._accept, self.left = batch, accept, most
        self.accepted: list[list[T]] = [[] for _path in paths]
        self.error: OSError | None = None
        for path, accepted in zip(paths, self.accepted, strict=True):
            batch.send(sftp.CMD_OPENDIR, text(path.encode()), partial(self._opened, path, accepted))

    def _opened(self, path: str, accepted: list[T], kind: int, body: bytes) -> None:
        try:
            handle = handle_in(kind, body, f"list {path}")
        except FileNotFoundError:
            return
        except OSError as error:
            self.error = error
        else:
            self.batch.send(sftp.CMD_READDIR, handle, partial(self._read, path, accepted, handle))

    def _read(self, path: str, accepted: list[T], handle: bytes, kind: int, body: bytes) -> None:
        if kind != sftp.CMD_NAME:
            try:
                if not is_end(kind, body):
                    require_ok(kind, body, f"list {path}")
                    raise unexpected(kind, f"list {path}")
            except OSError as error:
                self.error = error
            self.batch.send(sftp.CMD_CLOSE, handle, _ignore)
            return
        before = self.left
        for entry in entries_in(body):
            self.left -= 1
            if (found := self._accept(entry)) is not None:
                accepted.append(found)
        if self.left == before:
            raise ProtocolViolated(f"its listing of {path} has no end")
        if self.left < 0:
            raise ReplicaFailed(f"{path} has too many entries", "remove the files there that backupd did not send")
        self.batch.send(sftp.CMD_READDIR, handle, partial(self._read, path, accepted, handle))


def read_files(connection: SftpConnection, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return what is in small files, by their paths, of which the sizes are known; all are open at once.

    What cannot be read, or ends early, is missing: read it by itself, which says why.
    """
    batch, found = RequestBatch(connection.client), dict[str, bytes]()
    for path, size_bytes in sizes.items():
        _Reading(batch, path, size_bytes, connection.block_bytes, found)
    finish((batch,), connection.watchdog)
    return found


class _Reading:
    """A small file that is being read."""

    def __init__(
        self, batch: RequestBatch, path: str, size_bytes: int, block_bytes: int, found: dict[str, bytes]
    ) -> None:
        self._batch, self._path, self._size_bytes, self._found = batch, path, size_bytes, found
        self._block_bytes, self._pieces = block_bytes, dict[int, bytes]()
        batch.send(sftp.CMD_OPEN, text(path.encode()) + _OPEN, self._opened)

    def _opened(self, kind: int, body: bytes) -> None:
        with suppress(OSError):
            handle = handle_in(kind, body, f"open {self._path}")
            for offset in range(0, self._size_bytes, self._block_bytes):
                wanted = min(self._block_bytes, self._size_bytes - offset)
                self._batch.send(
                    sftp.CMD_READ, handle + _RANGE.pack(offset, wanted), partial(self._read, offset, wanted)
                )
            self._batch.send(sftp.CMD_CLOSE, handle, self._closed)

    def _read(self, offset: int, wanted: int, kind: int, body: bytes) -> None:
        with suppress(OSError):
            self._pieces[offset] = data_in(kind, body, wanted, f"read {self._path}")

    def _closed(self, _kind: int, _body: bytes) -> None:
        data = b"".join(self._pieces[offset] for offset in sorted(self._pieces))
        if len(data) == self._size_bytes:
            self._found[self._path] = data


def _ignore(_kind: int, _body: bytes) -> None:
    """Take the answer to a close: what was read is complete."""
