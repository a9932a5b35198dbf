"""Read back what was sent, also while it is still being sent: over a long line both ways are in use at once."""

import os
from collections.abc import Callable
from typing import BinaryIO

from paramiko import SFTPClient

from backupd.stores.sftp.wire import Reads


class ReadBack:
    """Compares an open remote file with `source`, from byte `begin` on, where both are known to be equal."""

    def __init__(self, source: BinaryIO, client: SFTPClient, handle: object, begin: int, block_bytes: int) -> None:
        self._source_fd, self._block_bytes, self._began = source.fileno(), block_bytes, begin
        self._reads = Reads(client, handle, block_bytes, begin)
        self.equal_bytes = begin  # up to where both are known to be equal
        self._is_over = False  # as they differ from there on, or nothing is to be had

    def follow(self, written_bytes: int, *, wait: bool) -> None:
        """Compare what has come of the `written_bytes` there, and ask for the rest of them.

        With `wait`, what is about to come is waited for: that pays where the host is near. A server that gives no file
        back while it is written to is no longer asked.
        """
        whole_blocks = written_bytes - (written_bytes - self._began) % self._block_bytes
        try:
            while not self._is_over and self._reads.ask(whole_blocks) and self._comes(wait):
                self._take()
        except OSError:
            self._is_over = True

    def finish(self, end: int, advance: Callable[[int], None]) -> int:
        """Return up to where, at most `end`, both are equal; `advance` hears of it on the way. Raises OSError."""
        while not self._is_over and self._reads.ask(end):
            self._take()
            advance(self.equal_bytes)
        return self.equal_bytes

    def _comes(self, wait: bool) -> bool:  # noqa: FBT001 - `follow` has it by name
        return self._reads.is_coming if wait else self._reads.is_there

    def _take(self) -> None:
        theirs, ended = self._reads.take()
        mine = os.pread(self._source_fd, len(theirs), self.equal_bytes)
        self._is_over = ended or mine != theirs
        self.equal_bytes += len(mine) if mine == theirs else _common(mine, theirs)


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
