"""Read archives of a replica over as many connections as that takes: a lost one costs only what it had under way."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO

from backupd.errors import ReplicaUnreachable
from backupd.jobs.retry import Retry
from backupd.jobs.send import told_of
from backupd.stores.contract import Archives

Connect = Callable[[], AbstractContextManager[Archives]]

_BUFFER_BYTES = 1 << 20


class ResumingArchives:
    """The archives of `first`; when its connection is lost, reading goes on over one that `connect` makes.

    `retry` says how long that is tried. Nothing of what came before is asked for again: the digest of the whole, which
    every reader compares in the end, proves that the two belong together.
    """

    def __init__(self, first: Archives, connect: Connect, retry: Retry) -> None:
        self.name = first.name
        self._first, self._connect, self._retry = first, connect, retry

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""
        with told_of(self.name):
            stream = self._first.open(generation_id, begin)
        reopen = _reopening(self._connect, generation_id)
        return io.BufferedReader(_Resuming(self.name, stream, begin, reopen, self._retry), _BUFFER_BYTES)


Reopen = Callable[[int, ExitStack], BinaryIO]


def _reopening(connect: Connect, generation_id: str) -> Reopen:
    return lambda begin, stack: stack.enter_context(stack.enter_context(connect()).open(generation_id, begin))


class _Resuming(io.RawIOBase):
    def __init__(self, name: str, stream: BinaryIO, at: int, reopen: Reopen, retry: Retry) -> None:
        self._name = name
        self._stack = ExitStack()
        self._stream: BinaryIO | None = self._stack.enter_context(stream)
        self._at, self._reopen, self._retry = at, reopen, retry
        self._chunk = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer`; 0 at the end. Raises ReplicaUnreachable once it was tried for long enough, OSError."""
        self._retry(lambda: self._read(len(buffer)))
        count = len(self._chunk)
        buffer[:count] = self._chunk
        self._at += count
        return count

    def close(self) -> None:
        """Let go of the archive, and of the connection that was made for it."""
        if not self.closed:
            self._stack.close()
        super().close()

    def _read(self, size_bytes: int) -> None:
        try:
            with told_of(self._name):
                if self._stream is None:
                    self._stream = self._reopen(self._at, self._stack)
                self._chunk = self._stream.read(size_bytes)
        except ReplicaUnreachable:
            self._stream = None
            self._stack.close()
            raise
