"""A hostile or broken server costs bounded time and memory, and is reported in one short line.

Where memory or CPU is at stake, the client is a process of its own that is measured.
"""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import paramiko
import pytest
from paramiko import common, sftp

from backupd.errors import ReplicaFailed, ReplicaUnreachable
from backupd.stores.sftp.connection import Timeouts, connection_errors
from backupd.stores.sftp.store import SftpStore
from backupd.tasks.replica import replica_errors
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.faulty_sftp_session import FaultySftpSession
from support.measured_client import ACTIONS, ID, Measured, measured
from support.replicas import SENDER, sftp_connection

pytestmark = pytest.mark.no_cover

SHORT = Timeouts(connect_s=4, stall_s=2, operation_s=3)
MAX_SECONDS = 12  # of which most is the start of a connection on a busy machine
MAX_GROWN_BYTES = 96 << 20
EVERY = 2**32 - 1
FLOOD_BYTES = 600 << 20


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        (server.files / f"{ID}.sqlite3.gz").write_bytes(bytes(100_000))
        (server.files / f"{ID}.manifest.json").write_bytes(bytes(10_000))
        yield server


def assert_bounded(found: Measured, *words: str, max_seconds: float = MAX_SECONDS) -> None:
    """Fail unless the operation ended in time, in little memory, with one short line that has one of `words`."""
    assert found.seconds < max_seconds, found
    assert found.cpu_s < MAX_SECONDS, found
    assert found.grown_bytes < MAX_GROWN_BYTES, found
    assert found.exit_code in (1, 75), found
    assert found.error.isprintable(), found
    assert len(found.error) < 400, found
    assert not words or any(word in found.error for word in words), found


Answer = Callable[[FaultySftpSession, str, int], bool]


def to(request: str, send: Callable[[FaultySftpSession, int], object]) -> SftpFaults:
    """Return the fault of a server that answers `request` by `send`."""

    def answer(session: FaultySftpSession, name: str, number: int) -> bool:
        if name != request:
            return False
        try:
            send(session, number)
        except (OSError, EOFError):  # the client has gone
            session.sock.close()
        return True

    return SftpFaults(answer=answer)


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def sent(kind: int, body: bytes) -> Callable[[FaultySftpSession, int], object]:
    return lambda session, number: session.sock.sendall(packet(kind, struct.pack(">I", number) + body))


# --- Counts of what is not there ---

MANY_ATTRIBUTES = struct.pack(">II", paramiko.SFTPAttributes.FLAG_EXTENDED, EVERY)


@pytest.mark.parametrize(
    ("action", "request_name"), [("open", "lstat"), ("manifests", "lstat"), ("publish", "lstat"), ("probe", "stat")]
)
def test_attribute_count_beyond_packet_is_refused(faulty: FaultySftpServer, action: str, request_name: str) -> None:
    faulty.set_faults(to(request_name, sent(sftp.CMD_ATTRS, MANY_ATTRIBUTES)))
    assert_bounded(measured(faulty, action, SHORT), "protocol")


@pytest.mark.parametrize("attributes", [b"", MANY_ATTRIBUTES], ids=["entries", "attributes of an entry"])
def test_entry_count_beyond_packet_is_refused(faulty: FaultySftpServer, attributes: bytes) -> None:
    body = struct.pack(">I", 1) + text(b"a") + text(b"a") + attributes if attributes else struct.pack(">I", EVERY)
    faulty.set_faults(to("readdir", sent(sftp.CMD_NAME, body)))
    assert_bounded(measured(faulty, "list", SHORT), "protocol")


def extension_info(session: FaultySftpSession, _number: int) -> None:
    message = paramiko.Message()
    message.add_byte(bytes([common.MSG_EXT_INFO]))
    message.add_int(EVERY)
    session.sock.get_transport()._send_message(message)


def test_extension_count_beyond_packet_is_refused(faulty: FaultySftpServer) -> None:
    faulty.set_faults(to("opendir", extension_info))
    assert_bounded(measured(faulty, "list", SHORT))


def questions(transport: paramiko.Transport) -> None:
    message = paramiko.Message()
    message.add_byte(bytes([common.MSG_USERAUTH_INFO_REQUEST]))
    for value in ("title", "instructions", ""):
        message.add_string(value)
    message.add_int(EVERY)
    transport._send_message(message)


