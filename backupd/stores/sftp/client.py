"""paramiko's SFTP client, whose errors name the operation and the remote path: servers answer no more than a code."""

import errno
from typing import Any, Final

from paramiko import Channel, Message
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_EXTENDED,
    CMD_FSETSTAT,
    CMD_FSTAT,
    CMD_HANDLE,
    CMD_LSTAT,
    CMD_MKDIR,
    CMD_OPEN,
    CMD_OPENDIR,
    CMD_READ,
    CMD_READDIR,
    CMD_REMOVE,
    CMD_RENAME,
    CMD_SETSTAT,
    CMD_STAT,
    CMD_WRITE,
    SFTP_EOF,
    SFTP_NO_SUCH_FILE,
    SFTP_OK,
    SFTP_OP_UNSUPPORTED,
    SFTP_PERMISSION_DENIED,
)

from backupd.formatting import one_line, printable
from backupd.stores.sftp.paramiko_internals import ObservedClient

_OPERATIONS: Final = {
    CMD_CLOSE: "close",
    CMD_FSETSTAT: "set the mode of",
    CMD_FSTAT: "look at",
    CMD_LSTAT: "look at",
    CMD_MKDIR: "make the directory",
    CMD_OPEN: "open",
    CMD_OPENDIR: "list",
    CMD_READ: "read",
    CMD_READDIR: "list",
    CMD_REMOVE: "remove",
    CMD_RENAME: "rename",
    CMD_SETSTAT: "change",
    CMD_STAT: "look at",
    CMD_WRITE: "write",
}
_EXTENSIONS: Final = {
    "posix-rename@openssh.com": "rename",
    "fsync@openssh.com": "flush",
    "statvfs@openssh.com": "find the free space of",
}
_OF_HANDLES: Final = frozenset((CMD_CLOSE, CMD_FSETSTAT, CMD_FSTAT, CMD_READ, CMD_READDIR, CMD_WRITE))
_REMEMBERED: Final = 4096  # requests; far more than are ever under way
_TEXT: Final = 80
_PATH: Final = 160


class Unsupported(OSError):
    """The server does not know the operation."""


class NamingClient(ObservedClient):
    """An SFTP client whose OSErrors say `cannot OPERATION PATH: ANSWER`, in one line, bounded and printable."""

    def __init__(self, channel: Channel) -> None:
        self._asked: dict[int, tuple[int, int, tuple[Any, ...]]] = {}  # by number, as far as they are remembered
        self._paths: dict[bytes, str] = {}  # of open handles
        super().__init__(channel)

    def on_request(self, number: int, kind: int, arguments: tuple[Any, ...]) -> None:
        """Remember what was requested."""
        self._asked[number % _REMEMBERED] = number, kind, arguments[:2]  # what is written needs no remembering

    def on_response(self, kind: int, message: Message) -> None:
        """Remember the path of a handle."""
        if kind == CMD_HANDLE:
            _operation, path = self._named(message.get_int())
            self._paths[message.get_string()] = path

    def on_status(self, number: int, code: int, text: str) -> None:
        """Raise OSError or EOFError where the request was refused."""
        if code == SFTP_OK:
            return
        if code == SFTP_EOF:
            raise EOFError(text)
        operation, path = self._named(number)
        said = f"cannot {operation} {path}: {one_line(text)[:_TEXT] or f'status {code}'}"
        if code in (SFTP_NO_SUCH_FILE, SFTP_PERMISSION_DENIED):
            raise OSError(errno.ENOENT if code == SFTP_NO_SUCH_FILE else errno.EACCES, said)
        if code == SFTP_OP_UNSUPPORTED or "unsupported" in text.lower():
            raise Unsupported(said)
        raise OSError(said)

    def _named(self, number: int) -> tuple[str, str]:
        """Return what request `number` asked for, in words, and of which path."""
        asked, kind, arguments = self._asked.get(number % _REMEMBERED, (-1, 0, ()))
        if asked != number:
            return "do", "what was asked for"
        if kind == CMD_EXTENDED:
            name = _text(arguments[0])
            operation, arguments = _EXTENSIONS.get(name, f"do {name} for"), arguments[1:]
            of_handle = name == "fsync@openssh.com"
        else:
            operation, of_handle = _OPERATIONS.get(kind, f"do request {kind} for"), kind in _OF_HANDLES
        if not arguments:
            return operation, "the account"
        return operation, self._paths.get(arguments[0], "an open file") if of_handle else _shown(arguments[0])


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shown(path: bytes | str) -> str:
    text = printable(_text(path))
    return text if len(text) <= _PATH else f"{text[: _PATH // 2]}…{text[-_PATH // 2 :]}"
