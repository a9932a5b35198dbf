"""One remote file, open for writing through several channels: asking all of them costs one wait, not one for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from paramiko import SFTPAttributes, SFTPClient, SSHException
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_FSETSTAT,
    CMD_HANDLE,
    CMD_OPEN,
    SFTP_FLAG_CREATE,
    SFTP_FLAG_READ,
    SFTP_FLAG_TRUNC,
    SFTP_FLAG_WRITE,
    SFTPError,
)

from backupd.stores.sftp.wire import Writes, ask, hear

_UPDATE: Final = SFTP_FLAG_READ | SFTP_FLAG_WRITE
_ANEW: Final = _UPDATE | SFTP_FLAG_CREATE | SFTP_FLAG_TRUNC
_PRIVATE: Final = 0o600
_TROUBLE: Final = (OSError, EOFError, SSHException, SFTPError)


@contextmanager
def opened_lanes(
    clients: Sequence[SFTPClient], part: str, heard: Callable[[], None], *, new: bool
) -> Iterator[tuple[Writes, ...]]:
    """Lend what writes to `part` through each of `clients`; a `new` one is empty, and private before anything is in it.

    `heard` is called at each answer. Raises OSError, SSHException.
    """
    opened = [
        (clients[0], _handle(clients[0], ask(clients[0], CMD_OPEN, part, _ANEW if new else _UPDATE, _mode(None))))
    ]
    try:
        private = ask(clients[0], CMD_FSETSTAT, opened[0][1], _mode(_PRIVATE))
        asked = [(client, ask(client, CMD_OPEN, part, _UPDATE, _mode(None))) for client in clients[1:]]
        with suppress(OSError):  # some servers know no modes; the directory is ours alone
            hear(clients[0], private)
        opened += [(client, _handle(client, number)) for client, number in asked]
        yield tuple(Writes(client, handle, heard) for client, handle in opened)
    finally:
        _close(opened)


def _handle(client: SFTPClient, number: int) -> bytes:
    kind, message = hear(client, number)
    if kind != CMD_HANDLE:
        raise OSError(f"the server answered a request to open with a packet of kind {kind}")
    return message.get_binary()


def _close(opened: Sequence[tuple[SFTPClient, bytes]]) -> None:
    """Close all, whatever the server says: the contents are proven afterwards."""
    closing = []
    with suppress(*_TROUBLE):
        closing = [(client, ask(client, CMD_CLOSE, handle)) for client, handle in opened]
    for client, number in closing:
        with suppress(*_TROUBLE):
            hear(client, number)


def _mode(mode: int | None) -> Any:  # noqa: ANN401 - paramiko's class has no types
    attributes = SFTPAttributes()
    attributes.st_mode = mode
    return attributes
