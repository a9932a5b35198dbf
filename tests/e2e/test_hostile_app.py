"""A compromised app beside the hardened container of the README: what it plants in its volume leads nowhere."""

from pathlib import Path

from support.attackers import journal_that_removes
from support.containers import HARDENED, ContainerLab

CATALOG = "backups/.backupd/catalog.sqlite3"
SECRET = "root only"


def test_planted_journal_and_renamed_file_of_root_harm_nothing(lab: ContainerLab, volume: str) -> None:
    other = lab.volume()
    lab.shell(other, "echo of another app >precious; chown -R 1000:1000 .")
    mounts = (*HARDENED, f"--volume={other}:/other")
    assert lab.backupd(volume, "backup", options=mounts).code == 0
    octal = "".join(rf"\{byte:03o}" for byte in journal_that_removes(Path("/other/precious"), 1))
    planted = f"printf '{octal}' >{CATALOG}-journal"
    secret = f"echo {SECRET} >secret; chmod 600 secret; mv secret backups/.backupd/pins/tasks-20260101-0000.json"
    lab.shell(volume, f"{planted}; chown 1000:1000 {CATALOG}-journal; {secret}")
    for command in ("list", "backup", "doctor"):
        assert lab.backupd(volume, command, options=mounts).code in {0, 1, 3}
    assert lab.shell(other, "cat precious") == "of another app\n"
    assert lab.files(volume)["backups/.backupd/pins/tasks-20260101-0000.json"] == "0:0 600"
