"""What is sent is read back on the way."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import CopyCorrupt
from backupd.stores.sftp.hostkeys import PinnedKeys
from backupd.stores.sftp.link import Link
from backupd.stores.sftp.login import Credentials
from backupd.stores.sftp.upload import Proven, upload
from backupd.stores.sftp.wire import IN_FLIGHT_BYTES, SAFE_BLOCK_BYTES
from support.odd_sftp import Oddities, OddSftp, running_odd_sftp
from support.replicas import SWIFT

BYTES = 4 * IN_FLIGHT_BYTES
WRITES = BYTES // SAFE_BLOCK_BYTES


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[OddSftp]:
    with running_odd_sftp(tmp_path / "odd") as server:
        yield server


@pytest.fixture
def link(odd: OddSftp) -> Iterator[Link]:
    pins = PinnedKeys.read("there", odd.host_key(), None)
    credentials = Credentials(odd.user, private_key=odd.key.read_text())
    with Link.to("127.0.0.1", odd.port, pins, credentials, SWIFT) as link:
        yield link


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(BYTES))
    return path


def test_what_is_sent_comes_back_while_the_rest_is_on_its_way(odd: OddSftp, link: Link, local: Path) -> None:
    transfer = upload(local, "/backups/part", link, Proven())
    assert (transfer.sent_bytes, transfer.proven_by) == (BYTES, "read-back")
    assert (odd.files / "part").read_bytes() == local.read_bytes()
    assert odd.writes == WRITES
    assert odd.requests.index("read") < len(odd.requests) - odd.requests[::-1].index("write") - 1


def test_sending_stops_at_the_first_byte_that_comes_back_wrong(odd: OddSftp, link: Link, local: Path) -> None:
    odd.be(Oddities(flip_at=3))
    with pytest.raises(CopyCorrupt, match="from byte 3 on"):
        upload(local, "/backups/part", link, Proven())
    assert 0 < odd.writes < WRITES
