"""Bytes over SFTP, many requests under way at once, and the answer to each of them looked at.

paramiko's own `put` and pipelined files throw away the answers that come late: a write that failed in the middle of a
file goes unnoticed. So requests are sent here one by one (draft-ietf-secsh-filexfer-02 §6.4), by its client.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from paramiko import Message, SFTPAttributes, SFTPClient
from paramiko.sftp import (
    CMD_ATTRS,
    CMD_DATA,
    CMD_EXTENDED,
    CMD_EXTENDED_REPLY,
    CMD_HANDLE,
    CMD_LSTAT,
    CMD_READ,
    CMD_STATUS,
    CMD_WRITE,
    int64,
)

from backupd.stores.sftp.client import Unsupported
from backupd.stores.sftp.paramiko_internals import (
    ResponseReceiver,
    raise_for_status,
    read_attributes,
    receive_response,
    send_request,
)


class RequestPipeline(ResponseReceiver):
    """Asks a server without waiting, and hears its answers whatever order they come in (draft §6.1)."""

    def __init__(self, client: SFTPClient) -> None:
        self._client = client
        self._answers: dict[int, tuple[int, Message]] = {}

    def ask(self, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
        """Send a request; returns the number by which `hear` knows its answer. Raises SSHException, OSError."""
        return send_request(self._client, self, kind, *arguments)

    def has(self, number: int) -> bool:
        """Tell whether an answer is there."""
        return number in self._answers

    def hear(self, number: int) -> tuple[int, Message]:
        """Wait for an answer. Raises OSError when it is no, EOFError at the end of a file, SSHException."""
        while number not in self._answers:
            receive_response(self._client)
        kind, message = self._answers.pop(number)
        if kind == CMD_STATUS:
            raise_for_status(self._client, message)
        return kind, message

    def handle(self, number: int) -> bytes:
        """Wait for the handle of what was asked to be opened. Raises as `hear` does."""
        return self._of_kind(CMD_HANDLE, number).get_string()

    def attributes(self, number: int) -> SFTPAttributes:
        """Wait for the attributes that were asked for. Raises as `hear` does."""
        return read_attributes(self._of_kind(CMD_ATTRS, number))

    def _of_kind(self, wanted: int, number: int) -> Message:
        kind, message = self.hear(number)
        if kind != wanted:
            raise OSError(f"the server answered with a packet of kind {kind} instead of {wanted}")
        return message

    def receive(self, kind: int, message: Message, number: int) -> None:
        """Keep an answer until `hear` takes it."""
        self._answers[number] = kind, message


# Every server takes packets of 34,000 bytes (§3); OpenSSH tells of larger ones (limits@openssh.com).
SAFE_BLOCK_BYTES: Final = 32 << 10
LARGEST_BLOCK_BYTES: Final = 255 << 10
# Fills four packets of 32 KiB, which OpenSSH takes in a channel, less 64 bytes that paramiko leaves free in each and
# the head of the request. Larger requests are copied more often on their way, smaller ones are more (measured).
WRITE_BLOCK_BYTES: Final = 4 * ((32 << 10) - 64) - 100
IN_FLIGHT_BYTES: Final = 4 << 20  # of writes, in each channel
WINDOW_BYTES: Final = 16 << 20  # of a channel, on the way back to us: 2 MiB, as paramiko has it, hold a long line up
_ASKED_BYTES: Final = 14 << 20  # of reads under way, whose answers have heads
# In a channel, on the way back to us: with those of OpenSSH's size (its PACKET_MAX_SIZE) it reads twice as fast.
PACKET_BYTES: Final = 256 << 10


class WriteRefused(OSError):
    """The server did not take what it was sent, for want of room above all; the connection is as good as before."""


@contextmanager
def write_errors() -> Iterator[None]:
    """Raise a server's plain failure in the block as WriteRefused: it has no words for want of room (draft §7)."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise WriteRefused(str(error)) from error
        raise


class Writes(ResponseReceiver):
    """Writes under way through one channel to one open file; `heard` is called at each answer."""

    def __init__(self, client: SFTPClient, handle: bytes, heard: Callable[[], None]) -> None:
        self.client = client
        self.handle = handle
        self._under_way: dict[int, tuple[int, int]] = {}
        self._in_flight_bytes = 0
        self._error: OSError | None = None
        self._heard = heard

    def write(self, offset: int, block: bytes) -> None:
        """Send `block` for `offset`; waits when much is under way. Raises WriteRefused as soon as any write was."""
        while self._in_flight_bytes >= IN_FLIGHT_BYTES:
            receive_response(self.client)
        self._refuse()
        number = send_request(self.client, self, CMD_WRITE, self.handle, int64(offset), block)
        self._under_way[number] = offset, len(block)
        self._in_flight_bytes += len(block)

    def written_up_to(self, offset: int) -> int:
        """Return where the first write begins that is not answered, if that is before `offset`; for writes in order."""
        return min(offset, next(iter(self._under_way.values()), (offset,))[0])

    def finish(self) -> None:
        """Wait for the answers to all writes. Raises WriteRefused when any of them was."""
        while self._under_way:
            receive_response(self.client)
        self._refuse()

    def _refuse(self) -> None:
        """Raise what an answer has told, also to somebody else who listened at this channel."""
        if self._error is not None:
            raise self._error

    def receive(self, kind: int, message: Message, number: int) -> None:  # noqa: ARG002 - it is a status
        """Take the answer to one write."""
        self._in_flight_bytes -= self._under_way.pop(number)[1]
        self._heard()
        try:
            raise_for_status(self.client, message)
        except (OSError, EOFError) as error:
            self._error = self._error or WriteRefused(getattr(error, "strerror", None) or str(error))


