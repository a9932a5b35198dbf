"""Archives of a replica whose connection is cut in the middle: what has arrived does not travel again."""

from pathlib import Path

import pytest

from backupd.errors import ReplicaUnreachable
from backupd.tasks.backup import backup
from backupd.tasks.context import Site, local_inventory
from backupd.tasks.options import BackupOrder
from backupd.tasks.restore.extract import ResumingArchives, unpack_proven
from support.generations import manifest_of
from support.network_faults import DOWN, Weather, running_wire
from support.replicas import again, noisy_database, over_sftp, sent_to
from support.sshd import Sshd

CUT_BYTES = 5_000_000


@pytest.fixture
def newest(sshd: Sshd, site: Site, order: BackupOrder, tmp_path: Path) -> str:
    """The id of a generation of some 12 MB, which is at the replica too."""
    noisy_database(order.path, 12_000_000)
    assert backup(order, site).outcome == "published"
    assert sent_to(over_sftp(sshd, tmp_path / "there", site), site).outcome == "done"
    (generation,) = local_inventory(site).generations
    return generation.id


def test_a_restore_goes_on_where_each_connection_was_cut(sshd: Sshd, site: Site, newest: str, tmp_path: Path) -> None:
    manifest, target = manifest_of(site, newest), tmp_path / "restored"
    with running_wire(sshd.port, Weather(cut_down=CUT_BYTES)) as wire:
        connect = over_sftp(sshd, tmp_path / "there", site, wire.port)
        with connect() as first:
            unpack_proven(manifest, ResumingArchives(first, connect, again(2)), target, 1, site)
        assert wire.harmed >= 2
        assert wire.passed[DOWN] < manifest.archive.size_bytes + CUT_BYTES
    assert target.stat().st_size == manifest.snapshot.size_bytes


def test_a_connection_that_does_not_come_back_ends_it(sshd: Sshd, site: Site, newest: str, tmp_path: Path) -> None:
    manifest, target = manifest_of(site, newest), tmp_path / "restored"
    with running_wire(sshd.port, Weather(cut_down=CUT_BYTES)) as wire:
        connect = over_sftp(sshd, tmp_path / "there", site, wire.port)
        with connect() as first, pytest.raises(ReplicaUnreachable):
            unpack_proven(manifest, ResumingArchives(first, connect, again(3, wire.refuse)), target, 1, site)
    assert not target.exists()
