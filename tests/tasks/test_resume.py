"""Archives of a replica whose connection is cut midway: received bytes are not transferred again."""

from pathlib import Path

import pytest

from backupd.errors import ReplicaUnreachable
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from backupd.tasks.restore.extract import ResumingArchives, extract_verified
from support.generations import manifest_of
from support.network_faults import DOWN, NetworkFaults, running_proxy
from support.replicas import incompressible_database, over_sftp, replicate_to, retrying
from support.sshd import Sshd

CUT_BYTES = 5_000_000


@pytest.fixture
def newest(sshd: Sshd, context: TaskContext, order: BackupRequest, tmp_path: Path) -> str:
    """The id of a generation of some 12 MB, which is at the replica too."""
    incompressible_database(order.path, 12_000_000)
    assert backup(order, context).outcome == "published"
    assert replicate_to(over_sftp(sshd, tmp_path / "there", context), context).outcome == "done"
    (generation,) = local_inventory(context).generations
    return generation.id


def test_restore_resumes_after_each_cut_of_connection(
    sshd: Sshd, context: TaskContext, newest: str, tmp_path: Path
) -> None:
    manifest = manifest_of(context, newest)
    with (
        Directory.open(tmp_path) as directory,
        running_proxy(sshd.port, NetworkFaults(cut_down=CUT_BYTES)) as proxy,
    ):
        target = HeldFile.create(directory, "restored")
        connect = over_sftp(sshd, tmp_path / "there", context, proxy.port)
        with connect() as first:
            extract_verified(manifest, ResumingArchives(first, connect, retrying(2)), target, 1, context)
        assert proxy.disturbed >= 2
        assert proxy.passed[DOWN] < manifest.archive.size_bytes + CUT_BYTES
    assert (tmp_path / "restored").stat().st_size == manifest.snapshot.size_bytes


def test_restore_without_reconnection_fails(sshd: Sshd, context: TaskContext, newest: str, tmp_path: Path) -> None:
    manifest = manifest_of(context, newest)
    with (
        Directory.open(tmp_path) as directory,
        running_proxy(sshd.port, NetworkFaults(cut_down=CUT_BYTES)) as proxy,
    ):
        target = HeldFile.create(directory, "restored")
        connect = over_sftp(sshd, tmp_path / "there", context, proxy.port)
        with connect() as first, pytest.raises(ReplicaUnreachable):
            extract_verified(manifest, ResumingArchives(first, connect, retrying(3, proxy.refuse)), target, 1, context)
    assert not (tmp_path / "restored").exists()
