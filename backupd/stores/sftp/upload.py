"""Send a file so that what arrived is known, byte for byte, and what arrived before is not sent again."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from paramiko import SFTPClient, SSHException

from backupd.errors import CopyCorrupt
from backupd.model import NoProgress, Progress
from backupd.stores.contract import ProvenBy, Transfer
from backupd.stores.sftp.lanes import opened_lanes
from backupd.stores.sftp.link import CHANNELS, Link
from backupd.stores.sftp.remote import made_durable
from backupd.stores.sftp.remotehash import RemoteHash
from backupd.stores.sftp.wire import IN_FLIGHT_BYTES, Reads, WriteRefused

Advance = Callable[[int], None]


class Proven:
    """How much of each part is proven and on the disk there, for as long as this lives: longer than one link.

    `progress` sees what is done: sending is a stage of whoever lets it be sent, reading back one of its own. A
    `remote_hash` is asked first.
    """

    def __init__(self, progress: Progress | None = None, remote_hash: RemoteHash | None = None) -> None:
        self._bytes: dict[str, int] = {}
        self.progress = progress or NoProgress()
        self._remote_hash = remote_hash

    @property
    def doubt(self) -> str:
        """Why copies are read back though another proof was asked for."""
        return self._remote_hash.trouble if self._remote_hash else ""

    def by_hash(self, source: BinaryIO, remote: str, size_bytes: int, link: Link) -> bool:
        """Tell whether the other host has confirmed that `remote` begins with so many bytes of `source`."""
        return self._remote_hash is not None and self._remote_hash.confirms(source, remote, size_bytes, link)

    def so_far(self, part: str, there_bytes: int) -> int:
        """Return how many bytes of `part`, which has so many, need not be read back again."""
        known = self._bytes.get(part, 0)
        return known if known <= there_bytes else 0

    def keep(self, part: str, proven_bytes: int) -> None:
        """Note that so much of `part` is right and survives a power cut."""
        self._bytes[part] = proven_bytes


_READ_BACK: Final[ProvenBy] = "read-back"


def upload(local: Path, part: str, link: Link, proven: Proven) -> Transfer:
    """Make the remote file `part` equal to `local`, durable where the server can, and prove it.

    What an earlier try left there is kept as far as it proves right, but for what `proven` knows of an earlier link.
    Raises CopyCorrupt when what comes back is not what was sent, ReplicaUnreachable, OSError.
    """
    size_bytes = local.stat().st_size
    with local.open("rb", buffering=0) as source:
        there = _size(link.client, part)
        right, by = _kept(source, part, link, min(there, size_bytes), proven) if there else (0, _READ_BACK)
        if there > right:
            _cut(link.client, part, right)
        if right < size_bytes or not there:
            with _taken_back(link.client, part):
                _send(source, part, link, right, size_bytes, proven.progress.advance)
            proven.progress.stage("prove", size_bytes)
            equal, by = compare(source, part, link, right, size_bytes, proven)
            if equal < size_bytes:
                raise CopyCorrupt(
                    f"{part} reads back other than it was written, from byte {equal} on",
                    "test the disk and the memory of that host; it is sent again the next time",
                )
    return Transfer(size_bytes - right, right, by, proven.doubt)


def _kept(source: BinaryIO, part: str, link: Link, there_bytes: int, proven: Proven) -> tuple[int, ProvenBy]:
    """Return how much of what is there is right; it is noted only once a power cut there cannot take it away."""
    known, by = proven.so_far(part, there_bytes), _READ_BACK
    if there_bytes == os.fstat(source.fileno()).st_size:
        right, by = compare(source, part, link, known, there_bytes, proven)
    else:
        without_gaps = there_bytes - CHANNELS * IN_FLIGHT_BYTES  # what was under way may have arrived in any order
        if known < without_gaps and proven.by_hash(source, part, without_gaps, link):
            known = without_gaps
        right = matching(source, part, link, known, there_bytes, proven.progress.advance)
    with suppress(PermissionError), link.client.open(part, "r+") as file:
        if made_durable(link.client, file.handle):
            proven.keep(part, right)
    return right, by


def compare(source: BinaryIO, remote: str, link: Link, begin: int, end: int, proven: Proven) -> tuple[int, ProvenBy]:
    """Return up to where the remote file equals `source`, as it is known to do up to `begin`, and how that was found.

    The host is asked where that is wished; what it does not confirm is read back. Raises ReplicaUnreachable, OSError.
    """
    if proven.by_hash(source, remote, end, link):
        return end, "remote-hash"
    return matching(source, remote, link, begin, end, proven.progress.advance), _READ_BACK


def matching(source: BinaryIO, remote: str, link: Link, begin: int, end: int, advance: Advance) -> int:
    """Return up to where, from `begin` to `end`, the remote file equals `source`; `advance` hears on the way."""
    at = begin
    source.seek(begin)
    with link.client.open(remote, "r") as file, link.watched() as watchdog:
        for block in Reads(link.client, file, link.block_bytes).blocks(begin, end):
            watchdog.alive()
            mine = source.read(len(block))
            if mine != block:
                return at + _common(mine, block)
            at += len(block)
            advance(at)
    return at


def _send(source: BinaryIO, part: str, link: Link, begin: int, end: int, advance: Advance) -> None:
    """Write from `begin` to `end` through as many channels as pay, and make it durable."""
    size = link.block_bytes
    clients = link.widen(1 + (end - begin) // IN_FLIGHT_BYTES)
    source.seek(begin)
    with link.watched() as watchdog, opened_lanes(clients, part, watchdog.alive, new=begin == 0) as lanes:
        for number, offset in enumerate(range(begin, end, size)):
            lanes[number % len(lanes)].write(offset, source.read(min(size, end - offset)))
            advance(offset)
        for lane in lanes:
            lane.finish()
        made_durable(lanes[0].client, lanes[0].handle)


@contextmanager
def _taken_back(client: SFTPClient, part: str) -> Iterator[None]:
    """Remove what was sent when the server takes no more: a part that fills a disk is in the way of everybody there."""
    try:
        yield
    except WriteRefused:
        with suppress(OSError, EOFError, SSHException):
            client.remove(part)
        raise


def _cut(client: SFTPClient, part: str, size_bytes: int) -> None:
    """Take away what is wrong from `size_bytes` on; a server that cannot cut has all of it written over."""
    with suppress(OSError):
        client.truncate(part, size_bytes)


def _size(client: SFTPClient, path: str) -> int:
    try:
        return client.stat(path).st_size or 0
    except FileNotFoundError:
        return 0


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
