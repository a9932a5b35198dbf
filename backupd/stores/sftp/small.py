"""Small remote files, manifests above all: read many in the time of one, and write one whatever the server lacks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from paramiko import SFTPClient, SFTPFile, SSHException
from paramiko.sftp import CMD_CLOSE, CMD_FSETSTAT, CMD_LSTAT, CMD_OPEN, CMD_WRITE, SFTP_FLAG_READ, int64

from backupd.errors import CopyCorrupt
from backupd.stores.sftp.asking import Asking, attributes_of
from backupd.stores.sftp.remote import flush, is_file
from backupd.stores.sftp.wire import SAFE_BLOCK_BYTES, Reads, WriteRefused, refusals

_PRIVATE: Final = 0o600
_AT_ONCE: Final = 8  # handles that are open at the server, of which poor ones have few


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


class _SmallFile:
    """A file that is read in steps; each is asked of many files before the first answer is waited for."""

    def __init__(self, client: SFTPClient, path: str, limit_bytes: int) -> None:
        self._client, self._path, self._limit_bytes = client, path, limit_bytes
        self._asking = Asking(client)
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


def put_small(client: SFTPClient, path: str, data: bytes, mode: int = _PRIVATE) -> tuple[str, ...]:
    """Write `data` as the file `path`, durable where the server can, and read it back; returns what the server lacks.

    What bore that name is gone. Raises CopyCorrupt, WriteRefused where there is no room, OSError.
    """
    lacks = []
    with _new(client, path) as file:
        asking = Asking(client)
        private = asking.ask(CMD_FSETSTAT, file.handle, attributes_of(mode))
        pieces = range(0, len(data), SAFE_BLOCK_BYTES)
        written = [asking.ask(CMD_WRITE, file.handle, int64(at), data[at : at + SAFE_BLOCK_BYTES]) for at in pieces]
        try:
            asking.hear(private)
        except OSError:  # some servers know no modes
            lacks.append("file modes")
        with refusals():
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
