"""Send a file, verify what arrived byte for byte, and resume from what arrived earlier."""

import hashlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from paramiko import SFTPClient, SSHException, sftp

from backupd.errors import CopyCorrupt
from backupd.model import NoProgress, Progress
from backupd.stores.contract import Transfer, VerificationMethod
from backupd.stores.sftp.connection import CHANNELS, SftpConnection, Watchdog
from backupd.stores.sftp.files import PRIVATE_MODE, fsync, is_file, partial_removed_on_error
from backupd.stores.sftp.protocol import (
    IN_FLIGHT_BYTES,
    WRITE_BLOCK_BYTES,
    PipelinedReader,
    PipelinedWriter,
    RequestPipeline,
    attributes_with,
    write_errors,
)
from backupd.system.small_file import open_regular

_UPDATE: Final = sftp.SFTP_FLAG_READ | sftp.SFTP_FLAG_WRITE
_CREATE: Final = _UPDATE | sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_EXCL
_READ_BACK: Final[VerificationMethod] = "read-back"
_HASH_OUTPUT: Final = re.compile(rb"([0-9a-f]{64}) [ *]-\r?\n", re.ASCII)  # of GNU, busybox and uutils alike
_MAX_OUTPUT_BYTES: Final = 256
_SLOWEST_HASH_BYTES_S: Final = 8 << 20  # half of what the slowest NAS does
_POLL_S: Final = 1.0
_PIECE_BYTES: Final = 1 << 20


class RemoteHash:
    """Compares by `sha256sum` on the remote host; a host that fails at it once is not asked again by this object."""

    def __init__(self, min_timeout_s: float = 60.0) -> None:
        """Wait `min_timeout_s` seconds for an answer, and longer for large files."""
        self._min_timeout_s = min_timeout_s
        self.unavailable_reason = ""

    def confirms(self, source: BinaryIO, path: str, size_bytes: int, connection: SftpConnection) -> bool:
        """Tell whether, by its host's word, the remote file `path` begins with the first `size_bytes` of `source`.

        Raises nothing for a lost connection: its next use does.
        """
        if self.unavailable_reason:
            return False
        output, reason = b"", "the account has no shell with head and sha256sum"
        try:
            command = f"head -c {size_bytes} < {shlex.quote(path)} | sha256sum"
            output = _output(connection, command, self._min_timeout_s + size_bytes / _SLOWEST_HASH_BYTES_S)
        except TimeoutError:
            reason = "its sha256sum did not answer in time"
        except (SSHException, EOFError, OSError):
            if not connection.is_active:
                reason = "the connection was lost while its sha256sum was asked"
        found = _HASH_OUTPUT.fullmatch(output)
        if found is None:
            self.unavailable_reason = reason
        return found is not None and found[1].decode() == _digest(source, size_bytes)


class VerifiedParts:
    """How much of each remote part is verified and on its disk; outlives a connection, so that retries resume.

    `progress` sees what is done: sending in the caller's stage, reading back in one of its own.
    """

    def __init__(self, progress: Progress | None = None, remote_hash: RemoteHash | None = None) -> None:
        self._bytes: dict[str, int] = {}
        self.sent_bytes = 0  # over all connections, failed transfers included
        self.progress = progress or NoProgress()
        self.remote_hash = remote_hash

    @property
    def fallback_reason(self) -> str:
        """Why copies are read back though a remote hash was requested; empty where they are not."""
        return self.remote_hash.unavailable_reason if self.remote_hash else ""

    @property
    def reads_back(self) -> bool:
        """Whether copies are read back."""
        return self.remote_hash is None or bool(self.fallback_reason)

    def verified_bytes(self, part: str, size_bytes: int) -> int:
        """Return how many bytes of `part`, which now has `size_bytes`, need not be read back again."""
        known = self._bytes.get(part, 0)
        return known if known <= size_bytes else 0

    def limit(self, part: str, equal_bytes: int) -> None:
        """Record that `part` is written from `equal_bytes` on: nothing beyond is verified any more."""
        self._bytes[part] = min(self._bytes.get(part, 0), equal_bytes)

    def record(self, part: str, equal_bytes: int) -> None:
        """Record that `equal_bytes` of `part` are right and survive a power failure."""
        self._bytes[part] = equal_bytes


