"""All that backupd uses of paramiko beside its public API, and why each; nothing else in backupd may.

paramiko is pinned below 6 for this; tests/stores/sftp/test_paramiko_internals.py holds the installed version to it.

- `SFTPClient._async_request`: many requests under way; the public calls wait for each response.
- `SFTPClient._read_response`: the response to each write; the public file objects drop those that come late.
- `SFTPClient._convert_status`: errors that name the request; a status (draft-ietf-secsh-filexfer-02 §7) names none.
- `SFTPClient._read_packet`: the path of each open handle, for the same purpose.
- `SFTPAttributes._from_msg`: attributes out of a response to a request that was sent here.
- `Transport._parse_kex_init`, `_really_parse_kex_init`: what a server offers, also where no algorithm is common.
- `AgentSSH._connect`: an SSH agent with a timeout; the public Agent waits without end.
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from paramiko import Message, SFTPAttributes, SFTPClient, Transport
from paramiko.agent import AgentSSH


class ResponseReceiver(ABC):
    """Receives the responses to the requests that `send_request` sent for it, in any order."""

    @abstractmethod
    def receive(self, kind: int, message: Message, number: int) -> None:
        """Take the response to request `number`: a packet of `kind`, and what follows its number."""

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        self.receive(kind, message, number)


def send_request(client: SFTPClient, receiver: ResponseReceiver, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
    """Send a request without waiting; returns its number. Raises SSHException, OSError."""
    sender: Any = client
    number: int = sender._async_request(receiver, kind, *arguments)  # noqa: SLF001 - see the module
    return number


def receive_response(client: SFTPClient) -> None:
    """Wait for the next response to any request, and give it to its receiver. Raises SSHException, OSError."""
    reader: Any = client
    reader._read_response()  # noqa: SLF001 - see the module


def raise_for_status(client: SFTPClient, message: Message) -> None:
    """Raise what the status `message` means: OSError, EOFError at the end of a file; nothing where it is good."""
    converter: Any = client
    converter._convert_status(message)  # noqa: SLF001 - see the module


def read_attributes(message: Message, name: str | None = None) -> SFTPAttributes:
    """Read the attributes of a file, called `name`, that come next in `message`."""
    kind: Any = SFTPAttributes
    found: SFTPAttributes = kind._from_msg(message, name)  # noqa: SLF001 - see the module
    return found


class ObservedClient(SFTPClient):
    """An SFTP client that shows a subclass each request, each response and each status, of paramiko's own calls too."""

    def on_request(self, number: int, kind: int, arguments: tuple[Any, ...]) -> None:
        """Note a request that was sent."""

    def on_response(self, kind: int, message: Message) -> None:
        """Note a response; `message` begins with the number of its request, and is a copy."""

    def on_status(self, number: int, code: int, text: str) -> None:
        """Raise what the status of request `number` means; nothing where it is good."""

    def _async_request(self, fileobj: Any, t: int, *args: Any) -> int:  # noqa: ANN401 - paramiko's signature
        parent: Any = super()
        number: int = parent._async_request(fileobj, t, *args)  # noqa: SLF001 - see the module
        self.on_request(number, t, args)
        return number

    def _read_packet(self) -> tuple[int, bytes]:
        parent: Any = super()
        kind: int
        data: bytes
        kind, data = parent._read_packet()  # noqa: SLF001 - see the module
        self.on_response(kind, Message(data))
        return kind, data

    def _convert_status(self, msg: Message) -> None:
        self.on_status(int.from_bytes(msg.asbytes()[:4], "big"), msg.get_int(), msg.get_text())


class ObservedTransport(Transport):
    """A transport that keeps in `offered` what the server offers, by paramiko's names of the fields of KEXINIT.

    paramiko itself keeps it only where something is common to both.
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
    """An SSH agent at the other end of `connection`, None for one without keys. Raises SSHException, OSError."""

    def __init__(self, connection: socket.socket | None) -> None:
        super().__init__()
        connect: Any = self._connect  # type: ignore[attr-defined] # see the module
        if connection is not None:
            connect(connection)
