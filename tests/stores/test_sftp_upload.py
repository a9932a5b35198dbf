"""A file is sent and read back during the transfer: the copy is correct, or an error is reported."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import CopyCorrupt, ReplicaUnreachable
from backupd.stores.sftp.connection import CHANNELS, SftpConnection, connection_errors
from backupd.stores.sftp.protocol import IN_FLIGHT_BYTES, SAFE_BLOCK_BYTES, WriteRefused
from backupd.stores.sftp.upload import VerifiedParts, upload
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.network_faults import NetworkFaults, running_proxy
from support.replicas import sftp_connection

PART = "/backups/part"
BYTES = 4 * IN_FLIGHT_BYTES
WRITES = BYTES // SAFE_BLOCK_BYTES


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


@pytest.fixture(params=[0.0, 0.02], ids=["near", "far"])
def connection(request: pytest.FixtureRequest, faulty: FaultySftpServer) -> Iterator[SftpConnection]:
    with (
        running_proxy(faulty.port, NetworkFaults(delay_s=request.param)) as proxy,
        sftp_connection(faulty, proxy.port) as connection,
    ):
        yield connection


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(BYTES))
    return path


def test_sent_blocks_are_read_back_during_transfer(faulty: FaultySftpServer, local: Path) -> None:
    with sftp_connection(faulty, faulty.port) as connection:
        transfer = upload(local, PART, connection, VerifiedParts())
    assert (transfer.sent_bytes, transfer.verified_by) == (BYTES, "read-back")
    assert (faulty.files / "part").read_bytes() == local.read_bytes()
    assert faulty.writes == WRITES
    assert faulty.requests.index("read") < len(faulty.requests) - faulty.requests[::-1].index("write") - 1


@pytest.mark.parametrize(
    "poor",
    [
        SftpFaults(closed_only=True),
        SftpFaults(writes_late=True),
        SftpFaults(one_writer=True),
        SftpFaults(flip_at=3, flips=1),
    ],
    ids=["it gives no open file back", "it writes at the end", "it lets one write at a time", "it errs once"],
)
def test_read_back_error_during_transfer_is_no_error_of_copy(
    faulty: FaultySftpServer, connection: SftpConnection, local: Path, poor: SftpFaults
) -> None:
    faulty.set_faults(poor)
    assert upload(local, PART, connection, VerifiedParts()).verified_by == "read-back"
    assert (faulty.files / "part").read_bytes() == local.read_bytes()


def test_wrong_byte_in_complete_copy_is_error(
    faulty: FaultySftpServer, connection: SftpConnection, local: Path
) -> None:
    faulty.set_faults(SftpFaults(flip_at=3))
    with pytest.raises(CopyCorrupt, match="from byte 3 on"):
        upload(local, PART, connection, VerifiedParts())


@pytest.mark.parametrize("first", [1, WRITES - 9, WRITES - 1, WRITES])
def test_write_refused_at_any_position_is_reported_and_part_is_removed(
    faulty: FaultySftpServer, connection: SftpConnection, local: Path, first: int
) -> None:
    faulty.set_faults(SftpFaults(bad_write=first, bad_writes=WRITES))
    with pytest.raises(WriteRefused):
        upload(local, PART, connection, VerifiedParts())
    assert not (faulty.files / "part").exists()
    assert faulty.writes < first + 2 * CHANNELS * IN_FLIGHT_BYTES // SAFE_BLOCK_BYTES


def test_part_removed_between_two_connections_is_verified_again(faulty: FaultySftpServer, local: Path) -> None:
    part, verified = faulty.files / "part", VerifiedParts()
    part.write_bytes(local.read_bytes()[: BYTES // 2])

    def cut_off_after(sent_bytes: int) -> None:
        with (
            running_proxy(faulty.port, NetworkFaults(cut_up=sent_bytes)) as proxy,
            pytest.raises(ReplicaUnreachable),
            connection_errors("there"),
            sftp_connection(faulty, proxy.port) as connection,
        ):
            upload(local, PART, connection, verified)

    cut_off_after(BYTES // 4)
    faulty.hang_up()
    part.unlink()
    faulty.set_faults(SftpFaults(lost_write=3))
    cut_off_after(BYTES * 3 // 4)
    faulty.hang_up()
    with sftp_connection(faulty, faulty.port) as connection:
        upload(local, PART, connection, verified)
    assert part.read_bytes() == local.read_bytes()


@pytest.mark.parametrize(
    "unsupported", [frozenset[str](), frozenset({"setstat", "fsetstat"})], ids=["cuts", "cannot cut"]
)
@pytest.mark.parametrize("right_bytes", [0, BYTES // 2, BYTES])
def test_part_longer_than_archive_is_truncated(
    faulty: FaultySftpServer, local: Path, right_bytes: int, unsupported: frozenset[str]
) -> None:
    faulty.set_faults(SftpFaults(unsupported=unsupported))
    (faulty.files / "part").write_bytes(local.read_bytes()[:right_bytes] + bytes(BYTES - right_bytes + 5000))
    with sftp_connection(faulty, faulty.port) as connection:
        upload(local, PART, connection, VerifiedParts())
    assert (faulty.files / "part").read_bytes() == local.read_bytes()
