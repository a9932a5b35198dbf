"""Bytes over SFTP, many requests under way at once, and the answer to each of them looked at.

paramiko's own `put` and pipelined files throw away the answers that come late: a write that failed in the middle of a
file goes unnoticed. So requests are sent here one by one (draft-ietf-secsh-filexfer-02 §6.4), by its client.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from paramiko import Message, SFTPClient, SFTPFile
from paramiko.sftp import CMD_DATA, CMD_EXTENDED, CMD_EXTENDED_REPLY, CMD_READ, CMD_STATUS, CMD_WRITE, int64

# Every server takes packets of 34,000 bytes (§3); OpenSSH tells of larger ones (limits@openssh.com).
SAFE_BLOCK_BYTES: Final = 32 << 10
LARGEST_BLOCK_BYTES: Final = 255 << 10
IN_FLIGHT_BYTES: Final = 4 << 20  # of writes, in each channel
WINDOW_BYTES: Final = 16 << 20  # of a channel, on the way back to us: 2 MiB, as paramiko has it, hold a long line up


class WriteRefused(OSError):
    """The server did not take what it was sent, for want of room above all; the connection is as good as before."""


class Writes:
    """Writes under way through one channel to one open file; `heard` is called at each answer."""

    def __init__(self, client: SFTPClient, handle: bytes, heard: Callable[[], None]) -> None:
        self.client: Any = client  # what is used of it has no public name, and so no types
        self.handle = handle
        self._bytes: dict[int, int] = {}
        self._in_flight_bytes = 0
        self._error: OSError | None = None
        self._heard = heard

    def write(self, offset: int, block: bytes) -> None:
        """Send `block` for `offset`; waits when much is under way. Raises WriteRefused as soon as any write was."""
        while self._in_flight_bytes >= IN_FLIGHT_BYTES:
            self._hear()
        number = self.client._async_request(self, CMD_WRITE, self.handle, int64(offset), block)  # noqa: SLF001 - no other way to see the answer
        self._bytes[number] = len(block)
        self._in_flight_bytes += len(block)

    def finish(self) -> None:
        """Wait for the answers to all writes. Raises WriteRefused when any of them was."""
        while self._bytes:
            self._hear()

    def _hear(self) -> None:
        self.client._read_response()  # noqa: SLF001 - as above
        if self._error is not None:
            raise self._error

    def _async_response(self, _kind: int, message: Message, number: int) -> None:
        """Take the answer to one write; paramiko calls this."""
        self._in_flight_bytes -= self._bytes.pop(number)
        self._heard()
        try:
            self.client._convert_status(message)  # noqa: SLF001 - as above
        except (OSError, EOFError) as error:
            self._error = self._error or WriteRefused(str(error))


class Reads:
    """Reads under way through one channel from one open file, answered in any order."""

    def __init__(self, client: SFTPClient, file: SFTPFile, block_bytes: int) -> None:
        self._client: Any = client  # as above
        self._handle, self._block_bytes = file.handle, block_bytes
        self._answers: dict[int, bytes | OSError | None] = {}

    def blocks(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield what the file holds from `begin` to `end`, in order; ends early where the file does. Raises OSError."""
        asked: deque[tuple[int, int, int]] = deque()
        offset, limit = begin, max(1, WINDOW_BYTES // self._block_bytes)
        while offset < end or asked:
            while offset < end and len(asked) < limit:
                length = min(self._block_bytes, end - offset)
                asked.append((self._ask(offset, length), offset, length))
                offset += length
            number, at, length = asked.popleft()
            block = self._answer(number, length)
            yield block
            if len(block) < length:  # a server may answer with less than was asked for, also in the middle
                rest = self._rest(at + len(block), length - len(block))
                yield rest
                if len(block) + len(rest) < length:
                    return

    def beginning(self, limit_bytes: int) -> bytes:
        """Return what the file holds, at most `limit_bytes`; for small ones, of which nobody knows the size."""
        first_bytes = min(limit_bytes, self._block_bytes)
        first = self._rest(0, first_bytes)
        if len(first) < first_bytes:
            return first
        return first + b"".join(self.blocks(first_bytes, limit_bytes))

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
        number: int = self._client._async_request(self, CMD_READ, self._handle, int64(offset), length)  # noqa: SLF001 - as above
        return number

    def _answer(self, number: int, asked_bytes: int) -> bytes:
        while number not in self._answers:
            self._client._read_response()  # noqa: SLF001 - as above
        answer = self._answers.pop(number)
        if isinstance(answer, OSError):
            raise answer
        if answer is not None and len(answer) > asked_bytes:
            raise OSError("the server answered a read with more than it was asked for")
        return answer or b""

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        """Take the answer to one read; paramiko calls this."""
        if kind == CMD_DATA:
            self._answers[number] = message.get_string()
            return
        try:
            self._client._convert_status(message)  # noqa: SLF001 - as above
        except EOFError:
            self._answers[number] = None
        except OSError as error:
            self._answers[number] = error
        else:
            self._answers[number] = OSError("the server answered a read with neither data nor an error")


def ask(client: SFTPClient, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
    """Ask without waiting; returns the number by which `hear` knows the answer. Raises SSHException, OSError."""
    asking: Any = client  # as above
    number: int = asking._async_request(type(None), kind, *arguments)  # noqa: SLF001 - as above
    return number


def hear(client: SFTPClient, number: int) -> tuple[int, Message]:
    """Wait for the answer to what was asked by `ask`. Raises OSError when it is no, SSHException."""
    asked: Any = client  # as above
    kind, message = asked._read_response(number)  # noqa: SLF001 - as above
    return kind, message


def extended(client: SFTPClient, name: str, *arguments: Any) -> Message | None:  # noqa: ANN401 - what paramiko packs
    """Ask for an extension (§8), such as fsync@openssh.com; None when the server does not know it. Raises OSError.

    An answer that is a status and good is an empty message.
    """
    asking: Any = client  # as above
    try:
        kind, message = asking._request(CMD_EXTENDED, name.encode(), *arguments)  # noqa: SLF001 - paramiko has no API for it
    except OSError as error:
        if error.errno is None and "unsupported" in str(error).lower():
            return None
        raise
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