def test_prompt_count_beyond_packet_is_refused(faulty: FaultySftpServer) -> None:
    faulty.set_faults(SftpFaults(allowed="keyboard-interactive", login=questions))
    assert_bounded(measured(faulty, "list", SHORT, password="secret of mine"))


# --- Time ---


def error_of(faulty: FaultySftpServer, action: str, faults: SftpFaults, operation_s: float = 60) -> str:
    """Return the error of `action` at a server that has `faults` once the client has logged in; empty: none.

    Fails where it is not an error of the server, or of the network.
    """
    with sftp_connection(faulty, faulty.port) as connection:
        connection.timeouts = Timeouts(operation_s=operation_s)
        faulty.set_faults(faults)
        try:
            with replica_errors("there"), connection_errors("there"):
                ACTIONS[action](SftpStore("there", "/backups", lambda: SENDER, connection))
        except (ReplicaFailed, ReplicaUnreachable) as error:
            return error.message
        finally:
            faulty.set_faults(SftpFaults())
    return ""


@pytest.mark.parametrize("action", ACTIONS)
def test_slowly_dripping_response_ends_at_operation_timeout(faulty: FaultySftpServer, action: str) -> None:
    began = time.monotonic()
    found = error_of(faulty, action, SftpFaults(drip_s=0.2), operation_s=0.6)
    assert re.search("longer than [124] s", found), found
    assert time.monotonic() - began < MAX_SECONDS


def test_slowly_dripping_login_ends_at_operation_timeout(faulty: FaultySftpServer) -> None:
    faulty.set_faults(SftpFaults(drip_s=0.5))
    assert_bounded(measured(faulty, "list", SHORT), "longer than 3 s")


def test_slow_archive_transfer_has_time_in_proportion_to_size() -> None:
    assert Timeouts().limit_s(1 << 30) - Timeouts().limit_s(0) == 1 << 15  # 32 KiB a second


def test_endless_listing_ends(faulty: FaultySftpServer) -> None:
    names = count()

    def more(session: FaultySftpSession, number: int) -> None:
        entries = b"".join(
            text(f"tasks-2026{at // 10_000:04}-{at % 10_000:04}.manifest.json".encode()) + text(b"") + bytes(4)
            for at in (next(names) for _ in range(2000))
        )
        session.sock.sendall(packet(sftp.CMD_NAME, struct.pack(">II", number, 2000) + entries))

    faulty.set_faults(to("readdir", more))
    assert_bounded(measured(faulty, "list", Timeouts(4, 2, 50)), "entries", max_seconds=45)


def test_long_names_use_bounded_memory(faulty: FaultySftpServer) -> None:
    entries = (text(b"x" * 50_000 + b".manifest.json") + text(b"") + bytes(4)) * 4
    faulty.set_faults(to("readdir", sent(sftp.CMD_NAME, struct.pack(">I", 4) + entries)))
    (faulty.files / ".backupd/removing").mkdir(parents=True)
    for action in ("list", "recover"):
        assert_bounded(measured(faulty, action, SHORT), "longer than", "entries")


# --- Memory ---


def flood(kind: int) -> Callable[[FaultySftpSession, int], None]:
    """Return what sends data that the window of the channel does not allow."""

    def send(session: FaultySftpSession, _number: int) -> None:
        transport = session.sock.get_transport()
        for _ in range(FLOOD_BYTES >> 17):
            message = paramiko.Message()
            message.add_byte(bytes([kind]))
            message.add_int(session.sock.remote_chanid)
            if kind == common.MSG_CHANNEL_EXTENDED_DATA:
                message.add_int(1)
            message.add_string(bytes(1 << 17))
            if not transport.is_active():
                return
            transport._send_message(message)

    return send


@pytest.mark.parametrize("kind", [common.MSG_CHANNEL_DATA, common.MSG_CHANNEL_EXTENDED_DATA], ids=["data", "errors"])
def test_data_beyond_window_is_refused(faulty: FaultySftpServer, kind: int) -> None:
    faulty.set_faults(to("opendir", flood(kind)))
    assert_bounded(measured(faulty, "list", SHORT))


def test_unrequested_handles_use_bounded_memory(faulty: FaultySftpServer) -> None:
    def handles(session: FaultySftpSession, _number: int) -> None:
        for at in range(FLOOD_BYTES >> 17):
            handle = at.to_bytes(4, "big") * (1 << 15)
            session.sock.sendall(packet(sftp.CMD_HANDLE, struct.pack(">I", 2**31 + at) + text(handle)))

    faulty.set_faults(to("opendir", handles))
    assert_bounded(measured(faulty, "list", SHORT))


