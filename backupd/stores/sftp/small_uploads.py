"""Send thousands of small files: hundreds are open at once, each verified and durable before it gets its name."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from paramiko import SFTPClient, sftp

from backupd.stores.sftp.batch import RequestBatch, data_in, finish, handle_in, require_ok, text
from backupd.stores.sftp.connection import SftpConnection
from backupd.stores.sftp.files import PRIVATE_MODE
from backupd.stores.sftp.paramiko_internals import OperationUnsupported
from backupd.stores.sftp.protocol import WriteRefused

SMALL_BYTES: Final = 256 << 10
_OPEN_FILES: Final = 128  # on each channel, where the server allows as many
_IN_FLIGHT_BYTES: Final = 2 << 20  # on each channel: what comes back fits into its window, so that nobody waits
_FLAGS: Final = sftp.SFTP_FLAG_READ | sftp.SFTP_FLAG_WRITE | sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_EXCL
_CREATE: Final = struct.pack(">III", _FLAGS, 4, PRIVATE_MODE)  # and attributes: only a mode
_OFFSET: Final = struct.Struct(">Q")
_RANGE: Final = struct.Struct(">QI")
_FSYNC: Final = text(b"fsync@openssh.com")
_RENAME: Final = text(b"posix-rename@openssh.com")


class SmallFile(NamedTuple):
    """A file to send: its name, its path while it is sent and then, and what is in it."""

    name: str
    part: str
    final: str
    data: bytes


class SmallUploads:
    """Sends files that no file of their name is in the way of, over all `clients` at once.

    Names are kept, not contents: `doubtful` are the files that the server did not read back while they were open, or
    did not give their names; `failed` those that it refused, for the first of which `error` is why. Nothing is begun
    after that.
    """

    def __init__(self, connection: SftpConnection, clients: Sequence[SFTPClient], begun: Callable[[int], None]) -> None:
        """Call `begun` with the bytes of each file that is begun."""
        self._connection, self._begun = connection, begun
        self._batches = [RequestBatch(client) for client in clients]
        self._files: Iterator[SmallFile] = iter(())
        self.doubtful: list[str] = []
        self.failed: list[str] = []
        self.error: OSError | None = None
        self.block_bytes = connection.block_bytes
        self.syncs = self.replaces = True  # until the server says that it cannot

    def send(self, files: Iterable[SmallFile]) -> None:
        """Send all. Raises ConnectionLost, ProtocolViolated; see `error` for what the server refuses."""
        self._files = iter(files)
        for lane in [_Lane(batch, min(_OPEN_FILES, self._connection.open_files)) for batch in self._batches]:
            self.begin(lane)
        finish(self._batches, self._connection.watchdog)

    def begin(self, lane: "_Lane") -> None:
        """Begin as many files on a channel as may be open and in flight there."""
        while self.error is None and lane.has_room and (file := next(self._files, None)):
            lane.files += 1
            lane.in_flight_bytes += len(file.data)
            self._begun(len(file.data))
            _Upload(file, lane, self).open()

    def close(self, upload: "_Upload") -> None:
        """Note that a file is closed, and begin others."""
        upload.lane.files -= 1
        upload.lane.in_flight_bytes -= len(upload.file.data)
        if upload.error is not None:
            self.fail(upload.file, upload.error)
        elif upload.is_verified:
            upload.rename()
        else:
            self.doubtful.append(upload.file.name)
        self.begin(upload.lane)

    def fail(self, file: SmallFile, error: OSError) -> None:
        """Note what the server refused."""
        self.failed.append(file.name)
        self.error = self.error or error


class _Lane:
    """What is open on one channel."""

    def __init__(self, batch: RequestBatch, most_files: int) -> None:
        self.batch, self._most_files = batch, most_files
        self.files = self.in_flight_bytes = 0

    @property
    def has_room(self) -> bool:
        return self.files < self._most_files and self.in_flight_bytes < _IN_FLIGHT_BYTES


class _Upload:
    """One file on its way: open; write, flush, read back and close at once; rename."""

    __slots__ = ("_answers_due", "_uploads", "_verified_bytes", "error", "file", "lane")

    def __init__(self, file: SmallFile, lane: _Lane, uploads: SmallUploads) -> None:
        self.file, self.lane, self._uploads = file, lane, uploads
        self._answers_due, self._verified_bytes = 1, 0
        self.error: OSError | None = None

    @property
    def is_verified(self) -> bool:
        """Whether all of it was read back as it was written."""
        return self._verified_bytes == len(self.file.data)

    def open(self) -> None:
        self.lane.batch.send(sftp.CMD_OPEN, text(self.file.part.encode()) + _CREATE, self._opened)

    def _opened(self, kind: int, body: bytes) -> None:
        try:
            handle = handle_in(kind, body, f"open {self.file.name}")
        except OSError as error:
            self.error = error
            self._uploads.close(self)
            return
        send, data, size = self.lane.batch.send, self.file.data, self._uploads.block_bytes
        blocks = range(0, len(data), size)
        self._answers_due = 2 * len(blocks) + self._uploads.syncs + 1
        for offset in blocks:
            send(sftp.CMD_WRITE, handle + _OFFSET.pack(offset) + text(data[offset : offset + size]), self._written)
        if self._uploads.syncs:
            send(sftp.CMD_EXTENDED, _FSYNC + handle, self._flushed)
        for offset in blocks:
            wanted = min(size, len(data) - offset)
            send(sftp.CMD_READ, handle + _RANGE.pack(offset, wanted), _Block(self, offset, wanted).read)
        send(sftp.CMD_CLOSE, handle, self._closed)

    def _written(self, kind: int, body: bytes) -> None:
        try:
            require_ok(kind, body, f"write {self.file.name}")
        except OSError as error:
            self.error = self.error or (WriteRefused(str(error)) if error.errno is None else error)
        self._answered()

    def _flushed(self, kind: int, body: bytes) -> None:
        try:
            require_ok(kind, body, f"flush {self.file.name}")
        except OperationUnsupported:
            self._uploads.syncs = False
        except OSError as error:  # with which a server may report a full disk
            self.error = self.error or (WriteRefused(str(error)) if error.errno is None else error)
        self._answered()

    def read(self, offset: int, wanted: int, kind: int, body: bytes) -> None:
        """Compare a block that was read back; one that was not is compared later, once the file is closed."""
        try:
            found = data_in(kind, body, wanted, f"read {self.file.name}")
        except OSError:
            found = b""
        if found == self.file.data[offset : offset + wanted]:
            self._verified_bytes += wanted
        self._answered()

    def _closed(self, kind: int, body: bytes) -> None:
        try:
            require_ok(kind, body, f"close {self.file.name}")
        except OSError as error:
            self.error = self.error or error
        self._answered()

    def _answered(self) -> None:
        self._answers_due -= 1
        if not self._answers_due:
            self._uploads.close(self)

    def rename(self) -> None:
        """Give the file its name, in place of whatever has it."""
        names = text(self.file.part.encode()) + text(self.file.final.encode())
        if self._uploads.replaces:
            self.lane.batch.send(sftp.CMD_EXTENDED, _RENAME + names, self._renamed)
        else:
            self.lane.batch.send(sftp.CMD_RENAME, names, self._renamed)

    def _renamed(self, kind: int, body: bytes) -> None:
        try:
            require_ok(kind, body, f"rename {self.file.name}")
        except OperationUnsupported:
            if not self._uploads.replaces:
                self._uploads.doubtful.append(self.file.name)
                return
            self._uploads.replaces = False
            self.rename()
        except OSError:  # such as a server that does not replace what is there
            self._uploads.doubtful.append(self.file.name)


class _Block(NamedTuple):
    upload: _Upload
    offset: int
    wanted: int

    def read(self, kind: int, body: bytes) -> None:
        self.upload.read(self.offset, self.wanted, kind, body)
