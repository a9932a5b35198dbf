"""A real daemon: a missing database is noticed at once, and a repaired fault is retried at once."""

import json
import re
from pathlib import Path

import pytest

from support.command import Backupd
from support.daemon import running_daemon, wait_until
from support.replicas import complete_generations
from support.sshd import Sshd

pytestmark = pytest.mark.no_cover

RECONFIGURED = "the configuration or the database file has changed since the last run failed"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def retried(run: str, said: str) -> bool:
    """Tell whether a status says that a run, `TASK of SUBJECT`, is tried again in a while."""
    task, _, subject = run.split()
    words = rf"^next runs +{subject}: .*{task} [^,]*\(in [\d.]+ (s|min), the last run failed\)"
    return re.search(words, said, re.MULTILINE) is not None


def test_deleted_database_is_unhealthy_within_a_minute_and_healthy_once_restored(
    backupd: Backupd, database: Path
) -> None:
    with running_daemon(backupd) as daemon:
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
        for path in database.parent.glob("tasks.db*"):
            path.unlink()
        daemon.wait_for("backup of tasks is due: its database is missing", 90)
        wait_until(lambda: daemon.ask("/health")[0] == 503, "a red /health", 60)
        (problem,) = daemon.health()["problems"]
        assert (problem["kind"], problem["cause"]) == ("missing", "missing")
        assert "backupd restore latest --source tasks" in problem["next_step"]
        assert str(database.parent) not in json.dumps(daemon.health())
        status = backupd("status")
        assert (status.code, daemon.ask("/livez")[0]) == (1, 200)
        assert "  reason: the database of tasks is missing: no backup can be made" in status.out
        assert re.search(
            r"^next runs +tasks: backup .* \(in [\d.]+ (s|min), the last run failed\)", status.out, re.MULTILINE
        )
    assert backupd("restore").code == 0
    with running_daemon(backupd) as daemon:
        daemon.wait_for(f"backup of tasks is due: {RECONFIGURED}", 20)
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
    assert backupd("status").code == 0


def test_failed_replication_is_retried_at_once_with_another_host_key_only(
    backupd: Backupd, sshd: Sshd, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    offsite = {
        "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}",
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": OTHER_KEY,
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
    }
    with running_daemon(backupd, **offsite) as daemon:
        daemon.wait_for("replicate to offsite: failed")
        status = backupd("status", **offsite)
        assert "  warning: the replication to offsite failed: the replica refused" in status.out
        assert re.search(
            r"^next runs +offsite: replicate .* \(in [\d.]+ (s|min), the last run failed\)", status.out, re.MULTILINE
        )
    pinned = offsite | {"BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key()}
    assert f"offsite: replicate now (when the daemon runs; {RECONFIGURED})" in backupd("status", **pinned).out
    with running_daemon(backupd, **offsite) as daemon:
        daemon.wait_until_alive()
        assert RECONFIGURED not in daemon.said()
    with running_daemon(backupd, **pinned) as daemon:
        daemon.wait_for(f"replicate to offsite is due: {RECONFIGURED}", 20)
        wait_until(lambda: complete_generations(there), "the copy", 20)
