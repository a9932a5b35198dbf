"""Commands of an operator beside the daemon in its container, and changes that the daemon notices later."""

from support.containers import BACKUPS, HARDENED, ContainerLab

APP = "1000:1000"
COUNT = """
import sqlite3
print(sqlite3.connect("/backups/restored.db").execute("SELECT count(*) FROM tasks").fetchone()[0])
"""


def test_backup_restore_and_status_by_docker_exec_succeed(lab: ContainerLab, volume: str) -> None:
    backups = lab.volume()
    sidecar = lab.sidecar(volume, backups=backups, options=HARDENED)
    sidecar.answers("http://127.0.0.1:8080/health")
    answer = sidecar.exec("backupd", "backup", "--json")
    assert (answer.code, answer.json["outcome"]) == (0, "unchanged"), answer.err
    restored = sidecar.exec("backupd", "restore", "latest", "--to", f"{BACKUPS}/restored.db")
    assert restored.code == 0, restored.err
    assert sidecar.exec("python", "-c", COUNT, options=(f"--user={APP}",)).out.strip() == "20"
    assert sidecar.exec("backupd", "status").code == 0
    assert {rights.split()[0] for name, rights in lab.files(backups).items() if name != "."} == {APP}


def test_daemon_becomes_owner_of_database_that_is_created_later(lab: ContainerLab) -> None:
    volume, backups = lab.volume(), lab.volume()
    sidecar = lab.sidecar(volume, backups=backups, options=(*HARDENED, "--cap-add=CHOWN"))
    sidecar.said("no database")
    lab.app(volume)
    sidecar.said("backs up tasks as user 1000:1000", 120)
    sidecar.answers("http://127.0.0.1:8080/livez")
    answer = sidecar.exec("backupd", "backup", "--json")
    assert answer.code == 0, answer.out + answer.err
    assert {rights.split()[0] for name, rights in lab.files(backups).items() if name.endswith(".gz")} == {APP}
