"""Dropping privileges: processes that start as root, with few capabilities, as in a container."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backupd.stores.ownership import transfer_ownership
from support.bank import make_bank
from support.fork_server import measured

APP = 1234
GROUP = 5678
ID = "tasks-20261121-0400"
LOG = "backup.log"
pytestmark = [pytest.mark.root, pytest.mark.cover_processes]

# All is imported first: after that the interpreter may lie where only root can reach it.
CHILD = """
import json, os, sys
from backupd.config import load_config
from backupd.errors import BackupdError
from backupd.files.walker import FilesDirectory
from backupd.privileges import drop_privileges
from backupd.stores.local import DirectoryStore
try:
    config = load_config(None, os.environ)
    first, again = drop_privileges(config, os.environ), drop_privileges(config, os.environ)
    DirectoryStore("local", config.backups_dir).prepare()
    print(json.dumps({
        "reason": first and first.reason, "again": again and again.reason,
        "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "home": os.environ["HOME"],
        "capabilities": [line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapPrm", "CapEff")],
        "set": str(FilesDirectory.inspect(config.files["uploads"].path).path) if config.files else None,
        "read": open(config.sources["tasks"].path, "rb").read(6).decode() if "READ" in os.environ else None,
    }))
except BackupdError as error:
    print(json.dumps({"error": error.message, "hint": error.hint, "exit_code": error.exit_code}))
"""


@dataclass(frozen=True)
class Volume:
    """A volume with the data of an app and an empty directory for backups, both reachable by everyone."""

    data: Path
    backups: Path

    @property
    def database(self) -> Path:
        return self.data / "tasks.db"

    def drop_privileges(self, capabilities: str = "", **environ: str) -> Any:
        """Settle in a child that has only `capabilities`, such as "chown,setuid" ("all" for all of them)."""
        names = {
            "BACKUPD_DATABASE": str(self.database),
            "BACKUPD_BACKUPS_DIR": str(self.backups),
            **environ,
            **measured(),
        }
        bounding = ",".join(["-all", *(f"+{name}" for name in capabilities.split(",") if name)])
        limits = [] if capabilities == "all" else ["setpriv", f"--bounding-set={bounding}", "--inh-caps=-all"]
        done = subprocess.run(
            [*limits, sys.executable, "-c", CHILD],
            env={"PATH": os.environ["PATH"], "HOME": "/root", "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **names},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def volume() -> Iterator[Volume]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        made = Volume(home / "data", home / "backups")
        made.data.mkdir(mode=0o755)
        made.backups.mkdir(mode=0o755)
        make_bank(made.database)
        for path in (made.data, made.database):
            os.chown(path, APP, GROUP)
        yield made


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_root_becomes_owner_of_database_permanently(volume: Volume) -> None:
    said = volume.drop_privileges("all", PUID="auto", READ="1")
    assert said["uid"] == [APP] * 3
    assert said["gid"] == [GROUP] * 3
    assert said["groups"] == []
    assert said["capabilities"] == ["0" * 16] * 2
    assert said["reason"] == f"the owner of {volume.database}"
    assert said["again"] is None
    assert said["read"] == "SQLite"
    assert said["home"] == "/"
    assert owner(volume.backups) == (APP, GROUP)


def test_three_capabilities_suffice_for_new_volume_beside_private_data(volume: Volume) -> None:
    volume.data.chmod(0o700)
    volume.database.chmod(0o600)
    said = volume.drop_privileges("chown,setuid,setgid", PUID="auto", READ="1")
    assert (said["uid"], said["read"]) == ([APP] * 3, "SQLite")
    assert owner(volume.backups) == owner(volume.backups / ".backupd") == (APP, GROUP)


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o750])
def test_set_of_files_that_the_owner_of_the_database_may_not_read_is_named_with_its_owner(
    volume: Volume, mode: int
) -> None:
    uploads = volume.data.parent / "uploads"
    uploads.mkdir()
    os.chown(uploads, APP + 1, GROUP + 1)
    uploads.chmod(mode)
    named = {"BACKUPD_FILES__UPLOADS__PATH": str(uploads)}
    said = volume.drop_privileges("all", PUID="auto", **named)
    assert said["error"] == f"uid {APP} may not read {uploads}, which belongs to uid {APP + 1}"
    assert "PUID=0" in said["hint"]
    assert volume.drop_privileges("all", PUID="0", **named)["set"] == str(uploads)
    if mode == 0o750:
        assert volume.drop_privileges("all", PUID="auto", PGID=str(GROUP + 1), **named)["set"] == str(uploads)
    uploads.chmod(0o755)
    assert volume.drop_privileges("all", PUID="auto", **named)["set"] == str(uploads)


def test_backups_beside_database_need_no_chown_capability(volume: Volume) -> None:
    volume.data.chmod(0o700)
    beside = volume.data / "backups"
    assert volume.drop_privileges("setuid,setgid", PUID="auto", BACKUPD_BACKUPS_DIR=str(beside))["uid"] == [APP] * 3
    assert owner(beside) == (APP, GROUP)


def test_backups_directory_below_directory_of_root_is_created_and_given_to_owner(volume: Volume) -> None:
    volume.backups.rmdir()
    assert volume.drop_privileges("chown,setuid,setgid", PUID="auto")["uid"] == [APP] * 3
    assert owner(volume.backups) == (APP, GROUP)
    assert stat.S_IMODE(volume.backups.stat().st_mode) == 0o750


def test_missing_mount_is_not_created(volume: Volume) -> None:
    nowhere = volume.backups / "not-mounted" / "backups"
    said = volume.drop_privileges("all", PUID="auto", BACKUPD_BACKUPS_DIR=str(nowhere))
    assert "not-mounted does not exist" in said["error"]
    assert not nowhere.parent.exists()


@pytest.mark.parametrize(
    ("capabilities", "missing"), [("setuid,setgid", "CHOWN"), ("chown,setgid", "SETUID"), ("chown,setuid", "SETGID")]
)
def test_missing_capability_is_named(volume: Volume, capabilities: str, missing: str) -> None:
    said = volume.drop_privileges(capabilities, PUID="auto")
    assert said["exit_code"] == 78
    assert missing in said["hint"]
    assert str(APP) in said["error"]


def test_numeric_puid_precedes_owner_of_database(volume: Volume) -> None:
    said = volume.drop_privileges("chown,setuid,setgid", PUID="4321", PGID="8765")
    assert (said["uid"], said["gid"]) == ([4321] * 3, [8765] * 3)
    assert owner(volume.backups) == (4321, 8765)


def test_puid_zero_stays_root_and_changes_no_owner(volume: Volume) -> None:
    said = volume.drop_privileges("chown,setuid,setgid", PUID="0")
    assert (said["uid"], said["reason"], said["home"]) == ([0] * 3, None, "/root")
    assert owner(volume.backups) == (0, 0)


def test_root_may_run_in_another_group(volume: Volume) -> None:
    said = volume.drop_privileges("setgid", PUID="0", PGID="100")
    assert (said["uid"], said["gid"], said["again"]) == ([0] * 3, [100] * 3, None)
    assert owner(volume.backups) == (0, 0)


def test_database_created_later_sets_user_at_next_run(volume: Volume) -> None:
    hidden = volume.data.with_name("hidden.db")
    volume.database.rename(hidden)
    os.chown(volume.data, 0, 0)
    first = volume.drop_privileges("chown,setuid,setgid", PUID="auto")
    assert (first["uid"], first["reason"]) == ([0] * 3, None)
    assert owner(volume.backups / ".backupd") == (0, 0)
    hidden.rename(volume.database)
    assert volume.drop_privileges("chown,setuid,setgid", PUID="auto")["uid"] == [APP] * 3
    assert owner(volume.backups / ".backupd") == owner(volume.backups) == (APP, GROUP)


def test_root_without_puid_stays_root(volume: Volume) -> None:
    assert volume.drop_privileges("all")["uid"] == [0] * 3


def test_files_of_root_in_store_change_owner_and_foreign_files_do_not(volume: Volume) -> None:
    ours = [f"{ID}.sqlite3.gz", f"{ID}-2.manifest.json", "SHA256SUMS", LOG, f"{LOG}.1.gz"]
    foreign = ["notes.txt", "tasks.sqlite3.gz", "my.manifest.json", "SHA256SUMS.old", ".backupd.old"]
    for name in (*ours, *foreign):
        (volume.backups / name).touch(mode=0o600)
    deep = volume.backups / ".backupd" / "staging" / "run-1" / "snapshot"
    deep.parent.mkdir(parents=True, mode=0o700)
    deep.touch()
    content = volume.backups / "files" / "ab" / f"{'ab' * 32}.gz"
    content.parent.mkdir(parents=True, mode=0o700)
    content.touch()
    volume.drop_privileges("chown,setuid,setgid", PUID="auto")
    given = [volume.backups, *(volume.backups / name for name in ours), deep, *list(deep.parents)[:3]]
    given += [content, *list(content.parents)[:2]]
    assert {owner(path) for path in given} == {(APP, GROUP)}
    assert {owner(volume.backups / name) for name in foreign} == {(0, 0)}


def test_files_of_other_users_keep_owner(volume: Volume) -> None:
    for path in (volume.backups / LOG, volume.backups):
        path.touch()
        os.chown(path, 4321, 4321)
    transfer_ownership(volume.backups, APP, GROUP, LOG)
    assert owner(volume.backups) == owner(volume.backups / LOG) == (4321, 4321)


def test_world_writable_directory_keeps_owner_root(volume: Volume) -> None:
    volume.backups.chmod(0o1777)
    (volume.backups / LOG).touch()
    transfer_ownership(volume.backups, APP, GROUP, LOG)
    assert owner(volume.backups) == (0, 0)
    assert owner(volume.backups / LOG) == (APP, GROUP)


@pytest.mark.parametrize("name", [LOG, ".backupd", f"{ID}.sqlite3.gz", ".backupd/staging", ".backupd/lock"])
def test_links_inside_store_are_not_followed(volume: Volume, tmp_path: Path, name: str) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").touch()
    for victim in (target, target / "file"):
        link = volume.backups / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(victim)
        transfer_ownership(volume.backups, APP, GROUP, LOG)
        assert owner(victim) == owner(link) == (0, 0)
        link.unlink()
    assert owner(target / "file") == (0, 0)


def test_links_on_path_to_store_are_not_followed(volume: Volume, tmp_path: Path) -> None:
    for link in (volume.data / "backups", volume.data / "way"):
        link.symlink_to(tmp_path)
    transfer_ownership(volume.data / "backups", APP, GROUP, LOG)
    transfer_ownership(volume.data / "way" / "backups", APP, GROUP, LOG)
    assert owner(tmp_path) == (0, 0)
    assert not (tmp_path / "backups").exists()


def test_hard_links_pipes_and_directories_keep_owner(volume: Volume, tmp_path: Path) -> None:
    secret = volume.data.parent / "secret"
    secret.touch()
    (volume.backups / LOG).hardlink_to(secret)
    os.mkfifo(volume.backups / "SHA256SUMS")
    (volume.backups / f"{ID}.sqlite3.gz").mkdir()
    transfer_ownership(volume.backups, APP, GROUP, LOG)
    left = [secret, volume.backups / "SHA256SUMS", volume.backups / f"{ID}.sqlite3.gz", tmp_path]
    assert {owner(path) for path in left} == {(0, 0)}
    assert owner(volume.backups) == (APP, GROUP)
