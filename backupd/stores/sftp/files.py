"""Remote files and directories: read, list, make durable and replace, with fallbacks for what a server lacks."""

import io
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from paramiko import SFTPAttributes, SFTPClient, SFTPFile, SSHException, sftp

from backupd.errors import CopyCorrupt, ReplicaFailed, StoreUnusable
from backupd.stores.sftp.connection import SftpConnection, connection_errors
from backupd.stores.sftp.paramiko_internals import EndReached, read_attributes, read_count
from backupd.stores.sftp.protocol import (
    SAFE_BLOCK_BYTES,
    SAFE_OPEN_FILES,
    PipelinedReader,
    RequestPipeline,
    WriteRefused,
    attributes_with,
    extended_request,
    write_errors,
)

PRIVATE_MODE: Final = 0o600
_MAX_ENTRIES: Final = 200_000  # in a directory
_STATVFS_BYTES: Final = 11 * 8
_MIN_ENTRY_BYTES: Final = 12  # of two empty names and no attributes


class _SmallFile:
    """A file that is read in steps; each step is requested for many files before the first response is awaited."""

    def __init__(self, client: SFTPClient, path: str, limit_bytes: int) -> None:
        self._client, self._path, self._limit_bytes = client, path, limit_bytes
        self._pipeline = RequestPipeline(client)
        self._request = self._pipeline.send(sftp.CMD_LSTAT, path)
        self._error: OSError | None = None

    def open(self) -> None:
        """Request to open it, once it is known to be a regular file."""
        try:
            with connection_errors("the replica"):  # a broken connection is no property of this file
                found = self._pipeline.wait_attributes(self._request)
            if not is_file(found):
                raise FileNotFoundError(self._path)
        except OSError as error:
            self._error = error
        else:
            self._size_bytes = found.st_size
            self._request = self._pipeline.send(sftp.CMD_OPEN, self._path, sftp.SFTP_FLAG_READ, attributes_with(None))

    def request(self) -> None:
        """Request its first block, once it is open."""
        if self._error is None:
            try:
                with connection_errors("the replica"):
                    self._handle = self._pipeline.wait_handle(self._request)
            except OSError as error:
                self._error = error
            else:
                self._reader = PipelinedReader(self._client, self._handle, SAFE_BLOCK_BYTES)
                self._reader.request(min(self._limit_bytes, SAFE_BLOCK_BYTES))

    def read(self) -> bytes:
        """Return its contents and close it. Raises ReplicaUnreachable, OSError."""
        if self._error:
            raise self._error
        try:
            with connection_errors("the replica"):
                return self._reader.read_prefix(self._limit_bytes, self._size_bytes)
        finally:
            with suppress(OSError, EOFError, SSHException):
                self._pipeline.send(sftp.CMD_CLOSE, self._handle)  # its response is not awaited


def read_small_files(client: SFTPClient, paths: Sequence[str], limit_bytes: int) -> Iterator[Callable[[], bytes]]:
    """Yield for each of `paths` a function that reads it as `read_small_file` does; call it before the next."""
    for first in range(0, len(paths), SAFE_OPEN_FILES):
        files = [_SmallFile(client, path, limit_bytes) for path in paths[first : first + SAFE_OPEN_FILES]]
        for file in files:
            file.open()
        for file in files:
            file.request()
        for file in files:
            yield file.read


def read_small_file(client: SFTPClient, path: str, limit_bytes: int) -> bytes:
    """Return the contents of the file `path`, at most `limit_bytes`.

    Raises FileNotFoundError also for a link and for what is not a regular file (opening a FIFO would block), OSError.
    """
    (read,) = read_small_files(client, (path,), limit_bytes)
    return read()


