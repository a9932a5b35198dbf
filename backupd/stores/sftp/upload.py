"""Send a file so that what arrived is known, byte for byte, and what arrived before is not sent again."""

import hashlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from paramiko import Channel, SFTPClient, SSHException
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_FSETSTAT,
    CMD_OPEN,
    SFTP_FLAG_CREATE,
    SFTP_FLAG_EXCL,
    SFTP_FLAG_READ,
    SFTP_FLAG_WRITE,
    SFTPError,
)

from backupd.errors import CopyCorrupt
from backupd.model import NoProgress, Progress
from backupd.stores.contract import Transfer, VerificationMethod
from backupd.stores.sftp.connection import CHANNELS, SftpConnection
from backupd.stores.sftp.files import flush, is_file, made_durable
from backupd.stores.sftp.protocol import (
    IN_FLIGHT_BYTES,
    WRITE_BLOCK_BYTES,
    Reads,
    RequestPipeline,
    WriteRefused,
    Writes,
    attributes_of,
)

_UPDATE: Final = SFTP_FLAG_READ | SFTP_FLAG_WRITE
_ANEW: Final = _UPDATE | SFTP_FLAG_CREATE | SFTP_FLAG_EXCL
_PRIVATE: Final = 0o600
_TROUBLE: Final = (OSError, EOFError, SSHException, SFTPError)


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


_ANSWER: Final = re.compile(rb"([0-9a-f]{64}) [ *]-\r?\n", re.ASCII)  # GNU, busybox and uutils alike
_LONGEST_ANSWER_BYTES: Final = 256
_SLOWEST_BYTES_S: Final = 8 << 20  # half of what the slowest NAS does
_LOOK_S: Final = 1.0
_PIECE_BYTES: Final = 1 << 20


class RemoteHash:
    """Asks the other host; one that did not answer as it should is not asked again for as long as this lives."""

    def __init__(self, least_s: float = 60.0) -> None:
        """Wait `least_s` seconds for an answer, and longer for large files."""
        self._least_s = least_s
        self.trouble = ""  # why copies are read back instead

    def confirms(self, source: BinaryIO, path: str, size_bytes: int, link: SftpConnection) -> bool:
        """Tell whether the remote file `path` begins with the first `size_bytes` of `source`, by its host's word.

        Raises nothing of the network: a connection that was lost is noticed by whoever uses it next.
        """
        if self.trouble:
            return False
        answer = b""
        with suppress(SSHException, EOFError, OSError):
            command = f"head -c {size_bytes} < {shlex.quote(path)} | sha256sum"
            answer = _answer(link, command, self._least_s + size_bytes / _SLOWEST_BYTES_S)
        found = _ANSWER.fullmatch(answer)
        if found is None:
            self.trouble = "there is no shell with head and sha256sum for us"
        return found is not None and found[1].decode() == _digest(source, size_bytes)


Advance = Callable[[int], None]


class VerifiedParts:
    """How much of each part is proven and on the disk there, for as long as this lives: longer than one link.

    `progress` sees what is done: sending is a stage of whoever lets it be sent, reading back one of its own. A
    `remote_hash` is asked first.
    """

    def __init__(self, progress: Progress | None = None, remote_hash: RemoteHash | None = None) -> None:
        self._bytes: dict[str, int] = {}
        self.sent_bytes = 0  # over all links, also in vain
        self.progress = progress or NoProgress()
        self._remote_hash = remote_hash

    @property
    def doubt(self) -> str:
        """Why copies are read back though another proof was asked for."""
        return self._remote_hash.trouble if self._remote_hash else ""

    @property
    def reads_back(self) -> bool:
        """Whether all is read back, since nothing else proves it."""
        return self._remote_hash is None or bool(self._remote_hash.trouble)

    def by_hash(self, source: BinaryIO, remote: str, size_bytes: int, link: SftpConnection) -> bool:
        """Tell whether the other host has confirmed that `remote` begins with so many bytes of `source`."""
        return self._remote_hash is not None and self._remote_hash.confirms(source, remote, size_bytes, link)

    def so_far(self, part: str, there_bytes: int) -> int:
        """Return how many bytes of `part`, which has so many, need not be read back again."""
        known = self._bytes.get(part, 0)
        return known if known <= there_bytes else 0

    def forget(self, part: str, right_bytes: int) -> None:
        """Note that no more of `part` is right than that: what follows is about to be written."""
        self._bytes[part] = min(self._bytes.get(part, 0), right_bytes)

    def keep(self, part: str, proven_bytes: int) -> None:
        """Note that so much of `part` is right and survives a power cut."""
        self._bytes[part] = proven_bytes