def test_responses_larger_than_requested_use_bounded_memory(faulty: FaultySftpServer) -> None:
    (faulty.files / f"{ID}.sqlite3.gz").write_bytes(b"")
    with (faulty.files / f"{ID}.sqlite3.gz").open("wb") as sparse:
        sparse.truncate(1 << 30)
    first = []

    def large(session: FaultySftpSession, number: int) -> None:
        first.append(number)
        if len(first) > 1:  # the first is never answered, so that the others wait for it
            session.sock.sendall(packet(sftp.CMD_DATA, struct.pack(">I", number) + text(bytes(400_000))))

    faulty.set_faults(to("read", large))
    assert_bounded(measured(faulty, "open", SHORT))


def test_oversized_packet_is_refused(faulty: FaultySftpServer) -> None:
    def huge(session: FaultySftpSession, _number: int) -> None:
        session.sock.sendall(struct.pack(">I", (16 << 20) - 1))
        for _ in range(16):
            session.sock.sendall(bytes(1 << 20))

    faulty.set_faults(to("opendir", huge))
    assert_bounded(measured(faulty, "list", SHORT), "protocol")


# --- Words ---


@pytest.mark.parametrize("code", [sftp.SFTP_FAILURE, sftp.SFTP_EOF, sftp.SFTP_PERMISSION_DENIED, 99])
@pytest.mark.parametrize("action", sorted(ACTIONS.keys() - {"space"}))
def test_long_error_text_becomes_one_short_line(faulty: FaultySftpServer, action: str, code: int) -> None:
    words = b"no\n\x1b[2Jforged: all is well\r\xff\xfe" + b"x " * 60_000
    body = struct.pack(">I", code) + text(words) + text(b"en")

    def answer(session: FaultySftpSession, _name: str, number: int) -> bool:
        sent(sftp.CMD_STATUS, body)(session, number)
        return True

    found = error_of(faulty, action, SftpFaults(answer=answer))
    assert (found != "", found.isprintable(), len(found) < 400) == (True, True, True), found


def test_long_list_of_login_methods_becomes_one_short_line(faulty: FaultySftpServer) -> None:
    faulty.set_faults(SftpFaults(allowed=",".join(f"method\n{at}" for at in range(20_000))))
    assert_bounded(measured(faulty, "list", SHORT, password="secret of mine"), "refuses the login")


# --- Before anybody has logged in ---


class RawServer:
    """No SFTP server: it sends bytes to every client."""

    user, path = "backupd", "/backups"

    def __init__(self, key: Path, public: str, port: int) -> None:
        self.key, self.public, self.port = key, public, port

    def host_key(self) -> str:
        return self.public


@contextmanager
def raw_server(faulty: FaultySftpServer, send: Callable[[socket.socket], None]) -> Iterator[RawServer]:
    """Run a server that does `send` with each connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    send(connection)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield RawServer(faulty.key, faulty.host_key(), listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def endless_line(connection: socket.socket) -> None:
    for _ in range(FLOOD_BYTES >> 20):
        connection.sendall(b"x" * (1 << 20))


def endless_lines(connection: socket.socket) -> None:
    for _ in range(90):
        connection.sendall(b"y" * (4 << 20) + b"\n")


def huge_packet(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-huge\r\n" + struct.pack(">I", 2**32 - 12))
    for _ in range(FLOOD_BYTES >> 20):
        connection.sendall(bytes(1 << 20))


def long_version(connection: socket.socket) -> None:
    connection.sendall(b"SSH-1.5-" + b"\x1b[2J" * 2000 + b"\r\n")
    connection.recv(1000)


@pytest.mark.parametrize(
    ("send", "action"),
    [
        (endless_line, "list"),
        (endless_lines, "list"),
        (huge_packet, "list"),
        (huge_packet, "trust"),
        (long_version, "trust"),
    ],
)
def test_messages_before_login_use_bounded_memory(
    faulty: FaultySftpServer, send: Callable[[socket.socket], None], action: str
) -> None:
    with raw_server(faulty, send) as server:
        assert_bounded(measured(server, action, SHORT))
