"""All that backupd uses of paramiko beside its public API, and why each; no other module of backupd may.

paramiko trusts the server: it keeps data beyond a window, reads packets of any size, and loops as often as a count
says. Here every size and count is checked before memory is allocated.

paramiko is pinned below 6 for this; tests/stores/sftp/test_paramiko_internals.py checks the installed version.

- `SFTPClient._async_request`: many requests in flight; the public calls wait for each response.
- `SFTPClient._read_response`: the response to each write; the public file objects drop late ones.
- `SFTPClient._convert_status`: errors that name the request; a status (draft-ietf-secsh-filexfer-02 §7) names none.
- `SFTPClient._read_packet`: responses that were not requested, and the path of each open handle, for these errors.
- `SFTPClient._read_all`: the size of a packet, before it is read, and that it does not come.
- `SFTPClient._write_all`: that a request cannot be sent.
- `SFTPAttributes._from_msg`: attributes from a response to a request that was sent here.
- `Transport._parse_kex_init`, `_really_parse_kex_init`: what a server offers, also where no algorithm is common.
- `Transport._channel_handler_table`: data that a server sends beyond the window of a channel, before they are kept.
- `Packetizer._read_timeout`: the length of what a server sends before its version.
- `AgentSSH._connect`: an SSH agent with a timeout; the public Agent waits without limit.
"""

import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, cast

from paramiko import Channel, Message, SFTPAttributes, SFTPClient, SSHException, Transport, sftp
from paramiko.agent import AgentSSH
from paramiko.common import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_EXT_INFO,
    MSG_USERAUTH_INFO_REQUEST,
)
from paramiko.packet import Packetizer
from paramiko.sftp import SFTPError

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
_ENDING: Final = frozenset((sftp.CMD_READ, sftp.CMD_READDIR))
_UNKNOWN: Final = (-1, 0, ())  # a request that is no longer remembered
_REMEMBERED: Final = 4096  # requests; far more than are ever in flight
_MAX_ANSWER_CHARS: Final = 80
_MAX_PATH_CHARS: Final = 160
_MAX_SSH_BYTES: Final = 260 << 10  # in a packet; connection.py tells servers that packets hold 256 KiB at most
MAX_SFTP_BYTES: Final = 512 << 10  # in a packet; OpenSSH and others send 256 KiB at most
MAX_HANDLE_BYTES: Final = 256  # draft-ietf-secsh-filexfer-02 §4
_MAX_BANNER_BYTES: Final = 64 << 10  # before the version, RFC 4253 §4.2
_BYTES_OF_ATTRIBUTES: Final = (
    (SFTPAttributes.FLAG_SIZE, 8),
    (SFTPAttributes.FLAG_UIDGID, 8),
    (SFTPAttributes.FLAG_PERMISSIONS, 4),
    (SFTPAttributes.FLAG_AMTIME, 8),
)
_BYTES_OF_NUMBER: Final = 4  # of a request, before all else
_MAX_TEXT_BYTES: Final = 1000  # of which a message shows less
_BYTES_OF_PAIR: Final = 8  # of two empty strings
_BYTES_OF_QUESTION: Final = 5  # of an empty string and a truth value


class ProtocolViolated(SFTPError):
    """The server sends what no request and no protocol allows; nothing more can be read from the connection."""


def read_count(message: Message, entry_bytes: int) -> int:
    """Read how many entries follow in `message`, each of at least `entry_bytes`.

    Raises ProtocolViolated where they do not.
    """
    claimed, packet = message.get_int(), message.packet
    if claimed * entry_bytes > len(packet.getbuffer()) - packet.tell():
        raise ProtocolViolated(f"it claims {claimed} entries in a packet that ends before them")
    return claimed


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
    """Raise the error in the status `message`, if any: OSError, EndReached at the end of a file or listing."""
    cast("Any", client)._convert_status(message)  # noqa: SLF001 - see the module


def read_attributes(message: Message, name: str | None = None) -> SFTPAttributes:
    """Read the attributes of a file, called `name`, that come next in `message`. Raises ProtocolViolated."""
    begin = message.packet.tell()
    flags = message.get_int()
    if flags & SFTPAttributes.FLAG_EXTENDED:
        message.get_bytes(sum(size for flag, size in _BYTES_OF_ATTRIBUTES if flags & flag))
        read_count(message, _BYTES_OF_PAIR)
    message.packet.seek(begin)
    found: SFTPAttributes = cast("Any", SFTPAttributes)._from_msg(message, name)  # noqa: SLF001 - see the module
    return found