class RemoteFile(io.RawIOBase):
    """A remote file as a readable stream, from byte `begin` to its end; wrap it in io.BufferedReader."""

    def __init__(self, file: SFTPFile, begin: int, size_bytes: int, connection: SftpConnection) -> None:
        self._file, self._operation = file, connection.operation(max(0, size_bytes - begin))
        self._blocks = _watched_blocks(file, begin, size_bytes, connection)
        self._rest = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer` as far as the next block goes; 0 at the end. Raises ReplicaUnreachable, OSError."""
        with connection_errors("the replica"), self._operation:
            while not self._rest:
                block = next(self._blocks, None)
                if block is None:
                    return 0
                self._rest = block
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        """Close the remote file, without errors of a lost connection."""
        if not self.closed:
            with suppress(Exception), self._operation:
                self._file.close()
        super().close()


def _watched_blocks(file: SFTPFile, begin: int, end: int, connection: SftpConnection) -> Iterator[bytes]:
    blocks = PipelinedReader(connection.client, file.handle, connection.block_bytes, begin).blocks(end)
    while True:
        with connection.watchdog.watching():
            block = next(blocks, None)
        if block is None:
            return
        yield block


def is_file(attributes: SFTPAttributes) -> bool:
    """Tell whether it is a regular file; it is assumed to be one where the server sends no file type."""
    return attributes.st_mode is None or stat.S_IFMT(attributes.st_mode) in (0, stat.S_IFREG)


def refuse_link(path: str, found: SFTPAttributes, store: str) -> None:
    """Raise StoreUnusable for a directory of a store that is a link."""
    if stat.S_ISLNK(found.st_mode or 0):
        raise StoreUnusable(f"{path} on {store} is a symbolic link, which may lead out of it", "remove it")


def list_directory(client: SFTPClient, path: str) -> Iterator[SFTPAttributes]:
    """Yield the entries of the directory `path`, in any order. paramiko's own listings end at a name that is not UTF-8.

    Raises ReplicaFailed where they are too many, EOFError for a lost connection, OSError.
    """
    pipeline = RequestPipeline(client)
    handle, entries = pipeline.wait_handle(pipeline.send(sftp.CMD_OPENDIR, path)), 0
    while True:
        try:
            _kind, response = pipeline.wait(pipeline.send(sftp.CMD_READDIR, handle))
        except EndReached:  # not a lost connection, whose listing is not complete
            break
        except FileNotFoundError as error:  # the directory is open: what came before is not all of it
            raise OSError(error.strerror) from error
        count = read_count(response, _MIN_ENTRY_BYTES)
        if not count:
            raise OSError(f"the server's listing of {path} has no end")
        entries += count
        if entries > _MAX_ENTRIES:
            raise ReplicaFailed(
                f"{path} has more than {_MAX_ENTRIES:,} entries", "remove the files there that backupd did not send"
            )
        for _ in range(count):
            name, _long_name = response.get_string(), response.get_string()
            yield read_attributes(response, name.decode(errors="replace"))
    with suppress(OSError):
        pipeline.wait(pipeline.send(sftp.CMD_CLOSE, handle))


def fsync(client: SFTPClient, handle: object) -> bool:
    """Make the server flush an open file to its disk (PROTOCOL, fsync@openssh.com); False when it does not support it.

    Raises OSError when that fails, with which a server may report a full disk.
    """
    return extended_request(client, "fsync@openssh.com", handle) is not None


def replace(client: SFTPClient, old: str, new: str) -> None:
    """Rename `old` to `new`, replacing it; atomically where the server supports that. Raises OSError."""
    try:
        client.posix_rename(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        try:
            client.rename(old, new)  # by draft §6.5 it fails where `new` exists
        except FileNotFoundError:
            raise
        except OSError:
            with suppress(FileNotFoundError):
                client.remove(new)
            client.rename(old, new)


def rename_exclusively(client: SFTPClient, old: str, new: str) -> None:
    """Rename `old` to `new`, which did not exist a moment ago. Raises FileExistsError when it does now, OSError.

    OpenSSH refuses one of two senders at the same time; a server whose rename overwrites cannot.
    """
    try:
        client.rename(old, new)
    except FileNotFoundError:
        raise
    except OSError as error:
        with suppress(FileNotFoundError):
            client.lstat(new)
            raise FileExistsError(f"{new} exists already") from error
        replace(client, old, new)


def free_bytes(client: SFTPClient, path: str) -> int | None:
    """Return the bytes free to us at `path` (PROTOCOL, statvfs@openssh.com), None when the server does not say."""
    try:
        response = extended_request(client, "statvfs@openssh.com", path)
    except OSError:
        return None
    if response is None or len(response.get_remainder()) < _STATVFS_BYTES:  # else what is missing would be read as 0
        return None
    _block_size, fragment_bytes, _blocks, _free, available = (response.get_int64() for _ in range(5))
    return int(fragment_bytes * available)


def write_small_file(client: SFTPClient, path: str, data: bytes, mode: int = PRIVATE_MODE) -> tuple[str, ...]:
    """Write `data` as the file `path`, replacing it, durable where the server can, and read it back.

    Returns the features that the server lacks. Raises CopyCorrupt, WriteRefused for lack of space, OSError.
    """
    missing = []
    with _created(client, path) as file:
        pipeline = RequestPipeline(client)
        set_mode = pipeline.send(sftp.CMD_FSETSTAT, file.handle, attributes_with(mode))
        offsets = range(0, len(data), SAFE_BLOCK_BYTES)
        writes = [
            pipeline.send(sftp.CMD_WRITE, file.handle, sftp.int64(offset), data[offset : offset + SAFE_BLOCK_BYTES])
            for offset in offsets
        ]
        try:
            pipeline.wait(set_mode)
        except OSError:  # some servers have no file modes
            missing.append("file modes")
        with write_errors():
            for number in writes:
                pipeline.wait(number)
            if not fsync(client, file.handle):
                missing.append("fsync")
        found = b""
        with suppress(OSError):  # such as a server that does not read a file while it is open for writing
            found = PipelinedReader(client, file.handle, SAFE_BLOCK_BYTES).read_prefix(len(data) + 1)
    if found != data and read_small_file(client, path, len(data) + 1) != data:
        raise CopyCorrupt(f"{path} reads back differently than written", "test the disk of that host")
    return tuple(missing)


@contextmanager
def _created(client: SFTPClient, path: str) -> Iterator[SFTPFile]:
    """Yield a newly created file, never the target of a link; removes it when the server refuses a write."""
    try:
        file = client.open(path, "w+x")
    except OSError as error:
        try:
            client.remove(path)  # most likely it exists
        except OSError:
            raise error from None
        file = client.open(path, "w+x")
    with partial_removed_on_error(client, path), file:
        yield file


@contextmanager
def partial_removed_on_error(client: SFTPClient, path: str) -> Iterator[None]:
    """Remove `path` when the server refuses a write in the block, so that it does not fill the disk."""
    try:
        yield
    except WriteRefused:
        with suppress(OSError, EOFError, SSHException):
            client.remove(path)
        raise
