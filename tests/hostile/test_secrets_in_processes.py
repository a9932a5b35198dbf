"""A compromised app directs backupd to /proc: processes that read files of the app have no secret."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backupd.system.file_lock import file_lock
from support.bank import make_bank
from support.command import Backupd
from support.daemon import running_daemon, wait_until
from support.recording_server import CannedResponse, RecordingServer, recording_server
from support.secrets_found import Found, watched_for
from support.sshd import Sshd

pytestmark = pytest.mark.no_cover

REAL = ("-m", "backupd")  # a process with an environment of its own from the start
TOKEN = "t0ken-0f-the-page-7f3a91"
BACKUP_TOKEN = "t0ken-t0-request-backups-5c08d1"
DOWNLOAD_TOKEN = "t0ken-t0-fetch-archives-e19b67"
PASSWORD = "pa55word-0f-the-nas-4be2d0"
CHANNEL = "ch4nnel-0f-the-messages-88c1e5"
MONITOR = "m0nitor-0f-the-runs-2d94f7"
READER = "import os, sys, time; p = sys.argv[1]\nwhile not os.path.exists(p): time.sleep(0.05)"


@pytest.fixture
def secrets(sshd: Sshd) -> dict[str, str]:
    """The secrets of this configuration by name; of the key a piece that no other file has."""
    key = sshd.key.read_text().splitlines()
    return {
        "token": TOKEN,
        "backup token": BACKUP_TOKEN,
        "download token": DOWNLOAD_TOKEN,
        "password": PASSWORD,
        "channel": CHANNEL,
        "monitor": MONITOR,
        "key": key[len(key) // 2],
    }


@contextmanager
def configured(sshd: Sshd, tmp_path: Path) -> Iterator[tuple[dict[str, str], RecordingServer]]:
    """Yield the environment of a daemon with every kind of secret, and the server that its pings go to."""
    with recording_server(lambda _asked: CannedResponse()) as monitor:
        yield (
            {
                "BACKUPD_HTTP__TOKEN": TOKEN,
                "BACKUPD_HTTP__ACTIONS": "true",
                "BACKUPD_HTTP__BACKUP_TOKEN": BACKUP_TOKEN,
                "BACKUPD_HTTP__DOWNLOAD_TOKEN": DOWNLOAD_TOKEN,
                "BACKUPD_NOTIFY__URLS": f"json://127.0.0.1:9/{CHANNEL}",
                "BACKUPD_PINGS__BACKUP": monitor.url(f"/ping/{MONITOR}"),
                "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{tmp_path / 'there'}",
                "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key(),
                "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
                "BACKUPD_REPLICAS__OFFSITE__PASSWORD": PASSWORD,
                "SFTP_PASSWORD": PASSWORD,  # as compose files pass one on under a second name
            },
            monitor,
        )


@contextmanager
def awaited(backups: Path, lock: str) -> Iterator[ExitStack]:
    """Hold a lock of the store until what is yielded is closed: what waits for it lives until it was searched."""
    (backups / ".backupd").mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        held.enter_context(file_lock(backups / ".backupd" / lock, "test"))
        yield held


def of_kind(found: Found, *kinds: str) -> set[tuple[str, str, str]]:
    return {one for one in found.where if one[0] in kinds}


def in_place(found: Found, *places: str) -> set[tuple[str, str, str]]:
    return {one for one in found.where if one[1] in places}


def test_daemon_processes_show_no_secret_and_packing_process_has_none(
    backupd: Backupd, database: Path, backups: Path, sshd: Sshd, secrets: dict[str, str], tmp_path: Path
) -> None:
    database.unlink()
    make_bank(database, rows=100_000)
    done = tmp_path / "seen"
    with configured(sshd, tmp_path) as (environ, monitor):
        environ["BACKUPD_DRILL__COMMAND"] = shlex.join(["python3", "-c", READER, str(done)])
        with (
            awaited(backups, "lock") as backup,
            awaited(backups, "replicate-offsite.lock") as replicate,
            watched_for(secrets) as found,
            running_daemon(backupd, program=REAL, **environ) as daemon,
        ):
            wait_until(lambda: "daemon.task_process backup" in found.memories, "the backup")
            backup.close()
            wait_until(lambda: "daemon.task_process replicate" in found.memories, "the replication")
            replicate.close()
            wait_until(lambda: "python3" in found.seen, "the command of the drill", 180)
            done.touch()
            wait_until(lambda: daemon.ask("/health")[0] == 200, "health", 180)
    assert "sqlite.worker.snapshot" in found.memories
    assert "sqlite.worker.integrity_check" in found.memories
    # It starts with the secrets in its environment, and has dropped them before it opens anything.
    assert in_place(found, "environment", "command line") <= {one for one in found.where if one[0] == "backupd serve"}
    workers = {kind for kind in found.seen if kind.startswith("sqlite.worker")}
    assert of_kind(found, "daemon.task_process backup", "python3", "system.process", *workers) == set()
    assert {one[2] for one in of_kind(found, "daemon.task_process replicate")} <= {"password", "key"}
    assert [asked.path.partition(MONITOR)[2] for asked in monitor.requests] == ["/start", ""]


def test_running_daemon_has_no_secret_in_environment(backupd: Backupd, sshd: Sshd, tmp_path: Path) -> None:
    with configured(sshd, tmp_path) as (environ, _), running_daemon(backupd, program=REAL, **environ) as daemon:
        daemon.wait_until_alive()
        block = Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
        assert b"PATH=" in block
        assert not any(
            secret.encode() in block for secret in (TOKEN, BACKUP_TOKEN, DOWNLOAD_TOKEN, PASSWORD, CHANNEL, MONITOR)
        )
        assert b"BACKUPD_" not in block.replace(b"_BACKUPD_HANDED_OVER", b"")
        assert daemon.stop() < 8
        assert daemon.process.returncode == 0


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_command_drops_secrets_before_touching_volume(
    backupd: Backupd,
    database: Path,
    backups: Path,
    sshd: Sshd,
    secrets: dict[str, str],
    tmp_path: Path,
    command: str,
) -> None:
    database.unlink()
    make_bank(database, rows=100_000)
    words = {"backup": ["backup"], "restore": ["restore", "--to", str(tmp_path / "restored.db")]}
    if command == "restore":
        assert backupd("backup").code == 0
    anew = f"anew backupd {command}"
    with (
        configured(sshd, tmp_path) as (environ, monitor),
        awaited(backups, "lock") as run,
        watched_for(secrets) as found,
        subprocess.Popen(
            [sys.executable, "-m", "backupd", *words[command]],
            env=backupd.environment(**environ),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        wait_until(lambda: anew in found.memories, "the run")
        run.close()
        assert process.wait(120) == 0
    assert of_kind(found, anew) == set()
    workers = {kind for kind in found.seen if kind.startswith("sqlite.worker")}
    assert workers
    assert of_kind(found, *workers) == set()
    if command == "backup":
        assert [asked.path.partition(MONITOR)[2] for asked in monitor.requests] == ["/start", ""]
