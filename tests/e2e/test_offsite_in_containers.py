"""Off-site as it is deployed: app, sidecar and SFTP host are three containers, and the host goes down in the middle."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.containers import DATA, HARDENED, Container, Lab, wait_until
from support.sftp_host import SftpHost, start_sftp_host

ARCHIVE_BYTES, ARRIVED_BYTES = 32 << 20, 20 << 20
UNDER_WAY_BYTES = 16 << 20  # what was not answered for when the host stopped is sent again
HEALTH = "http://127.0.0.1:8080/health"
GROW = f"""
import sqlite3
c = sqlite3.connect("{DATA}/tasks.db", timeout=20)
c.execute("CREATE TABLE IF NOT EXISTS noise(data BLOB)")
c.execute("INSERT INTO noise VALUES (randomblob({ARCHIVE_BYTES}))")
c.commit()
"""


@pytest.fixture
def network(lab: Lab) -> str:
    return lab.network()


@pytest.fixture
def host(lab: Lab, sftp_image: str, network: str, tmp_path: Path) -> SftpHost:
    return start_sftp_host(lab, sftp_image, network, tmp_path)


def events(sidecar: Container, name: str) -> list[dict[str, Any]]:
    """Return the lines of backup.log that tell of one kind of event."""
    log = sidecar.exec("cat", f"{DATA}/backups/backup.log", options=("--user=1000:1000",))
    return [line for line in map(json.loads, log.out.splitlines()) if line.get("event.action") == name]


def published(names: str) -> list[str]:
    """Return what bears a final name in a listing of the host's directory."""
    return [name for name in names.split() if name.startswith(("tasks-", "SHA256SUMS"))]


def test_a_host_that_goes_down_in_the_middle_shows_nothing_half_and_gets_only_the_rest_once_it_is_back(
    lab: Lab, host: SftpHost, network: str
) -> None:
    volume = lab.volume()
    app = lab.app(volume, WRITE_EVERY_MS="20")
    app.python(GROW)
    sidecar = lab.sidecar(volume, options=(*HARDENED, f"--network={network}"), **host.environ)
    host.freeze_in_the_middle(ARRIVED_BYTES)
    host.stop()
    wait_until(lambda: events(sidecar, "replica.retried"), f"the loss is noticed: {sidecar.logs()}")
    assert published(lab.shell(host.volume, "ls")) == []
    assert sidecar.get(HEALTH)[0] == 503
    host.start()
    wait_until(lambda: sidecar.get(HEALTH)[0] == 200, f"health: {sidecar.logs()}", 60)
    (sent,) = events(sidecar, "generation.sent")
    archive_bytes = sidecar.exec("backupd", "list", "--json").json[0]["archive_bytes"]
    assert sent["backupd.sent_bytes"] + sent["backupd.spared_bytes"] == archive_bytes > ARCHIVE_BYTES
    assert sent["backupd.spared_bytes"] >= ARRIVED_BYTES - UNDER_WAY_BYTES
    assert host.sh("sha256sum --strict -c SHA256SUMS").count(": OK") == 1
    assert host.sh("ls -A .backupd/*").count(".part") == 0
    assert len(published(host.sh("ls"))) == 3