class ConnectionLost(SSHException):
    """Nothing more can be sent or received: no answer of the server, and so no OSError."""


class EndReached(EOFError):
    """The server says that a file or a listing ends."""


class OperationUnsupported(OSError):
    """The server does not support the operation."""


class NamingClient(SFTPClient):
    """An SFTP client whose OSErrors name operation and remote path: `cannot OPERATION PATH: ANSWER`.

    Messages are one line, bounded and printable. Servers answer with little more than a status code.
    """

    def __init__(self, channel: Channel) -> None:
        self._requests: dict[int, tuple[int, int, tuple[Any, ...]]] = {}  # the last ones, by number modulo _REMEMBERED
        self.unanswered: set[int] = set()
        self._paths: dict[bytes, str] = {}  # of open handles
        super().__init__(channel)

    def _async_request(self, fileobj: Any, t: int, *args: Any) -> int:  # noqa: ANN401 - paramiko's signature
        parent: Any = super()
        number: int = parent._async_request(fileobj, t, *args)  # noqa: SLF001 - see the module
        self._requests[number % _REMEMBERED] = number, t, args[:2]  # without the data of a write
        self.unanswered.add(number)
        return number

    def _read_all(self, n: int) -> bytes:
        if n > MAX_SFTP_BYTES:
            raise ProtocolViolated(f"it sends a packet of {n} bytes")
        parent: Any = super()
        try:
            data: bytes = parent._read_all(n)  # noqa: SLF001 - see the module
        except (OSError, EOFError) as error:
            raise self._lost(error) from error
        return data

    def _write_all(self, out: bytes) -> None:
        parent: Any = super()
        try:
            parent._write_all(out)  # noqa: SLF001 - see the module
        except (OSError, EOFError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> ConnectionLost:
        """Close the connection, in which the rest of a packet could follow, and return the error for that."""
        if channel := self.get_channel():
            channel.get_transport().close()
        return ConnectionLost("the server does not answer" if isinstance(error, TimeoutError) else "it was closed")

    def _read_packet(self) -> tuple[int, bytes]:
        parent: Any = super()
        kind: int
        data: bytes
        kind, data = parent._read_packet()  # noqa: SLF001 - see the module
        if self._requests:  # else it is the version
            number = int.from_bytes(data[:_BYTES_OF_NUMBER], "big")
            if number not in self.unanswered:
                raise ProtocolViolated("it answers a request that was not made")
            self.unanswered.remove(number)
        if kind == sftp.CMD_HANDLE:
            self._note_handle(Message(data))
        elif kind == sftp.CMD_ATTRS:  # before paramiko reads them
            read_attributes(Message(data[_BYTES_OF_NUMBER:]))
        return kind, data

    def _note_handle(self, message: Message) -> None:
        _operation, path = self._described(message.get_int())
        handle = message.get_string()
        if len(handle) > MAX_HANDLE_BYTES:
            raise ProtocolViolated(f"it sends a handle of {len(handle)} bytes")
        self._paths.pop(handle, None)
        self._paths[handle] = path
        if len(self._paths) > _REMEMBERED:
            del self._paths[next(iter(self._paths))]

    def _convert_status(self, msg: Message) -> None:
        number, body = int.from_bytes(msg.asbytes()[:_BYTES_OF_NUMBER], "big"), msg.get_remainder()
        code = _code_of(body)
        if code == sftp.SFTP_OK:
            return
        if code == sftp.SFTP_EOF and self._requests.get(number % _REMEMBERED, _UNKNOWN)[1] in _ENDING:
            raise EndReached("the server says that the file ends")
        if error := status_error(body, " ".join(self._described(number))):
            raise error

    def _described(self, number: int) -> tuple[str, str]:
        """Return the operation that request `number` asked for, as a verb, and the path that it concerns."""
        found, kind, arguments = self._requests.get(number % _REMEMBERED, _UNKNOWN)
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


def _code_of(body: bytes) -> int:
    return int.from_bytes(body[:_BYTES_OF_NUMBER], "big")


def status_error(body: bytes, what: str) -> OSError | None:
    """Return the error in the status `body`, what follows the number of its request; None for the status OK.

    `what` the server was asked for is an operation and its path.
    """
    code, said = _code_of(body), Message(body[_BYTES_OF_NUMBER:]).get_string()
    if code == sftp.SFTP_OK:
        return None
    text = one_line(said[:_MAX_TEXT_BYTES].decode(errors="replace"))[:_MAX_ANSWER_CHARS]
    message = f"cannot {what}: {text or f'status {code}'}"
    if code in (sftp.SFTP_NO_SUCH_FILE, sftp.SFTP_PERMISSION_DENIED):
        return OSError(errno.ENOENT if code == sftp.SFTP_NO_SUCH_FILE else errno.EACCES, message)
    if code == sftp.SFTP_OP_UNSUPPORTED or "unsupported" in text.lower():
        return OperationUnsupported(message)
    return OSError(message)


def settle(client: SFTPClient) -> None:
    """Wait for the answer to every request of `client`, such as to close a file. Raises SSHException, OSError."""
    while isinstance(client, NamingClient) and client.unanswered:
        receive_response(client)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _shown(path: bytes | str) -> str:
    text, half = printable(_text(path)), _MAX_PATH_CHARS // 2
    return text if len(text) <= _MAX_PATH_CHARS else f"{text[:half]}…{text[-half:]}"


def _feed(kind: int, channel: Any, message: Message) -> None:  # noqa: ANN401 - the stubs lack what is kept
    """Keep data for a channel. Raises SSHException for more than its window allows, which paramiko would keep too."""
    kept_bytes = len(channel.in_buffer) + len(channel.in_stderr_buffer)
    if kept_bytes + len(message.asbytes()) > channel.in_window_size + _MAX_SSH_BYTES:
        raise SSHException("the server sends more than the window of the channel allows")
    cast("Any", Transport)._channel_handler_table[kind](channel, message)  # noqa: SLF001 - see the module


class ObservedTransport(Transport):
    """A transport that keeps in `offered` what the server offers, by paramiko's names of the fields of KEXINIT.

    paramiko itself keeps it only where an algorithm is common to both.
    """

    offered: Mapping[str, Sequence[str]]
    _channel_handler_table: ClassVar = {
        **cast("Any", Transport)._channel_handler_table,  # noqa: SLF001 - see the module
        MSG_CHANNEL_DATA: partial(_feed, MSG_CHANNEL_DATA),
        MSG_CHANNEL_EXTENDED_DATA: partial(_feed, MSG_CHANNEL_EXTENDED_DATA),
    }

    def __init__(self, sock: Any) -> None:  # noqa: ANN401 - as paramiko's: a socket or what acts as one
        super().__init__(sock, packetizer_class=_BoundedPacketizer)
        self.offered = {}

    def _parse_kex_init(self, m: Message) -> None:
        parent: Any = super()
        self.offered = parent._really_parse_kex_init(m)  # noqa: SLF001 - see the module
        m.rewind()
        parent._parse_kex_init(m)  # noqa: SLF001 - see the module


class _BoundedPacketizer(Packetizer):
    """Reads SSH packets as large as connection.py allows; larger ones and wrong counts raise SSHException."""

    def __init__(self, sock: Any) -> None:  # noqa: ANN401 - as paramiko's
        super().__init__(sock)
        self._banner_bytes = 0

    def _read_timeout(self, timeout: float) -> bytes:
        parent: Any = super()
        piece: bytes = parent._read_timeout(timeout)  # noqa: SLF001 - see the module
        self._banner_bytes += len(piece)
        if self._banner_bytes > _MAX_BANNER_BYTES:
            raise SSHException(f": more than {_MAX_BANNER_BYTES >> 10} KiB before any version")
        return piece

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:  # noqa: FBT001, FBT002 - paramiko's signature
        """Read `n` bytes. Raises SSHException for more than any packet has."""
        if n > _MAX_SSH_BYTES:
            raise SSHException(f"the server sends a packet of {n} bytes")
        return super().read_all(n, check_rekey)

    def read_message(self) -> tuple[int, Message]:
        """Read a message. Raises SSHException for one with a count of what it does not hold."""
        kind, message = super().read_message()
        try:
            if kind == MSG_EXT_INFO:
                read_count(message, _BYTES_OF_PAIR)
            elif kind == MSG_USERAUTH_INFO_REQUEST:
                for _title_instructions_language in range(3):
                    message.get_string()
                read_count(message, _BYTES_OF_QUESTION)
        except ProtocolViolated as error:
            raise SSHException(f"the server violates the protocol: {error}") from None
        if kind in (MSG_EXT_INFO, MSG_USERAUTH_INFO_REQUEST):
            message.rewind()
        return kind, message


class ConnectedAgent(AgentSSH):
    """An SSH agent at the other end of `connection`. Raises SSHException, OSError."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        connect: Any = self._connect  # type: ignore[attr-defined] # see the module
        connect(connection)
