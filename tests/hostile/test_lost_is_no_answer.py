"""What a server does not answer is not taken for an answer: a stall is neither a refusal nor a missing file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from paramiko import sftp

from backupd.errors import ReplicaUnreachable
from backupd.model import ARCHIVE_SUFFIX
from backupd.stores.sftp.connection import Timeouts
from backupd.stores.sftp.upload import RemoteHash, VerifiedParts
from backupd.tasks.replica import replica_errors
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.faulty_sftp_session import FaultySftpSession
from support.measured_client import ID
from support.replicas import connected

pytestmark = pytest.mark.no_cover

STALL = Timeouts(connect_s=10, stall_s=0.3)
SIZE = 300_000


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(bytes(range(250)) * (SIZE // 250))
    return path


def sent_to(
    faulty: FaultySftpServer, archive: Path, timeouts: Timeouts = STALL, verified: VerifiedParts | None = None
) -> int:
    """Publish, and return how many bytes an earlier transfer had left there."""
    with replica_errors("there"), connected(faulty, "/backups", verified=verified, timeouts=timeouts) as replica:
        replica.prepare()
        assert replica.free_space()
        partial = replica.partial_bytes(ID)
        replica.publish(ID, archive, b"{}\n")
        replica.write_checksums({f"{ID}.sqlite3.gz": "0" * 64})
    return partial


def unanswered(name: str, which: int = 1) -> SftpFaults:
    """Return the fault of a server that never answers the request `name`, the `which`-th one, and goes on."""
    seen = []

    def answer(_session: FaultySftpSession, asked: str, number: int) -> bool:
        if asked == name:
            seen.append(number)
        return asked == name and len(seen) == which

    return SftpFaults(answer=answer)


@pytest.mark.parametrize(
    "name", ["fsetstat", "fsync@openssh.com", "limits@openssh.com", "rename", "statvfs@openssh.com"]
)
def test_request_without_response_makes_replica_unreachable_and_sent_data_are_kept(
    faulty: FaultySftpServer, archive: Path, name: str
) -> None:
    """Each may be refused, and then its lack is done without: but here nobody has refused anything."""
    faulty.set_faults(unanswered(name))
    with pytest.raises(ReplicaUnreachable, match="does not answer"):
        sent_to(faulty, archive)
    partial = sent_to(faulty, archive, Timeouts())
    assert partial == (SIZE if name == "fsync@openssh.com" else partial)
    assert (faulty.files / f"{ID}{ARCHIVE_SUFFIX}").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("before", [0, 1])
def test_listing_that_ends_in_a_missing_file_is_not_complete(faulty: FaultySftpServer, before: int) -> None:
    for at in range(before):
        (faulty.files / f"file-{at}").write_bytes(b"")
    asked = []

    def missing(session: FaultySftpSession, name: str, number: int) -> bool:
        asked.append(name)
        if name != "readdir" or asked.count(name) <= before:
            return False
        session._send_status(number, sftp.SFTP_NO_SUCH_FILE)
        return True

    faulty.set_faults(SftpFaults(answer=missing))
    with connected(faulty, "/backups") as replica, pytest.raises(OSError, match="cannot list /backups: No such file"):
        replica.list()


def test_end_of_file_is_no_answer_but_to_reading(faulty: FaultySftpServer) -> None:
    def ended(session: FaultySftpSession, _name: str, number: int) -> bool:
        session._send_status(number, sftp.SFTP_EOF)
        return True

    faulty.set_faults(SftpFaults(answer=ended))
    with connected(faulty, "/backups") as replica, pytest.raises(OSError, match="cannot list /backups"):
        replica.list()


def test_remote_hash_lost_with_connection_is_connection_error(faulty: FaultySftpServer, archive: Path) -> None:
    def lost(_command: str) -> bytes | None:
        faulty.hang_up()
        return None

    verified = VerifiedParts(remote_hash=RemoteHash())
    faulty.set_faults(SftpFaults(shell=lost))
    with pytest.raises(ReplicaUnreachable):
        sent_to(faulty, archive, verified=verified)
    assert verified.fallback_reason == "the connection was lost while its sha256sum was asked"


@pytest.mark.parametrize("kind", [sftp.CMD_EXTENDED_REPLY, sftp.CMD_STATUS])
def test_unreported_free_space_is_not_zero(faulty: FaultySftpServer, kind: int) -> None:
    def empty(session: FaultySftpSession, name: str, number: int) -> bool:
        if name != "statvfs@openssh.com":
            return False
        session._response(number, kind, *((0, "", "") if kind == sftp.CMD_STATUS else (sftp.int64(1),)))
        return True

    faulty.set_faults(SftpFaults(answer=empty))
    with connected(faulty, "/backups") as replica:
        assert replica.free_space() is None
