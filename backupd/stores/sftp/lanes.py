"""One remote file, open for writing through several channels: asking all of them costs one wait, not one for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from paramiko import SFTPClient, SSHException
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

from backupd.stores.sftp.asking import Asking, attributes_of
from backupd.stores.sftp.wire import Writes

_UPDATE: Final = SFTP_FLAG_READ | SFTP_FLAG_WRITE
_ANEW: Final = _UPDATE | SFTP_FLAG_CREATE | SFTP_FLAG_EXCL
_PRIVATE: Final = 0o600
_TROUBLE: Final = (OSError, EOFError, SSHException, SFTPError)


@contextmanager
def opened_lanes(
    clients: Sequence[SFTPClient], part: str, heard: Callable[[], None], *, new: bool
) -> Iterator[tuple[Writes, ...]]:
    """Lend what writes to `part` through each of `clients` that may.

    A `new` one must not exist; it is private before anything is in it. `heard` is called at each answer.
    Raises OSError, SSHException.
    """
    first, *others = map(Asking, clients)
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


def _close(opened: Sequence[tuple[Asking, bytes]]) -> None:
    """Close all, whatever the server says: the contents are proven anyway."""
    closing = []
    with suppress(*_TROUBLE):
        closing = [(asking, asking.ask(CMD_CLOSE, handle)) for asking, handle in opened]
    for asking, number in closing:
        with suppress(*_TROUBLE):
            asking.hear(number)
