"""Digests that the other host computes, where the account has a shell: they spare the way back of each byte.

What comes back is a stranger's word: it counts only when it is, in whole, what sha256sum says of its standard input.
Whatever else happens, the copy is read back: a digest can spare that, and decides nothing else.
"""

import hashlib
import re
import shlex
import time
from contextlib import suppress
from typing import BinaryIO, Final

from paramiko import Channel, SSHException

from backupd.stores.sftp.link import Link

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

    def confirms(self, source: BinaryIO, path: str, size_bytes: int, link: Link) -> bool:
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


def _answer(link: Link, command: str, within_s: float) -> bytes:
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