class Reads:
    """Reads under way through one channel from one open file, from byte `begin` on; answered in any order."""

    def __init__(self, client: SFTPClient, handle: object, block_bytes: int, begin: int = 0) -> None:
        self._client = client
        self._asking, self._channel = RequestPipeline(client), client.get_channel()
        self._handle, self._block_bytes = handle, block_bytes
        self._asked: deque[tuple[int, int, int]] = deque()
        self._next = begin

    @property
    def is_coming(self) -> bool:
        """Whether an answer has begun to arrive: to a read, or to what else the channel is used for."""
        return self._channel is not None and self._channel.recv_ready()

    @property
    def is_there(self) -> bool:
        """Whether the next block can be taken without a wait; takes in what has arrived."""
        while self.is_coming:
            receive_response(self._client)
        return bool(self._asked) and self._asking.has(self._asked[0][0])

    def ask(self, end: int) -> bool:
        """Ask for what comes next, up to `end` and as far as the window goes; tells whether anything is under way."""
        while self._next < end and len(self._asked) < _ASKED_BYTES // self._block_bytes:
            length = min(self._block_bytes, end - self._next)
            self._asked.append((self._ask(self._next, length), self._next, length))
            self._next += length
        return bool(self._asked)

    def take(self) -> tuple[bytes, bool]:
        """Wait for the next block in order; tells also whether the file ends in it. Raises OSError."""
        number, at, length = self._asked.popleft()
        block = self._answer(number, length)
        if len(block) < length:  # a server may answer with less than was asked for, also in the middle
            block += self._rest(at + len(block), length - len(block))
        return block, len(block) < length

    def blocks(self, end: int) -> Iterator[bytes]:
        """Yield what the file holds up to `end`, in order; ends early where the file does. Raises OSError."""
        ended = False
        while not ended and self.ask(end):
            block, ended = self.take()
            yield block

    def beginning(self, limit_bytes: int, size_bytes: int | None = None) -> bytes:
        """Return what the file holds, at most `limit_bytes`, for small ones; where `size_bytes` is right, sooner."""
        first_bytes = min(limit_bytes, self._block_bytes)
        self.ask(first_bytes)
        number, _at, _length = self._asked.popleft()
        first = self._answer(number, first_bytes)
        if len(first) != size_bytes:
            first += self._rest(len(first), first_bytes - len(first))
        return first if len(first) < first_bytes else first + b"".join(self.blocks(limit_bytes))

    def _rest(self, offset: int, length: int) -> bytes:
        found = b""
        while len(found) < length:
            wanted = length - len(found)
            block = self._answer(self._ask(offset + len(found), wanted), wanted)
            if not block:
                break
            found += block
        return found

    def _ask(self, offset: int, length: int) -> int:
        return self._asking.ask(CMD_READ, self._handle, int64(offset), length)

    def _answer(self, number: int, asked_bytes: int) -> bytes:
        try:
            kind, message = self._asking.hear(number)
        except EOFError:
            return b""
        if kind != CMD_DATA:
            raise OSError("the server answered a read with neither data nor an error")
        block: bytes = message.get_string()
        if len(block) > asked_bytes:
            raise OSError("the server answered a read with more than it was asked for")
        return block


def extended(client: SFTPClient, name: str, *arguments: Any) -> Message | None:  # noqa: ANN401 - what paramiko packs
    """Ask for an extension (§8), such as fsync@openssh.com; None when the server does not know it. Raises OSError.

    An answer that is a status and good is an empty message.
    """
    asking = RequestPipeline(client)
    try:
        kind, message = asking.hear(asking.ask(CMD_EXTENDED, name.encode(), *arguments))
    except Unsupported:
        return None
    if kind not in (CMD_EXTENDED_REPLY, CMD_STATUS):
        raise OSError(f"the server answered {name} with a packet of kind {kind}")
    return message if kind == CMD_EXTENDED_REPLY else Message()


def block_bytes(client: SFTPClient) -> int:
    """Return the largest block that the server reads and writes at once (PROTOCOL, limits@openssh.com)."""
    try:
        limits = extended(client, "limits@openssh.com")
    except OSError:
        limits = None
    if limits is None:
        return SAFE_BLOCK_BYTES
    _packet, read, write = (limits.get_int64() for _ in range(3))
    return max(SAFE_BLOCK_BYTES, min(LARGEST_BLOCK_BYTES, read or LARGEST_BLOCK_BYTES, write or LARGEST_BLOCK_BYTES))


def attributes_of(mode: int | None) -> Any:  # noqa: ANN401 - paramiko's class has no types
    """Return what says that a file shall have this mode, or nothing of it."""
    attributes = SFTPAttributes()
    attributes.st_mode = mode
    return attributes


def looked_up(client: SFTPClient, paths: Sequence[str]) -> tuple[SFTPAttributes | None, ...]:
    """Return what is known of each of `paths`, itself and not what it links to; None of what is not there.

    Raises OSError.
    """
    asking = RequestPipeline(client)
    numbers = [asking.ask(CMD_LSTAT, path) for path in paths]
    return tuple(_attributes(asking, number) for number in numbers)


def _attributes(asking: RequestPipeline, number: int) -> SFTPAttributes | None:
    with suppress(FileNotFoundError):
        return asking.attributes(number)
    return None
