"""All that backupd uses of paramiko beside its public API, and why each; no other module of backupd may.

paramiko is pinned below 6 for this; tests/stores/sftp/test_paramiko_internals.py checks the installed version.

- `SFTPClient._async_request`: many requests in flight; the public calls wait for each response.
- `SFTPClient._read_response`: the response to each write; the public file objects drop late ones.
- `SFTPClient._convert_status`: errors that name the request; a status (draft-ietf-secsh-filexfer-02 §7) names none.
- `SFTPClient._read_packet`: the path of each open handle, for these errors.
- `SFTPAttributes._from_msg`: attributes from a response to a request that was sent here.
- `Transport._parse_kex_init`, `_really_parse_kex_init`: what a server offers, also where no algorithm is common.
- `AgentSSH._connect`: an SSH agent with a timeout; the public Agent waits without limit.
"""

import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from paramiko import Channel, Message, SFTPAttributes, SFTPClient, Transport, sftp
from paramiko.agent import AgentSSH

from backupd.formatting import one_line, printable

_OPERATIONS: Final = {
    sftp.CMD_CLOSE: "close",
    sftp.CMD_FSETSTAT: "set the mode of",
    sftp.CMD_FSTAT: "stat",
    sftp.CMD_LSTAT: "stat",
    sftp.CMD_MKDIR: "make the directory",
    sftp.CMD_OPEN: "open",
    sftp.CMD_OPENDIR: "list",
    sftp.CMD_READ: "read",
    sftp.CMD_READDIR: "list",
    sftp.CMD_REMOVE: "remove",
    sftp.CMD_RENAME: "rename",
    sftp.CMD_SETSTAT: "change",
    sftp.CMD_STAT: "stat",
    sftp.CMD_WRITE: "write",
}
_EXTENSIONS: Final = {
    "posix-rename@openssh.com": "rename",
    "fsync@openssh.com": "flush",
    "statvfs@openssh.com": "find the free space of",
}
_HANDLE_COMMANDS: Final = frozenset(
    (sftp.CMD_CLOSE, sftp.CMD_FSETSTAT, sftp.CMD_FSTAT, sftp.CMD_READ, sftp.CMD_READDIR, sftp.CMD_WRITE)
)
_REMEMBERED: Final = 4096  # requests; far more than are ever in flight
_MAX_ANSWER_CHARS: Final = 80
_MAX_PATH_CHARS: Final = 160


class ResponseReceiver(ABC):
    """Receives the responses to the requests that `send_request` sent for it, in any order."""

    @abstractmethod
    def receive(self, kind: int, message: Message, number: int) -> None:
        """Take the response to request `number`: a packet of `kind`, and what follows its number."""

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        self.receive(kind, message, number)


