"""Off-site as it is deployed: app, sidecar and SFTP host are three containers, and the host goes down in the middle."""

import json
from typing import Any

from support.containers import DATA, HARDENED, Container, ContainerLab
from support.sftp_host import SftpHost

ARCHIVE_MIB, ARRIVED_MIB = 32, 20
UNDER_WAY_MIB = 16  # what was not answered for when the host stopped is sent again
HEALTH = "http://127.0.0.1:8080/health"
GROW = f"""
import sqlite3
c = sqlite3.connect("{DATA}/tasks.db", timeout=20)
c.execute("CREATE TABLE IF NOT EXISTS noise(data BLOB)")
c.execute("INSERT INTO noise VALUES (randomblob({ARCHIVE_MIB << 20}))")
c.commit()
"""


def events(sidecar: Container, name: str) -> list[dict[str, Any]]:
    """Return the lines of backup.log that tell of one kind of event."""
    log = sidecar.exec("cat", f"{DATA}/backups/backup.log", options=("--user=1000:1000",))
    return [line for line in map(json.loads, log.out.splitlines()) if line.get("event.action") == name]


def published(names: str) -> list[str]:
    """Return what bears a final name in a listing of the host's directory."""
    return [name for name in names.split() if name.startswith(("tasks-", "SHA256SUMS"))]


def test_sftp_host_down_during_upload_has_no_partial_generation_and_resumes(
    lab: ContainerLab, host: SftpHost, network: str
) -> None:
    volume = lab.volume()
    app = lab.app(volume, WRITE_EVERY_MS="20")
    app.python(GROW)
    environ = {**host.environ, "BACKUPD_PACK__PRIORITY": "normal"}  # soon done on a busy machine as well
    on_network = (f"--network={network}", "--dns-opt=timeout:1", "--dns-opt=attempts:1")
    sidecar = lab.sidecar(volume, options=(*HARDENED, *on_network), **environ)
    host.freeze_in_the_middle(ARRIVED_MIB)
    host.stop()
    sidecar.said("trying again in")
    assert events(sidecar, "replica.retried")
    assert published(lab.shell(host.volume, "ls")) == []
    code, told = sidecar.get(HEALTH)
    assert (code, "off-site copy at offsite" in told) == (503, True)
    host.start()
    sidecar.answers(HEALTH)
    (sent,) = events(sidecar, "generation.sent")
    archive_bytes = sidecar.exec("backupd", "list", "--json").json[0]["archive_bytes"]
    assert sent["backupd.sent_bytes"] + sent["backupd.resumed_bytes"] == archive_bytes > ARCHIVE_MIB << 20
    assert sent["backupd.resumed_bytes"] >= (ARRIVED_MIB - UNDER_WAY_MIB) << 20
    assert host.sh("sha256sum --strict -c SHA256SUMS").count(": OK") == 1
    assert host.sh("ls -A .backupd/*").count(".part") == 0
    assert len(published(host.sh("ls"))) == 3
    host.stop()
    assert sidecar.exec("backupd", "backup").code == 0
    gave_up = sidecar.exec(
        "backupd", "replicate", "--json", options=("--env=BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S=0.1",)
    )
    (report,) = gave_up.json
    assert (gave_up.code, report["outcome"], report["sent"], report["sent_bytes"]) == (75, "failed", [], 0)
    host.start()
    (report,) = sidecar.exec("backupd", "replicate", "--json").json
    assert (report["outcome"], len(report["sent"])) == ("done", 1), report
    assert host.sh("sha256sum --strict -c SHA256SUMS").count(": OK") == len(published(host.sh("ls"))) // 2
