"""The private names of paramiko that backupd uses, in the installed version: a version that changes them fails here."""

import ast
import errno
import inspect
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from paramiko import Channel, Message, SFTPAttributes, SFTPClient, Transport
from paramiko.agent import AgentSSH
from paramiko.packet import Packetizer
from paramiko.sftp import CMD_ATTRS, CMD_LSTAT, CMD_STAT, CMD_STATUS, SFTP_NO_SUCH_FILE, SFTP_OK

import backupd.stores.sftp
from backupd.stores.sftp import paramiko_internals
from backupd.stores.sftp.paramiko_internals import (
    NamingClient,
    ObservedTransport,
    ResponseReceiver,
    raise_for_status,
    read_attributes,
    receive_response,
    send_request,
)

HEAD = struct.Struct(">IB")  # of each SFTP packet: its length with the kind, and its kind


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (SFTPClient._async_request, ["self", "fileobj", "t", "*args"]),  # type: ignore[attr-defined]
        (SFTPClient._read_response, ["self", "waitfor=None"]),  # type: ignore[attr-defined]
        (SFTPClient._convert_status, ["self", "msg"]),  # type: ignore[attr-defined]
        (SFTPClient._read_packet, ["self"]),  # type: ignore[attr-defined]
        (SFTPClient._read_all, ["self", "n"]),  # type: ignore[attr-defined]
        (Packetizer._read_timeout, ["self", "timeout"]),  # type: ignore[attr-defined]
        (Channel._feed, ["self", "m"]),  # type: ignore[attr-defined]
        (Channel._feed_extended, ["self", "m"]),  # type: ignore[attr-defined]
        (SFTPAttributes._from_msg, ["msg", "filename=None", "longname=None"]),  # type: ignore[attr-defined]
        (Transport._parse_kex_init, ["self", "m"]),  # type: ignore[attr-defined]
        (Transport._really_parse_kex_init, ["self", "m", "ignore_first_byte=False"]),  # type: ignore[attr-defined]
        (AgentSSH._connect, ["self", "conn"]),  # type: ignore[attr-defined]
    ],
)
def test_private_function_of_paramiko_has_signature_that_is_used(
    function: Callable[..., object], parameters: list[str]
) -> None:
    assert [str(parameter) for parameter in inspect.signature(function).parameters.values()] == parameters


def test_no_other_module_of_sftp_store_uses_private_names_of_another_object() -> None:
    rest = [file for file in Path(backupd.stores.sftp.__file__).parent.glob("*.py") if "internals" not in file.name]
    used = {f"{file.name}: {name}" for file in rest for name in private_names_of_others(ast.parse(file.read_text()))}
    assert used == {"connection.py: connection._open_client"}, "an SftpConnection, in its own class method"
    assert len(rest) > 5


def private_names_of_others(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls"):
                yield f"{owner}.{node.attr}"


class Kept(ResponseReceiver):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[int, int, Message]] = []

    def receive(self, kind: int, message: Message, number: int) -> None:
        self.received.append((number, kind, message))


class Pipe(socket.socket):
    """A socket that has as much of a paramiko Channel as an SFTPClient uses."""

    def get_name(self) -> str:
        return "pipe"


@contextmanager
def server(responses: Callable[[list[tuple[int, int]]], list[bytes]], requests: int) -> Iterator[NamingClient]:
    """A client of a server that reads so many requests, then sends `responses`, made of their numbers and kinds."""
    ours, theirs = socket.socketpair()

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += theirs.recv(size - len(data))
        return data

    def serve() -> None:
        length, _kind = HEAD.unpack(read(HEAD.size))
        read(length - 1)
        theirs.sendall(HEAD.pack(5, 2) + struct.pack(">I", 3))  # SSH_FXP_VERSION
        seen = []
        for _ in range(requests):
            length, kind = HEAD.unpack(read(HEAD.size))
            seen.append((int.from_bytes(read(length - 1)[:4], "big"), kind))
        theirs.sendall(b"".join(responses(seen)))

    with ours, theirs:
        thread = threading.Thread(target=serve)
        thread.start()
        channel: Any = Pipe(fileno=os.dup(ours.fileno()))  # the stubs require a Channel
        with channel:
            yield NamingClient(channel)
        thread.join(20)
        assert not thread.is_alive()


def status(number: int, code: int) -> bytes:
    body = struct.pack(">III", number, code, 2) + b"no" + struct.pack(">I", 0)
    return HEAD.pack(1 + len(body), CMD_STATUS) + body


def attributes(number: int, size_bytes: int) -> bytes:
    flags = SFTPAttributes.FLAG_SIZE | SFTPAttributes.FLAG_PERMISSIONS
    body = struct.pack(">IIQI", number, flags, size_bytes, 0o100640)
    return HEAD.pack(1 + len(body), CMD_ATTRS) + body


def test_responses_reach_receiver_of_their_request_in_order_of_server() -> None:
    def backwards(seen: list[tuple[int, int]]) -> list[bytes]:
        return [status(seen[1][0], SFTP_NO_SUCH_FILE), attributes(seen[0][0], 77), status(seen[2][0], SFTP_OK)]

    with server(backwards, requests=3) as client:
        first, second = Kept(), Kept()
        numbers = [send_request(client, one, CMD_LSTAT, "/a") for one in (first, second, second)]
        for _ in numbers:
            receive_response(client)
        [(number, kind, message)] = first.received
        assert (number, kind) == (numbers[0], CMD_ATTRS)
        found = read_attributes(message, "a")
        assert (found.filename, found.st_size, found.st_mode) == ("a", 77, 0o100640)
        assert [number for number, _, _ in second.received] == numbers[1:]
        with pytest.raises(FileNotFoundError, match="cannot stat /a: no"):
            raise_for_status(client, second.received[0][2])
        raise_for_status(client, second.received[1][2])


def test_public_call_of_paramiko_passes_observed_methods_too() -> None:
    def refuse(seen: list[tuple[int, int]]) -> list[bytes]:
        assert seen[0][1] == CMD_STAT
        return [status(seen[0][0], SFTP_NO_SUCH_FILE)]

    with server(refuse, requests=1) as client:
        with pytest.raises(OSError, match="cannot stat /b: no") as refused:
            client.stat("/b")
        assert refused.value.errno == errno.ENOENT


def test_offer_of_server_is_read_without_common_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = Message()
    offer.add_bytes(bytes(16))
    for field in range(10):
        offer.add_list([f"algorithm-{field}"])
    offer.add_boolean(b=False)
    offer.add_int(0)
    offer.rewind()
    taken: list[int] = []
    monkeypatch.setattr(Transport, "_parse_kex_init", lambda _self, m: taken.append(len(m.get_remainder())))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = ObservedTransport(ours)
        transport._parse_kex_init(offer)
        transport.close()
    assert list(transport.offered["kex_algo_list"]) == ["algorithm-0"]
    assert list(transport.offered["server_mac_algo_list"]) == ["algorithm-5"]
    assert taken == [len(offer.asbytes())], "paramiko reads the same offer from its beginning"


def test_table_of_private_names_lists_those_that_are_used() -> None:
    text = inspect.getsource(paramiko_internals)
    used = {name.rpartition(".")[2] for name in private_names_of_others(ast.parse(text))} | {"_connect"}
    table = paramiko_internals.__doc__ or ""
    assert {name for name in used if name not in table} == set()