def send_request(client: SFTPClient, receiver: ResponseReceiver, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
    """Send a request without waiting; returns its number. Raises SSHException, OSError."""
    number: int = cast("Any", client)._async_request(receiver, kind, *arguments)  # noqa: SLF001 - see the module
    return number


def receive_response(client: SFTPClient) -> None:
    """Wait for the next response to any request, and pass it to its receiver. Raises SSHException, OSError."""
    cast("Any", client)._read_response()  # noqa: SLF001 - see the module


def raise_for_status(client: SFTPClient, message: Message) -> None:
    """Raise the error in the status `message`, if any: OSError, EOFError at the end of a file."""
    cast("Any", client)._convert_status(message)  # noqa: SLF001 - see the module


def read_attributes(message: Message, name: str | None = None) -> SFTPAttributes:
    """Read the attributes of a file, called `name`, that come next in `message`."""
    found: SFTPAttributes = cast("Any", SFTPAttributes)._from_msg(message, name)  # noqa: SLF001 - see the module
    return found


class OperationUnsupported(OSError):
    """The server does not support the operation."""


class NamingClient(SFTPClient):
    """An SFTP client whose OSErrors name operation and remote path: `cannot OPERATION PATH: ANSWER`.

    Messages are one line, bounded and printable. Servers answer with little more than a status code.
    """

    def __init__(self, channel: Channel) -> None:
        self._requests: dict[int, tuple[int, int, tuple[Any, ...]]] = {}  # the last ones, by number modulo _REMEMBERED
        self._paths: dict[bytes, str] = {}  # of open handles
        super().__init__(channel)

    def _async_request(self, fileobj: Any, t: int, *args: Any) -> int:  # noqa: ANN401 - paramiko's signature
        parent: Any = super()
        number: int = parent._async_request(fileobj, t, *args)  # noqa: SLF001 - see the module
        self._requests[number % _REMEMBERED] = number, t, args[:2]  # without the data of a write
        return number

    def _read_packet(self) -> tuple[int, bytes]:
        parent: Any = super()
        kind: int
        data: bytes
        kind, data = parent._read_packet()  # noqa: SLF001 - see the module
        if kind == sftp.CMD_HANDLE:
            message = Message(data)
            _operation, path = self._described(message.get_int())
            self._paths[message.get_string()] = path
        return kind, data

    def _convert_status(self, msg: Message) -> None:
        number, code, text = int.from_bytes(msg.asbytes()[:4], "big"), msg.get_int(), msg.get_text()
        if code == sftp.SFTP_OK:
            return
        if code == sftp.SFTP_EOF:
            raise EOFError(text)
        operation, path = self._described(number)
        what = f"cannot {operation} {path}: {one_line(text)[:_MAX_ANSWER_CHARS] or f'status {code}'}"
        if code in (sftp.SFTP_NO_SUCH_FILE, sftp.SFTP_PERMISSION_DENIED):
            raise OSError(errno.ENOENT if code == sftp.SFTP_NO_SUCH_FILE else errno.EACCES, what)
        if code == sftp.SFTP_OP_UNSUPPORTED or "unsupported" in text.lower():
            raise OperationUnsupported(what)
        raise OSError(what)

    def _described(self, number: int) -> tuple[str, str]:
        """Return the operation that request `number` asked for, as a verb, and the path that it concerns."""
        found, kind, arguments = self._requests.get(number % _REMEMBERED, (-1, 0, ()))
        if found != number:
            return "complete", "a request"
        if kind == sftp.CMD_EXTENDED:
            name = _text(arguments[0])
            operation, arguments = _EXTENSIONS.get(name, f"request {name} for"), arguments[1:]
            has_handle = name == "fsync@openssh.com"
        else:
            operation, has_handle = _OPERATIONS.get(kind, f"complete request {kind} for"), kind in _HANDLE_COMMANDS
        if not arguments:
            return operation, "the session"
        return operation, self._paths.get(arguments[0], "an open file") if has_handle else _shown(arguments[0])


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shown(path: bytes | str) -> str:
    text, half = printable(_text(path)), _MAX_PATH_CHARS // 2
    return text if len(text) <= _MAX_PATH_CHARS else f"{text[:half]}…{text[-half:]}"


class ObservedTransport(Transport):
    """A transport that keeps in `offered` what the server offers, by paramiko's names of the fields of KEXINIT.

    paramiko itself keeps it only where an algorithm is common to both.
    """

    offered: Mapping[str, Sequence[str]]

    def __init__(self, sock: Any) -> None:  # noqa: ANN401 - as paramiko's: a socket or what acts as one
        super().__init__(sock)
        self.offered = {}

    def _parse_kex_init(self, m: Message) -> None:
        parent: Any = super()
        self.offered = parent._really_parse_kex_init(m)  # noqa: SLF001 - see the module
        m.rewind()
        parent._parse_kex_init(m)  # noqa: SLF001 - see the module


class ConnectedAgent(AgentSSH):
    """An SSH agent at the other end of `connection`. Raises SSHException, OSError."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        connect: Any = self._connect  # type: ignore[attr-defined] # see the module
        connect(connection)
