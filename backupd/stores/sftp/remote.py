"""Remote files and directories: read, list, make durable and replace, whatever the server lacks."""

import io
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from paramiko import SFTPAttributes, SFTPClient, SFTPFile
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_OPENDIR,
    CMD_READDIR,
)

from backupd.stores.sftp.asking import Asking
from backupd.stores.sftp.link import Link, lost_to
from backupd.stores.sftp.paramiko_internals import read_attributes
from backupd.stores.sftp.wire import Reads, extended, refusals

_PRIVATE: Final = 0o600


class RemoteFile(io.RawIOBase):
    """A remote file as a readable stream, from byte `begin` to its end; wrap it in io.BufferedReader."""

    def __init__(self, file: SFTPFile, begin: int, size_bytes: int, link: Link) -> None:
        self._file = file
        self._blocks = _watched_blocks(file, begin, size_bytes, link)
        self._left = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer; it has no name before Python 3.12
        """Fill `buffer` as far as the next block goes; 0 at the end. Raises ReplicaUnreachable, OSError."""
        with lost_to("the replica"):
            while not self._left:
                block = next(self._blocks, None)
                if block is None:
                    return 0
                self._left = block
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Let go of the remote file."""
        if not self.closed:
            with suppress(Exception):  # what a lost connection says at its end helps nobody
                self._file.close()
        super().close()


def _watched_blocks(file: SFTPFile, begin: int, end: int, link: Link) -> Iterator[bytes]:
    reads = Reads(link.client, file.handle, link.block_bytes, begin).blocks(end)
    while True:
        with link.watched():
            block = next(reads, None)
        if block is None:
            return
        yield block


def is_file(attributes: SFTPAttributes) -> bool:
    """Tell whether it is a regular file; a server that tells no kinds is asked for the contents anyway."""
    return attributes.st_mode is None or stat.S_IFMT(attributes.st_mode) in (0, stat.S_IFREG)


def entries(client: SFTPClient, path: str) -> Iterator[SFTPAttributes]:
    """Yield what is in the directory `path`, in any order, whatever bytes the names are made of. Raises OSError.

    paramiko's own listings end at the first name that is not UTF-8.
    """
    asking = Asking(client)
    handle = asking.handle(asking.ask(CMD_OPENDIR, path))
    while True:
        try:
            _kind, answer = asking.hear(asking.ask(CMD_READDIR, handle))
        except EOFError:
            break
        count = answer.get_int()
        if not count:
            raise OSError(f"the server lists {path} without end")
        for _ in range(count):
            name, _long = answer.get_string(), answer.get_string()
            yield read_attributes(answer, name.decode(errors="replace"))
    with suppress(OSError):
        asking.hear(asking.ask(CMD_CLOSE, handle))


def made_durable(client: SFTPClient, handle: object) -> bool:
    """Let the server flush an open file to its disk (PROTOCOL, fsync@openssh.com); False when it knows no such thing.

    Raises OSError when it fails at it.
    """
    return extended(client, "fsync@openssh.com", handle) is not None


def flush(client: SFTPClient, handle: object) -> bool:
    """Do the same after writes. Raises WriteRefused when it fails: room may be promised first and wanting then."""
    with refusals():
        return made_durable(client, handle)


def replace(client: SFTPClient, old: str, new: str) -> None:
    """Give `old` the name `new`, in one step where the server can; what bore it is gone. Raises OSError."""
    try:
        client.posix_rename(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        try:
            client.rename(old, new)  # as it should (draft §6.5), it does nothing where there is a `new`
        except FileNotFoundError:
            raise
        except OSError:
            with suppress(FileNotFoundError):
                client.remove(new)
            client.rename(old, new)


def claim(client: SFTPClient, old: str, new: str) -> None:
    """Give `old` the name `new`, which nothing bore a moment ago. Raises FileExistsError where something does, OSError.

    OpenSSH sees to it that of two who ask at once one is refused; a server whose rename overwrites cannot.
    """
    try:
        client.rename(old, new)
    except FileNotFoundError:
        raise
    except OSError as error:
        with suppress(FileNotFoundError):
            client.lstat(new)
            raise FileExistsError(f"{new} is there already") from error
        replace(client, old, new)


def space_left(client: SFTPClient, path: str) -> int | None:
    """Return the bytes free to us at `path` (PROTOCOL, statvfs@openssh.com), None when the server cannot tell."""
    try:
        answer = extended(client, "statvfs@openssh.com", path)
    except OSError:
        return None
    if answer is None:
        return None
    _block_size, fragment_bytes, _blocks, _free, available = (answer.get_int64() for _ in range(5))
    return int(fragment_bytes * available)
