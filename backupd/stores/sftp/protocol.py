"""SFTP requests with many in flight, and each response checked.

paramiko's own `put` and pipelined files drop the responses that come late: a write that failed in the middle of a file
goes unnoticed. So requests are sent here one by one (draft-ietf-secsh-filexfer-02 §6.4), by its client.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from paramiko import Message, SFTPAttributes, SFTPClient, sftp

from backupd.stores.sftp.paramiko_internals import (
    EndReached,
    OperationUnsupported,
    ProtocolViolated,
    ResponseReceiver,
    raise_for_status,
    read_attributes,
    receive_response,
    send_request,
)

# Every server accepts packets of 34,000 bytes (§3); OpenSSH announces larger ones (limits@openssh.com).
SAFE_BLOCK_BYTES: Final = 32 << 10
LARGEST_BLOCK_BYTES: Final = 255 << 10
SAFE_OPEN_FILES: Final = 8  # at the server: some allow few handles
# Fills four packets of 32 KiB, which OpenSSH accepts in a channel, less 64 bytes that paramiko leaves free in each and
# the header of the request. Larger requests are copied more often on their way, smaller ones are more (measured).
WRITE_BLOCK_BYTES: Final = 4 * ((32 << 10) - 64) - 100
IN_FLIGHT_BYTES: Final = 4 << 20  # of writes, in each channel
WINDOW_BYTES: Final = 16 << 20  # of a channel, for what we receive: paramiko's 2 MiB limit a line with high latency
_READ_AHEAD_BYTES: Final = 14 << 20  # of reads in flight, whose responses have headers
# Of a channel, for what we receive: with OpenSSH's own size (its PACKET_MAX_SIZE) it reads twice as fast.
PACKET_BYTES: Final = 256 << 10


class RequestPipeline(ResponseReceiver):
    """Sends requests without waiting; responses may come in any order (draft §6.1)."""

    def __init__(self, client: SFTPClient) -> None:
        self._client = client
        self._responses: dict[int, tuple[int, Message]] = {}
        self._kept_bytes = 0

    def send(self, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
        """Send a request; returns its number. Raises SSHException, OSError."""
        return send_request(self._client, self, kind, *arguments)

    def receive(self, kind: int, message: Message, number: int) -> None:
        """Keep a response until `wait` returns it. Raises ProtocolViolated for more than can have been requested."""
        self._kept_bytes += len(message.asbytes())
        if self._kept_bytes > WINDOW_BYTES:
            raise ProtocolViolated(f"it answers with more than {WINDOW_BYTES >> 20} MiB that were not requested")
        self._responses[number] = kind, message

    def has_response(self, number: int) -> bool:
        """Tell whether the response to request `number` was received."""
        return number in self._responses

    def wait(self, number: int) -> tuple[int, Message]:
        """Wait for the response to request `number`; returns the kind of packet and its contents.

        Raises OSError for a status that is an error, EndReached at the end of a file, EOFError and SSHException
        for a lost connection.
        """
        while number not in self._responses:
            receive_response(self._client)
        kind, message = self._responses.pop(number)
        self._kept_bytes -= len(message.asbytes())
        if kind == sftp.CMD_STATUS:
            raise_for_status(self._client, message)
        return kind, message

    def wait_handle(self, number: int) -> bytes:
        """Wait for the handle of an opened file or directory. Raises as `wait` does."""
        return self._wait_kind(sftp.CMD_HANDLE, number).get_string()

    def wait_attributes(self, number: int) -> SFTPAttributes:
        """Wait for the attributes of a file. Raises as `wait` does."""
        return read_attributes(self._wait_kind(sftp.CMD_ATTRS, number))

    def _wait_kind(self, expected: int, number: int) -> Message:
        kind, message = self.wait(number)
        if kind != expected:
            raise OSError(f"the server answered with a packet of kind {kind} instead of {expected}")
        return message


class WriteRefused(OSError):
    """The server refused a write, mostly for lack of space; the connection remains usable."""


@contextmanager
def write_errors() -> Iterator[None]:
    """Raise a plain failure of the server as WriteRefused: SFTP has no status for a full disk (draft §7)."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise WriteRefused(str(error)) from error
        raise


