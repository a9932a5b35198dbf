"""A connection that is lost in the middle of an operation: what is missing is never taken for an answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from backupd.errors import ReplicaUnreachable
from backupd.stores.sftp.connection import connection_errors
from backupd.stores.sftp.files import list_directory
from backupd.stores.sftp.paramiko_internals import ConnectionLost
from backupd.stores.sftp.store import SftpStore
from backupd.tasks.replica import replica_errors
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.faulty_sftp_session import FaultySftpSession
from support.measured_client import ACTIONS, ID
from support.replicas import SENDER, sftp_connection


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "cut") as server:
        yield server


Cut = Callable[[FaultySftpSession, paramiko.Channel], object]


def close_transport(session: FaultySftpSession, _client: paramiko.Channel) -> None:
    """End the connection instead of answering."""
    session.sock.get_transport().close()
    session.is_mute = True


def refuse_requests(_session: FaultySftpSession, client: paramiko.Channel) -> None:
    """Answer, and let the client find out when it sends its next request: paramiko raises EOFError then."""
    client.shutdown_write()


def requested(faulty: FaultySftpServer, action: str, cut: Cut | None = None, last: int = 0) -> tuple[str, list[str]]:
    """Return the error of `action` and what it requested, where `cut` is done at the request numbered `last`."""
    for name in ("sqlite3.gz", "manifest.json"):
        (faulty.files / f"{ID}.{name}").write_bytes(bytes(10_000))
    (faulty.files / "SHA256SUMS").unlink(missing_ok=True)
    marker = faulty.files / f".backupd/removing/{ID}.manifest.json"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_bytes(b"{}")
    requests: list[str] = []

    def answer(session: FaultySftpSession, name: str, _number: int) -> bool:
        requests.append(name)
        if cut and len(requests) == last:
            cut(session, connection.client.get_channel())
        return session.is_mute

    with sftp_connection(faulty, faulty.port) as connection:
        faulty.set_faults(SftpFaults(answer=answer))
        try:
            with replica_errors("there"), connection_errors("there"):
                ACTIONS[action](SftpStore("there", "/backups", lambda: SENDER, connection))
        except ReplicaUnreachable as error:
            return error.message, requests
        finally:
            faulty.set_faults(SftpFaults())
    return "", requests


ONE_AFTER_ANOTHER = ("list", "open", "recover", "remove", "space")  # others send several requests at once


@pytest.mark.parametrize(
    ("action", "cut"),
    [(action, close_transport) for action in ACTIONS] + [(action, refuse_requests) for action in ONE_AFTER_ANOTHER],
)
def test_lost_connection_at_any_request_is_no_answer(faulty: FaultySftpServer, action: str, cut: Cut) -> None:
    """What is cut off is not taken for a short listing, a missing file or a damaged archive."""
    (faulty.files / ".backupd" / SENDER).mkdir(parents=True)
    error, requests = requested(faulty, action)
    assert not error
    for number in range(1, len(requests) + 1):
        missing = requests[number - 1 if cut is close_transport else number :]
        error, seen = requested(faulty, action, cut, number)
        assert "connection" in error or set(missing) <= {"close"}, (number, seen, missing)


def test_request_that_cannot_be_sent_is_not_the_end_of_a_listing(faulty: FaultySftpServer) -> None:
    with sftp_connection(faulty, faulty.port) as connection:
        connection.client.get_channel().shutdown_write()
        with pytest.raises(ConnectionLost):
            list(list_directory(connection.client, "/backups"))