class ReadBack:
    """Compares an open remote file with `source`, from byte `begin` on, up to where they are known to be equal."""

    def __init__(self, source: BinaryIO, client: SFTPClient, handle: object, begin: int, block_bytes: int) -> None:
        self._source_fd, self._block_bytes, self._begin = source.fileno(), block_bytes, begin
        self._reader = PipelinedReader(client, handle, block_bytes, begin)
        self.equal_bytes = begin
        self._ended = False  # at a difference, at the end of the remote file, or where it cannot be read

    def follow(self, written_bytes: int, *, wait: bool) -> None:
        """Compare the blocks that have arrived, and request all whole blocks up to `written_bytes`.

        With `wait`, a block that begins to arrive is waited for, which is faster at low latency. Stops where the server
        does not read a file that is open for writing.
        """
        whole_blocks = written_bytes - (written_bytes - self._begin) % self._block_bytes
        reader = self._reader
        try:
            while not self._ended and reader.request(whole_blocks) and (reader.has_input if wait else reader.has_block):
                self._compare_block()
        except OSError:
            self._ended = True

    def finish(self, end: int, watchdog: Watchdog, progress: Progress) -> int:
        """Return up to where, at most `end`, both are equal. Raises OSError."""
        while not self._ended and self._reader.request(end):
            self._compare_block()
            watchdog.reset()
            progress.advance(self.equal_bytes)
        return self.equal_bytes

    def _compare_block(self) -> None:
        remote, at_end = self._reader.next_block()
        local = os.pread(self._source_fd, len(remote), self.equal_bytes)
        self._ended = at_end or local != remote
        self.equal_bytes += len(local) if local == remote else _common_bytes(local, remote)


def upload(local: Path, part: str, connection: SftpConnection, verified: VerifiedParts) -> Transfer:
    """Make the remote file `part` equal to `local`, durable where the server can, and verify it.

    Keeps the bytes of an earlier transfer that are right. Raises CopyCorrupt when the copy reads back differently,
    ReplicaUnreachable, OSError.
    """
    with open(open_regular(local), "rb", buffering=0) as source:
        return upload_open(source, part, connection, verified)


def upload_open(source: BinaryIO, part: str, connection: SftpConnection, verified: VerifiedParts) -> Transfer:
    """Make the remote file `part` equal to an open local file, as `upload` does."""
    size_bytes = os.fstat(source.fileno()).st_size
    connection.open_channels(_channels_for(size_bytes))
    found = _size(connection.client, part)
    equal, method = (0, _READ_BACK)
    if found:
        equal, method = _compare_partial(source, part, connection, min(found, size_bytes), verified)
    if found is not None and (found > equal or not equal):
        equal = _truncate(connection.client, part, equal, size_bytes)
    verified.limit(part, equal)
    resumed = equal
    if equal < size_bytes or not found:
        with partial_removed_on_error(connection.client, part):
            equal = _send(source, part, connection, equal, size_bytes, verified)
        equal, method = compare(source, part, connection, equal, size_bytes, verified)
        if equal < size_bytes:
            raise CopyCorrupt(
                f"{part} reads back differently than written, from byte {equal} on",
                "test the disk and the memory of that host; the next replication sends it again",
            )
    return Transfer(size_bytes - resumed, resumed, method, verified.fallback_reason)


def _compare_partial(
    source: BinaryIO, part: str, connection: SftpConnection, found_bytes: int, verified: VerifiedParts
) -> tuple[int, VerificationMethod]:
    """Return up to where an earlier transfer's `part` equals `source`; records that only after an fsync."""
    known, method, remote_hash = verified.verified_bytes(part, found_bytes), _READ_BACK, verified.remote_hash
    if found_bytes == os.fstat(source.fileno()).st_size:
        equal, method = compare(source, part, connection, known, found_bytes, verified)
    else:
        without_gaps = found_bytes - CHANNELS * IN_FLIGHT_BYTES  # writes in flight may have arrived in any order
        if known < without_gaps and remote_hash and remote_hash.confirms(source, part, without_gaps, connection):
            known = without_gaps
        equal = _read_back(source, part, connection, known, found_bytes, verified.progress)
    with suppress(PermissionError), connection.client.open(part, "r+") as file:
        if fsync(connection.client, file.handle):
            verified.record(part, equal)
    return equal, method


def compare(
    source: BinaryIO, remote: str, connection: SftpConnection, begin: int, end: int, verified: VerifiedParts
) -> tuple[int, VerificationMethod]:
    """Return up to where, at most `end`, the remote file equals `source`, and the method that verified it.

    Both are known to be equal up to `begin`. Reads back what no remote hash confirms. Raises ReplicaUnreachable,
    OSError.
    """
    if verified.remote_hash and verified.remote_hash.confirms(source, remote, end, connection):
        return end, "remote-hash"
    return _read_back(source, remote, connection, begin, end, verified.progress), _READ_BACK


def _read_back(
    source: BinaryIO, remote: str, connection: SftpConnection, begin: int, end: int, progress: Progress
) -> int:
    if begin == end:
        return end
    with connection.client.open(remote, "r") as file, connection.watchdog.watching() as watchdog:
        read_back = ReadBack(source, connection.client, file.handle, begin, connection.block_bytes)
        return read_back.finish(end, watchdog, progress)