class PipelinedWriter(ResponseReceiver):
    """Writes in flight on one channel to one open file; calls `on_response` at each response."""

    def __init__(self, client: SFTPClient, handle: bytes, on_response: Callable[[], None]) -> None:
        self.client, self.handle = client, handle
        self._pending: dict[int, tuple[int, int]] = {}  # offset and length by number of the request
        self._in_flight_bytes = 0
        self._error: OSError | None = None
        self._on_response = on_response

    def write(self, offset: int, block: bytes) -> None:
        """Send `block` for `offset`; waits while IN_FLIGHT_BYTES are pending. Raises WriteRefused if a write failed."""
        while self._in_flight_bytes >= IN_FLIGHT_BYTES:
            receive_response(self.client)
        self._raise_error()
        number = send_request(self.client, self, sftp.CMD_WRITE, self.handle, sftp.int64(offset), block)
        self._pending[number] = offset, len(block)
        self._in_flight_bytes += len(block)

    def written_up_to(self, offset: int) -> int:
        """Return the offset of the first write without a response, `offset` if there is none before it."""
        return min(offset, next(iter(self._pending.values()), (offset,))[0])

    def finish(self) -> None:
        """Wait for the responses to all writes. Raises WriteRefused when one failed."""
        while self._pending:
            receive_response(self.client)
        self._raise_error()

    def receive(self, kind: int, message: Message, number: int) -> None:  # noqa: ARG002 - it is a status
        """Take the response to one write; the next `write` or `finish` raises its error."""
        self._in_flight_bytes -= self._pending.pop(number)[1]
        self._on_response()
        try:
            raise_for_status(self.client, message)
        except (OSError, EOFError) as error:
            self._error = self._error or WriteRefused(getattr(error, "strerror", None) or str(error))

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class PipelinedReader:
    """Reads in flight on one channel from one open file, from byte `begin` on."""

    def __init__(self, client: SFTPClient, handle: object, block_bytes: int, begin: int = 0) -> None:
        self._client, self._channel = client, client.get_channel()
        self._pipeline = RequestPipeline(client)
        self._handle, self._block_bytes = handle, block_bytes
        self._pending: deque[tuple[int, int, int]] = deque()  # number of the request, offset, length
        self._next = begin

    @property
    def has_input(self) -> bool:
        """Whether a response has begun to arrive on the channel, to a read or to any other request."""
        return self._channel is not None and self._channel.recv_ready()

    @property
    def has_block(self) -> bool:
        """Whether `next_block` returns without waiting; receives what has arrived."""
        while self.has_input:
            receive_response(self._client)
        return bool(self._pending) and self._pipeline.has_response(self._pending[0][0])

    def request(self, end: int) -> bool:
        """Request what follows, up to `end` and as far as the window allows; tells whether any read is pending."""
        while self._next < end and len(self._pending) < _READ_AHEAD_BYTES // self._block_bytes:
            length = min(self._block_bytes, end - self._next)
            self._pending.append((self._send_read(self._next, length), self._next, length))
            self._next += length
        return bool(self._pending)

    def next_block(self) -> tuple[bytes, bool]:
        """Wait for the next block in order; tells also whether the file ends in it. Raises OSError."""
        number, offset, length = self._pending.popleft()
        block = self._wait_data(number, length)
        if len(block) < length:  # a server may answer with less than was requested, also in the middle of a file
            block += self._read_rest(offset + len(block), length - len(block))
        return block, len(block) < length

    def blocks(self, end: int) -> Iterator[bytes]:
        """Yield the contents up to `end`, in order; ends early where the file does. Raises OSError."""
        ended = False
        while not ended and self.request(end):
            block, ended = self.next_block()
            yield block

    def read_prefix(self, limit_bytes: int, size_bytes: int | None = None) -> bytes:
        """Return the first `limit_bytes` of a small file; `size_bytes`, its size if known, saves a round trip."""
        first_bytes = min(limit_bytes, self._block_bytes)
        self.request(first_bytes)
        number, _offset, _length = self._pending.popleft()
        first = self._wait_data(number, first_bytes)
        if len(first) != size_bytes:
            first += self._read_rest(len(first), first_bytes - len(first))
        return first if len(first) < first_bytes else first + b"".join(self.blocks(limit_bytes))

    def _read_rest(self, offset: int, length: int) -> bytes:
        found = b""
        while len(found) < length:
            wanted = length - len(found)
            block = self._wait_data(self._send_read(offset + len(found), wanted), wanted)
            if not block:
                break
            found += block
        return found

    def _send_read(self, offset: int, length: int) -> int:
        return self._pipeline.send(sftp.CMD_READ, self._handle, sftp.int64(offset), length)

    def _wait_data(self, number: int, requested_bytes: int) -> bytes:
        try:
            kind, message = self._pipeline.wait(number)
        except EndReached:
            return b""
        if kind != sftp.CMD_DATA:
            raise OSError("the server answered a read with neither data nor an error")
        block: bytes = message.get_string()
        if len(block) > requested_bytes:
            raise OSError("the server answered a read with more bytes than requested")
        return block