_READ_BACK: Final[VerificationMethod] = "read-back"


def upload(local: Path, part: str, link: SftpConnection, proven: VerifiedParts) -> Transfer:
    """Make the remote file `part` equal to `local`, durable where the server can, and prove it.

    What an earlier try left there is kept as far as it proves right, but for what `proven` knows of an earlier link.
    Raises CopyCorrupt when what comes back is not what was sent, ReplicaUnreachable, OSError.
    """
    size_bytes = local.stat().st_size
    link.widen(_channels_for(size_bytes))
    with local.open("rb", buffering=0) as source:
        there = _found(link.client, part)
        right, by = _kept(source, part, link, min(there, size_bytes), proven) if there else (0, _READ_BACK)
        if there is not None and (there > right or not right):
            right = _cut(link.client, part, right, size_bytes)
        proven.forget(part, right)
        if right < size_bytes or not there:
            with partial_removed_on_error(link.client, part):
                equal = _send(source, part, link, right, size_bytes, proven)
            equal, by = compare(source, part, link, equal, size_bytes, proven)
            if equal < size_bytes:
                raise CopyCorrupt(
                    f"{part} reads back other than it was written, from byte {equal} on",
                    "test the disk and the memory of that host; it is sent again the next time",
                )
    return Transfer(size_bytes - right, right, by, proven.doubt)


def _kept(
    source: BinaryIO, part: str, link: SftpConnection, there_bytes: int, proven: VerifiedParts
) -> tuple[int, VerificationMethod]:
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


def compare(
    source: BinaryIO, remote: str, link: SftpConnection, begin: int, end: int, proven: VerifiedParts
) -> tuple[int, VerificationMethod]:
    """Return up to where the remote file equals `source`, as it is known to do up to `begin`, and how that was found.

    The host is asked where that is wished; what it does not confirm is read back. Raises ReplicaUnreachable, OSError.
    """
    if proven.by_hash(source, remote, end, link):
        return end, "remote-hash"
    return matching(source, remote, link, begin, end, proven.progress.advance), _READ_BACK


def matching(source: BinaryIO, remote: str, link: SftpConnection, begin: int, end: int, advance: Advance) -> int:
    """Return up to where, from `begin` to `end`, the remote file equals `source`; `advance` hears on the way."""
    if begin == end:
        return end
    with link.client.open(remote, "r") as file, link.watched() as watchdog:
        back = ReadBack(source, link.client, file.handle, begin, link.block_bytes)
        return back.finish(end, _heard(watchdog.alive, advance))


def _send(source: BinaryIO, part: str, link: SftpConnection, begin: int, end: int, proven: VerifiedParts) -> int:
    """Write from `begin` to `end` through as many channels as pay, and make it durable.

    Returns up to where it was read back on the way: that may be nowhere, and proves no fault.
    """
    clients, size = link.channels(_channels_for(end - begin)), min(WRITE_BLOCK_BYTES, link.block_bytes)
    with link.watched() as watchdog, opened_lanes(clients, part, watchdog.alive, new=begin == 0) as lanes:
        back = ReadBack(source, lanes[0].client, lanes[0].handle, begin, link.block_bytes)
        for number, offset in enumerate(range(begin, end, size)):
            block = os.pread(source.fileno(), min(size, end - offset), offset)
            lanes[number % len(lanes)].write(offset, block)
            proven.sent_bytes += len(block)
            proven.progress.advance(offset)
            if proven.reads_back:
                back.follow(min(lane.written_up_to(offset) for lane in lanes), wait=link.is_near)
        for lane in lanes:
            lane.finish()
        flush(lanes[0].client, lanes[0].handle)
        proven.progress.stage("prove", end)
        if proven.reads_back:
            with suppress(OSError):  # such as a server that gives no file back while it is written to
                back.finish(end, _heard(watchdog.alive, proven.progress.advance))
        return back.equal_bytes


def _channels_for(size_bytes: int) -> int:
    """Return how many channels so much can fill."""
    return 1 + size_bytes // IN_FLIGHT_BYTES


