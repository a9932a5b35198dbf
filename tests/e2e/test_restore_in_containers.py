"""Restores in real containers: an idle app in another one is detected, and a lost volume comes back from SFTP."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.containers import DATA, HARDENED, Container, ContainerLab, wait_until
from support.sftp_host import SftpHost

IDLE = f"""
import sqlite3, time
app = sqlite3.connect("{DATA}/tasks.db", isolation_level=None)
app.execute("PRAGMA journal_mode = %s")
app.execute("INSERT INTO tasks (title, made_at) VALUES ('one more', 0)")
print("idle", flush=True)
time.sleep(600)
"""


def tasks(app: Container) -> int:
    """Return how many tasks the app finds; it answers only while its invariant holds."""
    program = "import json, urllib.request as r; print(json.load(r.urlopen('http://127.0.0.1:8000/health'))['tasks'])"
    return int(app.python(program))


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_restore_with_idle_app_in_another_container_is_refused_until_app_stops(
    lab: ContainerLab, volume: str, mode: str
) -> None:
    lab.shell(volume, "chmod 750 .")  # the app's alone: backupd has to become its owner before it looks
    sidecar = lab.sidecar(volume, backups=lab.volume(), options=HARDENED, BACKUPD_RETENTION__LAST="9")
    wait_until(lambda: sidecar.exec("backupd", "backup").code == 0, "a backup", 60)
    idle = ("--entrypoint=python", f"--volume={volume}:{DATA}")
    app = lab.start(lab.app_image, "-uc", IDLE % mode, options=idle)
    app.said("idle")
    refused = sidecar.exec("backupd", "restore")
    assert refused.code == 75, refused.out + refused.err
    assert "here or in another container" in refused.err
    first = oldest(sidecar)
    online = sidecar.exec("backupd", "restore", first, "--online")
    assert online.code in {0, 3}, online.err
    app.stop(0)
    restored = sidecar.exec("backupd", "restore")
    assert restored.code == 0, restored.err
    app = lab.app(volume)
    assert tasks(app) == 21, "the safety backup of before --online is the latest"
    app.stop(0)
    for found in (20, 21):
        undone = sidecar.exec("backupd", "restore", "--undo")
        assert undone.code == 0, undone.out + undone.err
        app = lab.app(volume)
        assert tasks(app) == found, "first the restore in place is taken back, then the one online"
        app.stop(0)
    rights = {name: owner for name, owner in lab.files(volume).items() if name.startswith("tasks.db")}
    assert {owner.split()[0] for owner in rights.values()} == {"1000:1000"}


def oldest(sidecar: Container) -> str:
    """Return the id of the first generation."""
    generation: str = sidecar.exec("backupd", "list", "--json").json[-1]["id"]
    return generation


def test_lost_volume_with_backups_and_catalog_is_restored_from_sftp_host(
    lab: ContainerLab, volume: str, host: SftpHost, network: str
) -> None:
    options = (*HARDENED, f"--network={network}")
    first = lab.sidecar(volume, options=options, **host.environ)
    first.said("replicate to offsite: done", 120)
    assert first.exec("backupd", "list", "--store", "offsite", "--json").out.count('"id"') == 1
    first.kill()
    fresh = lab.volume()
    new = lab.sidecar(fresh, options=options, **host.environ)
    new.answers("http://127.0.0.1:8080/livez")
    restored = new.exec("backupd", "restore", "--from", "offsite")
    assert restored.code == 0, restored.out + restored.err
    assert tasks(lab.app(fresh)) == 20
    rights = lab.files(fresh)
    assert rights["tasks.db"].split()[0] == "1000:1000"
    assert rights["."] == lab.files(volume)["."], "owner and mode of the directory"


def test_init_container_restores_lost_volume_and_keeps_existing_one(
    lab: ContainerLab, volume: str, host: SftpHost, network: str
) -> None:
    options = (*HARDENED, f"--network={network}")
    at_start = ("restore", "--if-missing", "--from", "offsite")
    first = lab.sidecar(volume, options=options, **host.environ)
    first.said("replicate to offsite: done", 120)
    assert first.exec("backupd", "list", "--store", "offsite", "--json").out.count('"id"') == 1
    first.kill()
    there = lab.backupd(volume, *at_start, options=HARDENED, **host.environ)  # with no way to the host
    assert there.code == 0, there.err
    assert "nothing to restore" in there.out
    fresh = lab.volume()
    unreachable = lab.backupd(fresh, *at_start, "--allow-none", options=HARDENED, **host.environ)
    assert unreachable.code != 0
    with ThreadPoolExecutor() as pool:
        both = [*pool.map(lambda _: lab.backupd(fresh, *at_start, options=options, **host.environ), range(2))]
    assert [answer.code for answer in both] == [0, 0], "".join(
        f"{answer.code}: {answer.out}{answer.err}" for answer in both
    )
    assert tasks(lab.app(fresh)) == 20