def extended_request(client: SFTPClient, name: str, *arguments: Any) -> Message | None:  # noqa: ANN401 - what paramiko packs
    """Send an extended request (§8) and return the response, empty for the status OK; None where it is unsupported.

    Raises OSError.
    """
    pipeline = RequestPipeline(client)
    try:
        kind, message = pipeline.wait(pipeline.send(sftp.CMD_EXTENDED, name.encode(), *arguments))
    except OperationUnsupported:
        return None
    if kind not in (sftp.CMD_EXTENDED_REPLY, sftp.CMD_STATUS):
        raise OSError(f"the server answered {name} with a packet of kind {kind}")
    return message if kind == sftp.CMD_EXTENDED_REPLY else Message()


class Limits(NamedTuple):
    """What a server allows: bytes in a read or a write, and open files on a channel."""

    block_bytes: int
    open_files: int


def find_limits(client: SFTPClient) -> Limits:
    """Return what the server allows (PROTOCOL, limits@openssh.com), or what every server does."""
    try:
        limits = extended_request(client, "limits@openssh.com")
    except OSError:
        limits = None
    if limits is None:
        return Limits(SAFE_BLOCK_BYTES, SAFE_OPEN_FILES)
    _packet, read, write, open_files = (limits.get_int64() for _ in range(4))
    allowed = min(LARGEST_BLOCK_BYTES, read or LARGEST_BLOCK_BYTES, write or LARGEST_BLOCK_BYTES)
    return Limits(max(SAFE_BLOCK_BYTES, allowed), open_files or SAFE_OPEN_FILES)


def attributes_with(mode: int | None) -> Any:  # noqa: ANN401 - paramiko's class has no types
    """Return attributes that set this mode, or nothing where it is None."""
    attributes = SFTPAttributes()
    attributes.st_mode = mode
    return attributes


def stat_many(client: SFTPClient, paths: Sequence[str]) -> tuple[SFTPAttributes | None, ...]:
    """Return the attributes of each path (of a link itself; None: missing) in one round trip. Raises OSError."""
    pipeline = RequestPipeline(client)
    numbers = [pipeline.send(sftp.CMD_LSTAT, path) for path in paths]
    found: list[SFTPAttributes | None] = [None] * len(numbers)
    for index, number in enumerate(numbers):
        with suppress(FileNotFoundError):
            found[index] = pipeline.wait_attributes(number)
    return tuple(found)
