"""The daemon sends copies automatically, and reports it."""

from pathlib import Path

import pytest

from support.bank import make_bank
from support.command import Backupd
from support.daemon import running_daemon, wait_until
from support.replicas import complete_generations
from support.sshd import Sshd

NAMES = ("TASKS", "NOTES")

pytestmark = pytest.mark.no_cover


def test_replication_runs_automatically_and_then_health_is_green(backupd: Backupd, tmp_path: Path) -> None:
    nas = tmp_path / "mounted" / "nas"
    with running_daemon(backupd, BACKUPD_REPLICAS__NAS__URL=f"file:{nas}") as daemon:
        daemon.wait_until_alive()
        daemon.wait_for("backup of tasks: published")
        daemon.wait_for("does not exist")
        assert daemon.ask("/health")[0] == 503
        assert daemon.health()["reasons"] == [
            "there is no off-site copy at nas yet",
            "there is no proven restore from nas yet",
        ]
        assert not nas.exists()
        daemon.stop()
    nas.parent.mkdir()
    with running_daemon(backupd, BACKUPD_REPLICAS__NAS__URL=f"file:{nas}") as daemon:
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health", 180)
        assert len(complete_generations(nas)) == 1


def test_copies_reach_an_sftp_host(backupd: Backupd, sshd: Sshd, tmp_path: Path) -> None:
    there = tmp_path / "there"
    environ = {
        "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}",
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
    }
    with running_daemon(backupd, **environ) as daemon:
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health", 180)
        assert len(complete_generations(there)) == 1


def test_unreachable_host_delays_no_backup(backupd: Backupd, backups: Path) -> None:
    url = "sftp://backup@127.0.0.1:1/x"
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    environ = {"URL": url, "HOST_KEY": key, "PASSWORD": "none", "TIMEOUT_S": "3600"}
    offsite = {f"BACKUPD_REPLICAS__OFFSITE__{name}": value for name, value in environ.items()}
    assert backupd("backup").code == 0
    with running_daemon(backupd, **offsite) as daemon:
        daemon.wait_for("trying again in")
        wait_until(lambda: "prune of tasks: done" in daemon.said(), "a prune beside the replication", 90)
        assert daemon.ask("/health")[0] == 503
        assert daemon.stop() < 8
    assert daemon.process.returncode == 0
    assert len(list(backups.glob("*.sqlite3.gz"))) == 1


def test_copy_is_drilled_automatically_with_a_command_of_the_app(backupd: Backupd, tmp_path: Path) -> None:
    nas, place = tmp_path / "nas", tmp_path / "drill" / "tasks.db"
    place.parent.mkdir()
    environ = {
        "BACKUPD_REPLICAS__NAS__URL": f"file:{nas}",
        "BACKUPD_DRILL__PLACE_AT": str(place),
        "BACKUPD_DRILL__COMMAND": f"test -f {place}",
        "BACKUPD_HTTP__TOKEN": "secret-of-the-daemon",
    }
    with running_daemon(backupd, **environ) as daemon:
        daemon.wait_for("drill of tasks from nas is due: there was none yet", 120)
        daemon.wait_for("drill of tasks: done", 120)
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health")
        said = daemon.said()
    assert said.index("replicate to nas: done") < said.index("drill of tasks begins")
    assert said.count("drill of tasks begins") == 1
    assert list(place.parent.iterdir()) == []


def test_restore_point_is_drilled_as_whole_at_its_time(backupd: Backupd, database: Path) -> None:
    make_bank(database.with_name("notes.db"), rows=10)
    environ = {f"BACKUPD_SOURCES__{name}__PATH": str(database.with_name(f"{name.lower()}.db")) for name in NAMES}
    with running_daemon(backupd, BACKUPD_DATABASE="", BACKUPD_DRILL__FROM="local", **environ) as daemon:
        for name in NAMES:
            daemon.wait_for(f"drill of {name.lower()} from local is due: there was none yet", 120)
        wait_until(lambda: daemon.ask("/health")[0] == 200, "health", 120)
        done = [line for line in daemon.said().splitlines() if "drill of" in line and ": done" in line]
    points = {word.rstrip(",") for line in done for word in line.split() if word.startswith("point-")}
    assert (len(done), len(points)) == (2, 1)


def test_failed_drill_is_reported_by_health_and_status(backupd: Backupd, tmp_path: Path) -> None:
    environ = {"BACKUPD_REPLICAS__NAS__URL": f"file:{tmp_path / 'nas'}", "BACKUPD_DRILL__COMMAND": "false"}
    with running_daemon(backupd, **environ) as daemon:
        daemon.wait_for("drill of tasks: failed: the command false failed (exit code 1)", 120)
        wait_until(lambda: len(daemon.health()["reasons"]) == 1, "the off-site copy")
        assert daemon.health()["reasons"] == ["there is no proven restore from nas yet"]
        assert "the command false failed (exit code 1)" in daemon.ask("/")[1]
