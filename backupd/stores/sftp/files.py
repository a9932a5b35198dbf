"""Remote files and directories: read, list, make durable and replace, whatever the server lacks."""

import io
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from paramiko import SFTPAttributes, SFTPClient, SFTPFile, SSHException
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_FSETSTAT,
    CMD_LSTAT,
    CMD_OPEN,
    CMD_OPENDIR,
    CMD_READDIR,
    CMD_WRITE,
    SFTP_FLAG_READ,
    int64,
)

from backupd.errors import CopyCorrupt
from backupd.stores.sftp.connection import SftpConnection, connection_errors
from backupd.stores.sftp.paramiko_internals import read_attributes
from backupd.stores.sftp.protocol import (
    SAFE_BLOCK_BYTES,
    Reads,
    RequestPipeline,
    WriteRefused,
    attributes_of,
    extended,
    write_errors,
)

_PRIVATE_FILE: Final = 0o600
_AT_ONCE: Final = 8  # handles that are open at the server, of which poor ones have few


class _SmallFile:
    """A file that is read in steps; each is asked of many files before the first answer is waited for."""

    def __init__(self, client: SFTPClient, path: str, limit_bytes: int) -> None:
        self._client, self._path, self._limit_bytes = client, path, limit_bytes
        self._asking = RequestPipeline(client)
        self._asked = self._asking.ask(CMD_LSTAT, path)
        self._error: OSError | None = None

    def open(self) -> None:
        """Ask to open it, once it is known to be a file."""
        try:
            found = self._asking.attributes(self._asked)
            if not is_file(found):
                raise FileNotFoundError(self._path)
        except OSError as error:
            self._error = error
        else:
            self._size_bytes = found.st_size
            self._asked = self._asking.ask(CMD_OPEN, self._path, SFTP_FLAG_READ, attributes_of(None))

    def ask(self) -> None:
        """Ask for its beginning, once it is open."""
        if self._error is None:
            try:
                self._handle = self._asking.handle(self._asked)
            except OSError as error:
                self._error = error
            else:
                self._reads = Reads(self._client, self._handle, SAFE_BLOCK_BYTES)
                self._reads.ask(min(self._limit_bytes, SAFE_BLOCK_BYTES))

    def read(self) -> bytes:
        """Return its contents. Raises OSError."""
        if self._error:
            raise self._error
        try:
            return self._reads.beginning(self._limit_bytes, self._size_bytes)
        finally:
            with suppress(OSError, EOFError, SSHException):
                self._asking.ask(CMD_CLOSE, self._handle)  # nobody waits for the answer


_PRIVATE: Final = 0o600


