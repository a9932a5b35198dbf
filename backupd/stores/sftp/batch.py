"""Thousands of small requests on one channel, in few packets: paramiko packs, locks and sends each by itself.

That takes its time ten times over, which is more than a server takes for a small file. What the server sends is as
untrusted as everywhere: every length is checked before what it announces is read.
"""

import select
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple

from paramiko import Channel, SFTPAttributes, SFTPClient, sftp

from backupd.stores.sftp.connection import Watchdog
from backupd.stores.sftp.paramiko_internals import (
    MAX_HANDLE_BYTES,
    MAX_SFTP_BYTES,
    ConnectionLost,
    ProtocolViolated,
    settle,
    status_error,
)

_FLUSH_BYTES: Final = 256 << 10
_RECEIVE_BYTES: Final = 1 << 20
_HEAD: Final = struct.Struct(">IBI")  # of each packet: its length from here on, its kind, the number of the request
_INT: Final = struct.Struct(">I")
_HEAD_BYTES: Final = 5  # of what the length counts
_WAIT_S: Final = 1.0

Answered = Callable[[int, bytes], None]


def text(value: bytes) -> bytes:
    """Return `value` as requests contain it."""
    return _INT.pack(len(value)) + value


class RequestBatch:
    """Requests on one channel, each with the function that gets its answer: its kind of packet and what follows.

    Nothing else may use the channel before every answer came; an error in between ends the connection.
    """

    def __init__(self, client: SFTPClient) -> None:
        settle(client)
        channel = client.get_channel()
        if channel is None:
            raise ConnectionLost("it was closed")
        self.channel: Channel = channel
        self._number = 0
        self._answers: dict[int, Answered] = {}
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._received = bytearray()

    @property
    def is_done(self) -> bool:
        """Whether every request was answered."""
        return not self._answers

    def send(self, kind: int, body: bytes, answered: Answered) -> None:
        """Send a request, together with others. Raises ConnectionLost."""
        self._number += 1
        self._answers[self._number] = answered
        self._unsent += (_HEAD.pack(_HEAD_BYTES + len(body), kind, self._number), body)
        self._unsent_bytes += _HEAD.size + len(body)
        if self._unsent_bytes >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was not sent yet. Raises ConnectionLost."""
        if self._unsent:
            data, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
            try:
                self.channel.sendall(data)
            except (OSError, EOFError) as error:
                raise self._lost(error) from error

    def receive(self) -> None:
        """Wait for answers, and pass on all that have come. Raises ConnectionLost, ProtocolViolated."""
        try:
            piece = self.channel.recv(_RECEIVE_BYTES)
        except (OSError, EOFError) as error:
            raise self._lost(error) from error
        if not piece:
            raise self._lost(EOFError())
        received, begin = self._received, 0
        received += piece
        while len(received) - begin >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(received, begin)
            if not _HEAD_BYTES <= length <= MAX_SFTP_BYTES:
                raise ProtocolViolated(f"it sends a packet of {length} bytes")
            end = begin + _INT.size + length
            if end > len(received):
                break
            answered = self._answers.pop(number, None)
            if answered is None:
                raise ProtocolViolated("it answers a request that was not made")
            answered(kind, bytes(received[begin + _HEAD.size : end]))
            begin = end
        del received[:begin]

    def _lost(self, error: Exception) -> ConnectionLost:
        self.channel.get_transport().close()
        return ConnectionLost("the server does not answer" if isinstance(error, TimeoutError) else "it was closed")


def finish(batches: Collection[RequestBatch], watchdog: Watchdog) -> None:
    """Receive until every request is answered, those included that answers lead to.

    Raises ConnectionLost, ProtocolViolated, and what the functions raise that get the answers; the connection is closed
    then, since the other answers are still to come.
    """
    with watchdog.watching():
        try:
            while waiting := [batch for batch in batches if not batch.is_done]:
                for batch in waiting:
                    batch.flush()
                for batch in _readable(waiting):
                    batch.receive()
                    watchdog.reset()
        except BaseException:
            watchdog.close()
            raise


def _readable(batches: Sequence[RequestBatch]) -> Sequence[RequestBatch]:
    """Return those that something has come for; the one that there is, for which `receive` waits."""
    if len(batches) == 1:
        return batches
    readable = select.select([batch.channel for batch in batches], (), (), _WAIT_S)[0]
    return [batch for batch in batches if batch.channel in readable]


def is_end(kind: int, body: bytes) -> bool:
    """Tell whether an answer says that a listing or a file ends."""
    return kind == sftp.CMD_STATUS and body[: _INT.size] == _INT.pack(sftp.SFTP_EOF)


def require_ok(kind: int, body: bytes, what: str) -> None:
    """Raise OSError where an answer is no status OK: the server cannot do `what`."""
    if kind != sftp.CMD_STATUS:
        raise unexpected(kind, what)
    if error := status_error(body, what):
        raise error


def handle_in(kind: int, body: bytes, what: str) -> bytes:
    """Return the handle in an answer, packed as requests contain it. Raises OSError, ProtocolViolated."""
    if kind != sftp.CMD_HANDLE:
        require_ok(kind, body, what)
        raise unexpected(kind, what)
    length = len(body) - _INT.size
    if not 0 <= length <= MAX_HANDLE_BYTES or body[: _INT.size] != _INT.pack(length):
        raise ProtocolViolated(f"it sends a handle of {len(body)} bytes")
    return body


def data_in(kind: int, body: bytes, wanted: int, what: str) -> bytes:
    """Return the data in the answer to a read of `wanted` bytes, none at the end of the file. Raises OSError."""
    if is_end(kind, body):
        return b""
    if kind != sftp.CMD_DATA:
        require_ok(kind, body, what)
        raise unexpected(kind, what)
    if len(body) > _INT.size + wanted:
        raise OSError(f"cannot {what}: the server answers with more bytes than requested")
    return body[_INT.size :]


def unexpected(kind: int, what: str) -> OSError:
    """Return the error for an answer that no such request has."""
    return OSError(f"cannot {what}: the server answers with a packet of kind {kind}")


class Entry(NamedTuple):
    """A name in a directory; a NamedTuple, since directories are large. None for what the server does not say."""

    name: bytes
    size_bytes: int | None
    mode: int | None
    mtime_s: int | None


_SIZE: Final = struct.Struct(">Q")
_TIMES: Final = struct.Struct(">II")


def entries_in(body: bytes) -> Iterator[Entry]:
    """Yield the entries in an answer of the kind NAME (draft §7). Raises ProtocolViolated for one that is cut."""
    try:
        (count,), at = _INT.unpack_from(body), _INT.size
        for _ in range(count):
            name, at = _text_at(body, at)
            at += _INT.size + _INT.unpack_from(body, at)[0]  # a long name, for people
            (flags,), at = _INT.unpack_from(body, at), at + _INT.size
            size = mode = mtime = None
            if flags & SFTPAttributes.FLAG_SIZE:
                (size,), at = _SIZE.unpack_from(body, at), at + _SIZE.size
            if flags & SFTPAttributes.FLAG_UIDGID:
                at += _TIMES.size
            if flags & SFTPAttributes.FLAG_PERMISSIONS:
                (mode,), at = _INT.unpack_from(body, at), at + _INT.size
            if flags & SFTPAttributes.FLAG_AMTIME:
                (_, mtime), at = _TIMES.unpack_from(body, at), at + _TIMES.size
            if flags & SFTPAttributes.FLAG_EXTENDED:
                (pairs,), at = _INT.unpack_from(body, at), at + _INT.size
                for _ in range(2 * pairs):
                    _, at = _text_at(body, at)
            yield Entry(name, size, mode, mtime)
    except struct.error:
        raise ProtocolViolated("it claims entries in a packet that ends before them") from None


def _text_at(body: bytes, at: int) -> tuple[bytes, int]:
    begin = at + _INT.size
    end = begin + _INT.unpack_from(body, at)[0]
    if end > len(body):
        raise struct.error
    return body[begin:end], end
