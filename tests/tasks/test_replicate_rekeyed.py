"""Rekeying during a transfer, as either side does after a number of bytes, loses nothing."""

from pathlib import Path

import pytest
from paramiko import Packetizer

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.network_faults import NetworkFaults, running_proxy
from support.replicas import complete_generations, incompressible_database, over_sftp, replicate_to
from support.sshd import running_sshd

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize(("who", "delay_s"), [("server", 0.0), ("backupd", 0.02)], ids=["server-near", "backupd-far"])
def test_rekeying_during_upload_and_read_back_loses_nothing(
    tmp_path: Path,
    context: TaskContext,
    order: BackupRequest,
    who: str,
    delay_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    incompressible_database(order.path, 12_000_000)
    backup(order, context)
    lines = ["LogLevel DEBUG1"]
    if who == "server":
        lines.append("RekeyLimit 2M")
    else:
        monkeypatch.setattr(Packetizer, "REKEY_BYTES", 2 << 20)
    with (
        running_sshd(tmp_path / "server", lines=lines) as server,
        running_proxy(server.port, NetworkFaults(delay_s=delay_s)) as proxy,
    ):
        report = replicate_to(over_sftp(server, tmp_path / "there", context, proxy.port), context)
        assert (report.outcome, len(report.details.sent)) == ("done", 1), report.error
        assert proxy.connections == 1
        assert server.log().count("SSH2_MSG_NEWKEYS received") > 2
    assert len(complete_generations(tmp_path / "there")) == 1