def _send(
    source: BinaryIO, part: str, connection: SftpConnection, begin: int, end: int, verified: VerifiedParts
) -> int:
    """Write from `begin` to `end` over as many channels as are faster, and fsync.

    Returns up to where it was read back during the transfer: a lower value than `end` is no error.
    """
    clients, size = connection.channels(_channels_for(end - begin)), min(WRITE_BLOCK_BYTES, connection.block_bytes)
    progress = verified.progress
    watching = connection.watchdog.watching()
    with watching as watchdog, _writers(clients, part, watchdog.reset, new=begin == 0) as writers:
        client, handle = writers[0].client, writers[0].handle
        read_back = ReadBack(source, client, handle, begin, connection.block_bytes)
        for number, offset in enumerate(range(begin, end, size)):
            block = os.pread(source.fileno(), min(size, end - offset), offset)
            writers[number % len(writers)].write(offset, block)
            verified.sent_bytes += len(block)
            progress.advance(offset)
            if verified.reads_back:
                written_bytes = min(writer.written_up_to(offset) for writer in writers)
                read_back.follow(written_bytes, wait=connection.has_low_latency)
        for writer in writers:
            writer.finish()
        with write_errors():
            fsync(client, handle)
        progress.stage("prove", end)
        if verified.reads_back:
            with suppress(OSError):  # such as a server that does not read a file while it is open for writing
                read_back.finish(end, watchdog, progress)
        return read_back.equal_bytes


def _channels_for(size_bytes: int) -> int:
    return 1 + size_bytes // IN_FLIGHT_BYTES


def _size(client: SFTPClient, part: str) -> int | None:
    """Return the size of `part`, None when it is missing; removes what is not a regular file. Raises OSError."""
    try:
        found = client.lstat(part)
    except FileNotFoundError:
        return None
    if is_file(found):
        return found.st_size or 0
    client.remove(part)
    return None


def _truncate(client: SFTPClient, part: str, equal_bytes: int, size_bytes: int) -> int:
    """Remove what follows `equal_bytes`; returns how many equal bytes remain. Raises OSError.

    Where the server cannot truncate, the rest is overwritten; `part` is removed if it is longer than `size_bytes`.
    """
    if equal_bytes:
        with suppress(OSError):
            client.truncate(part, equal_bytes)
        if (_size(client, part) or 0) <= size_bytes:
            return equal_bytes
    client.remove(part)
    return 0


@contextmanager
def _writers(
    clients: Sequence[SFTPClient], part: str, on_response: Callable[[], None], *, new: bool
) -> Iterator[tuple[PipelinedWriter, ...]]:
    """Open `part` for writing on every channel that accepts it.

    A `new` one must not exist; it is made private before anything is written. Raises OSError, SSHException.
    """
    first, *others = map(RequestPipeline, clients)
    flags = _CREATE if new else _UPDATE
    opened = [(clients[0], first, first.wait_handle(first.send(sftp.CMD_OPEN, part, flags, attributes_with(None))))]
    try:
        set_mode = first.send(sftp.CMD_FSETSTAT, opened[0][2], attributes_with(PRIVATE_MODE))
        requests = [pipeline.send(sftp.CMD_OPEN, part, _UPDATE, attributes_with(None)) for pipeline in others]
        with suppress(OSError):  # some servers have no file modes; the directory is private
            first.wait(set_mode)
        for client, pipeline, number in zip(clients[1:], others, requests, strict=True):
            with suppress(OSError):  # a server that allows one writer at a time: one channel is enough
                opened.append((client, pipeline, pipeline.wait_handle(number)))
        yield tuple(PipelinedWriter(client, handle, on_response) for client, _pipeline, handle in opened)
    except (KeyboardInterrupt, SystemExit):
        opened.clear()  # a process that is told to stop waits for no response
        raise
    finally:
        _close([(pipeline, handle) for _client, pipeline, handle in opened])


def _close(opened: Sequence[tuple[RequestPipeline, bytes]]) -> None:
    """Close all handles and ignore errors: the contents are verified anyway."""
    requests = []
    with suppress(OSError, EOFError, SSHException, sftp.SFTPError):
        requests = [(pipeline, pipeline.send(sftp.CMD_CLOSE, handle)) for pipeline, handle in opened]
    for pipeline, number in requests:
        with suppress(OSError, EOFError, SSHException, sftp.SFTPError):
            pipeline.wait(number)


def _common_bytes(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _output(connection: SftpConnection, command: str, timeout_s: float) -> bytes:
    """Return the first bytes of the output of `command`. Raises TimeoutError, OSError, SSHException."""
    deadline = time.monotonic() + timeout_s
    output = b""
    with connection.watchdog.watching() as watchdog, connection.open_session() as channel:
        channel.exec_command(command)  # waits without limit for a response: the watchdog ends it
        channel.shutdown_write()  # ends an SFTP server that a host runs for whatever command
        channel.settimeout(_POLL_S)
        while len(output) <= _MAX_OUTPUT_BYTES:
            with suppress(TimeoutError):
                if not (piece := channel.recv(_MAX_OUTPUT_BYTES)):
                    break
                output += piece
            if time.monotonic() > deadline:
                raise TimeoutError
            watchdog.reset()  # a long computation is silent until its end
    return output


def _digest(source: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256()
    source.seek(0)
    while size_bytes > 0 and (piece := source.read(min(_PIECE_BYTES, size_bytes))):
        digest.update(piece)
        size_bytes -= len(piece)
    return digest.hexdigest()