class RemoteFile(io.RawIOBase):
    """A remote file as a readable stream, from byte `begin` to its end; wrap it in io.BufferedReader."""

    def __init__(self, file: SFTPFile, begin: int, size_bytes: int, link: SftpConnection) -> None:
        self._file = file
        self._blocks = _watched_blocks(file, begin, size_bytes, link)
        self._left = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer` as far as the next block goes; 0 at the end. Raises ReplicaUnreachable, OSError."""
        with connection_errors("the replica"):
            while not self._left:
                block = next(self._blocks, None)
                if block is None:
                    return 0
                self._left = block
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Let go of the remote file."""
        if not self.closed:
            with suppress(Exception):  # what a lost connection says at its end helps nobody
                self._file.close()
        super().close()


def _watched_blocks(file: SFTPFile, begin: int, end: int, link: SftpConnection) -> Iterator[bytes]:
    reads = Reads(link.client, file.handle, link.block_bytes, begin).blocks(end)
    while True:
        with link.watched():
            block = next(reads, None)
        if block is None:
            return
        yield block


def is_file(attributes: SFTPAttributes) -> bool:
    """Tell whether it is a regular file; a server that tells no kinds is asked for the contents anyway."""
    return attributes.st_mode is None or stat.S_IFMT(attributes.st_mode) in (0, stat.S_IFREG)


def entries(client: SFTPClient, path: str) -> Iterator[SFTPAttributes]:
    """Yield what is in the directory `path`, in any order, whatever bytes the names are made of. Raises OSError.

    paramiko's own listings end at the first name that is not UTF-8.
    """
    asking = RequestPipeline(client)
    handle = asking.handle(asking.ask(CMD_OPENDIR, path))
    while True:
        try:
            _kind, answer = asking.hear(asking.ask(CMD_READDIR, handle))
        except EOFError:
            break
        count = answer.get_int()
        if not count:
            raise OSError(f"the server lists {path} without end")
        for _ in range(count):
            name, _long = answer.get_string(), answer.get_string()
            yield read_attributes(answer, name.decode(errors="replace"))
    with suppress(OSError):
        asking.hear(asking.ask(CMD_CLOSE, handle))


def made_durable(client: SFTPClient, handle: object) -> bool:
    """Let the server flush an open file to its disk (PROTOCOL, fsync@openssh.com); False when it knows no such thing.

    Raises OSError when it fails at it.
    """
    return extended(client, "fsync@openssh.com", handle) is not None


def flush(client: SFTPClient, handle: object) -> bool:
    """Do the same after writes. Raises WriteRefused when it fails: room may be promised first and wanting then."""
    with write_errors():
        return made_durable(client, handle)


def replace(client: SFTPClient, old: str, new: str) -> None:
    """Give `old` the name `new`, in one step where the server can; what bore it is gone. Raises OSError."""
    try:
        client.posix_rename(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        try:
            client.rename(old, new)  # as it should (draft §6.5), it does nothing where there is a `new`
        except FileNotFoundError:
            raise
        except OSError:
            with suppress(FileNotFoundError):
                client.remove(new)
            client.rename(old, new)


def claim(client: SFTPClient, old: str, new: str) -> None:
    """Give `old` the name `new`, which nothing bore a moment ago. Raises FileExistsError where something does, OSError.

    OpenSSH sees to it that of two who ask at once one is refused; a server whose rename overwrites cannot.
    """
    try:
        client.rename(old, new)
    except FileNotFoundError:
        raise
    except OSError as error:
        with suppress(FileNotFoundError):
            client.lstat(new)
            raise FileExistsError(f"{new} is there already") from error
        replace(client, old, new)


def space_left(client: SFTPClient, path: str) -> int | None:
    """Return the bytes free to us at `path` (PROTOCOL, statvfs@openssh.com), None when the server cannot tell."""
    try:
        answer = extended(client, "statvfs@openssh.com", path)
    except OSError:
        return None
    if answer is None:
        return None
    _block_size, fragment_bytes, _blocks, _free, available = (answer.get_int64() for _ in range(5))
    return int(fragment_bytes * available)


def read_small(client: SFTPClient, path: str, limit_bytes: int) -> bytes:
    """Return what the file `path` holds, at most `limit_bytes`.

    Raises FileNotFoundError also when it is a link or no file: to open a FIFO would take for ever. Raises OSError.
    """
    (read,) = read_many(client, (path,), limit_bytes)
    return read()


def read_many(client: SFTPClient, paths: Sequence[str], limit_bytes: int) -> Iterator[Callable[[], bytes]]:
    """Yield for each of `paths` what returns its contents or raises, as `read_small` does; call it before the next."""
    for at in range(0, len(paths), _AT_ONCE):
        files = [_SmallFile(client, path, limit_bytes) for path in paths[at : at + _AT_ONCE]]
        for file in files:
            file.open()
        for file in files:
            file.ask()
        for file in files:
            yield file.read


def put_small(client: SFTPClient, path: str, data: bytes, mode: int = _PRIVATE_FILE) -> tuple[str, ...]:
    """Write `data` as the file `path`, durable where the server can, and read it back; returns what the server lacks.

    What bore that name is gone. Raises CopyCorrupt, WriteRefused where there is no room, OSError.
    """
    lacks = []
    with _new(client, path) as file:
        asking = RequestPipeline(client)
        private = asking.ask(CMD_FSETSTAT, file.handle, attributes_of(mode))
        pieces = range(0, len(data), SAFE_BLOCK_BYTES)
        written = [asking.ask(CMD_WRITE, file.handle, int64(at), data[at : at + SAFE_BLOCK_BYTES]) for at in pieces]
        try:
            asking.hear(private)
        except OSError:  # some servers know no modes
            lacks.append("file modes")
        with write_errors():
            for number in written:
                asking.hear(number)
        if not flush(client, file.handle):
            lacks.append("fsync")
        there = b""
        with suppress(OSError):  # such as a server that gives no file back while it is written to
            there = Reads(client, file.handle, SAFE_BLOCK_BYTES).beginning(len(data) + 1)
    if there != data and read_small(client, path, len(data) + 1) != data:
        raise CopyCorrupt(f"{path} reads back other than it was written", "test the disk of that host")
    return tuple(lacks)


@contextmanager
def _new(client: SFTPClient, path: str) -> Iterator[SFTPFile]:
    """Lend a file that was made just now, not what a link leads to; it goes when the server takes no more."""
    try:
        file = client.open(path, "w+x")
    except OSError as error:
        try:
            client.remove(path)  # most likely it is there
        except OSError:
            raise error from None
        file = client.open(path, "w+x")
    try:
        with file:
            yield file
    except WriteRefused:
        with suppress(OSError, EOFError, SSHException):
            client.remove(path)
        raise
