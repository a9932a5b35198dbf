"""Edits of the index of a set of files, as they go over a socket to the parent.

    =N          the next N lines of the index hold still
    -N          the next N lines are gone, or another one follows
    +LINE       a new line, without its day; the content of a file is `?`, its open descriptor comes with the message
    .JSON       the end

The parent asks for each message by one byte.
"""

import json
import os
import socket
from typing import Final

MESSAGE_BYTES: Final = 96 << 10  # at most: the socket's buffer takes more
FILES_OF_A_MESSAGE: Final = 64
END: Final = b"."
_FULL_BYTES: Final = 32 << 10


class Edits:
    """The edits that the parent has not asked for yet, at most one message of them."""

    def __init__(self, peer: socket.socket, most_together: int) -> None:
        self._peer, self._most_together = peer, most_together
        self._count, self._sign = 0, b"="
        self._parts = list[bytes]()
        self._size = 0
        self._descriptors = list[int]()

    def keep(self, count: int) -> None:
        """Keep the next lines of the index."""
        if self._sign == b"=":
            self._count += count
        elif count:
            self._run(b"=", count)

    def drop(self) -> None:
        """Drop the next line of the index."""
        if self._sign == b"-":
            self._count += 1
        else:
            self._run(b"-")

    def add(self, line: bytes, descriptor: int) -> None:
        """Add a line; the `descriptor` of its file (-1: none) is closed once it was sent."""
        self._run(b"=", 0)
        self._append(b"+%s\n" % line)
        if descriptor >= 0:
            self._descriptors.append(descriptor)
        if self._size >= _FULL_BYTES or len(self._descriptors) == self._most_together:
            self._send()

    def end(self, reply: object) -> None:
        """Send the rest, and `reply` as JSON; begin anew."""
        self._run(b"=", 0)
        self._send()
        self._append(END + json.dumps(reply).encode())
        self._send()

    def _run(self, sign: bytes, count: int = 1) -> None:
        if self._count:
            self._append(b"%s%d\n" % (self._sign, self._count))
        self._sign, self._count = sign, count

    def _append(self, part: bytes) -> None:
        if self._size + len(part) > MESSAGE_BYTES:
            self._send()
        self._parts.append(part)
        self._size += len(part)

    def _send(self) -> None:
        if not self._parts:
            return
        if not self._peer.recv(1):  # the parent has ended
            raise SystemExit
        socket.send_fds(self._peer, [b"".join(self._parts)], self._descriptors)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._parts, self._size, self._descriptors = [], 0, []