def _heard(alive: Callable[[], None], advance: Advance) -> Advance:
    def heard(at: int) -> None:
        alive()
        advance(at)

    return heard


@contextmanager
def partial_removed_on_error(client: SFTPClient, part: str) -> Iterator[None]:
    """Remove what was sent when the server takes no more: a part that fills a disk is in the way of everybody there."""
    try:
        yield
    except WriteRefused:
        with suppress(OSError, EOFError, SSHException):
            client.remove(part)
        raise


def _found(client: SFTPClient, part: str) -> int | None:
    """Return the size of `part`, None when there is none; what is no file, but a link, goes. Raises OSError."""
    try:
        found = client.lstat(part)
    except FileNotFoundError:
        return None
    if is_file(found):
        return found.st_size or 0
    client.remove(part)
    return None


def _cut(client: SFTPClient, part: str, right_bytes: int, size_bytes: int) -> int:
    """Take away what is wrong from `right_bytes` on; returns how many bytes are left and right. Raises OSError.

    A server that cannot cut has it written over, or anew where too much would be left.
    """
    if right_bytes:
        with suppress(OSError):
            client.truncate(part, right_bytes)
        if (_found(client, part) or 0) <= size_bytes:
            return right_bytes
    client.remove(part)
    return 0


@contextmanager
def opened_lanes(
    clients: Sequence[SFTPClient], part: str, heard: Callable[[], None], *, new: bool
) -> Iterator[tuple[Writes, ...]]:
    """Lend what writes to `part` through each of `clients` that may.

    A `new` one must not exist; it is private before anything is in it. `heard` is called at each answer.
    Raises OSError, SSHException.
    """
    first, *others = map(RequestPipeline, clients)
    opened = [
        (clients[0], first, first.handle(first.ask(CMD_OPEN, part, _ANEW if new else _UPDATE, attributes_of(None))))
    ]
    try:
        private = first.ask(CMD_FSETSTAT, opened[0][2], attributes_of(_PRIVATE))
        asked = [asking.ask(CMD_OPEN, part, _UPDATE, attributes_of(None)) for asking in others]
        with suppress(OSError):  # some servers know no modes; the directory is ours alone
            first.hear(private)
        for client, asking, number in zip(clients[1:], others, asked, strict=True):
            with suppress(OSError):  # a server that lets one at a time write; one lane will do
                opened.append((client, asking, asking.handle(number)))
        yield tuple(Writes(client, handle, heard) for client, _asking, handle in opened)
    except (KeyboardInterrupt, SystemExit):
        opened.clear()  # who is told to stop waits for nobody
        raise
    finally:
        _close([(asking, handle) for _client, asking, handle in opened])


def _close(opened: Sequence[tuple[RequestPipeline, bytes]]) -> None:
    """Close all, whatever the server says: the contents are proven anyway."""
    closing = []
    with suppress(*_TROUBLE):
        closing = [(asking, asking.ask(CMD_CLOSE, handle)) for asking, handle in opened]
    for asking, number in closing:
        with suppress(*_TROUBLE):
            asking.hear(number)


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _answer(link: SftpConnection, command: str, within_s: float) -> bytes:
    """Return what `command` says, as far as it is needed. Raises OSError when it takes too long, SSHException."""
    deadline = time.monotonic() + within_s
    said = b""
    with link.watched() as watchdog, link.session() as channel:
        channel.exec_command(command)  # waits for ever for a yes or a no: hence the watchdog
        channel.shutdown_write()  # an SFTP server that runs whatever is asked for ends by this
        while len(said) <= _LONGEST_ANSWER_BYTES and (piece := _piece(channel)) != b"":
            said += piece or b""
            if time.monotonic() > deadline:
                raise TimeoutError
            watchdog.alive()  # a long digest is silent until its end
    return said


def _piece(channel: Channel) -> bytes | None:
    """Return what was said meanwhile, None when nothing was, and nothing at the end."""
    channel.settimeout(_LOOK_S)
    with suppress(TimeoutError):
        return channel.recv(_LONGEST_ANSWER_BYTES)
    return None


def _digest(source: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256()
    source.seek(0)
    while size_bytes > 0 and (piece := source.read(min(_PIECE_BYTES, size_bytes))):
        digest.update(piece)
        size_bytes -= len(piece)
    return digest.hexdigest()
