"""The doctor as another user than the owner of the store finds each path that the user may not write."""

import json
import os
from pathlib import Path

import pytest

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.local import check_local
from backupd.tasks.requests import BackupRequest
from support.command import Backupd

UID = 1234


def wrong_as_user(context: TaskContext) -> list[str]:
    """Examine the store in a process of a user without rights; return what is wrong, in words."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        said = [f"{finding.check}: {finding.detail}" for finding in check_local((), context) if not finding.ok]
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        found: list[str] = json.load(stream)
    os.waitpid(child, 0)
    return found


@pytest.fixture
def store(order: BackupRequest, context: TaskContext, tmp_path: Path) -> TaskContext:
    """A store with a backup that all belongs to the user, below directories that he may pass."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o001 == 0:
            directory.chmod(directory.stat().st_mode | 0o001)
    assert backup(order, context).outcome == "published"
    for path in (context.store.directory, *context.store.directory.rglob("*")):
        os.chown(path, UID, UID)
    return context


@pytest.mark.root
def test_store_of_own_user_has_no_findings(store: TaskContext) -> None:
    assert wrong_as_user(store) == []


@pytest.mark.root
@pytest.mark.parametrize("what", [".", "backup.log", ".backupd/catalog.sqlite3"])
def test_unwritable_path_in_store_is_named(store: TaskContext, what: str) -> None:
    path = (store.store.directory / what).resolve()
    os.chown(path, 0, 0)
    path.chmod(0o755 if path.is_dir() else 0o644)
    assert any(str(path) in line for line in wrong_as_user(store))


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_link_or_special_file_in_place_of_log_is_not_written_to(
    backupd: Backupd, backups: Path, tmp_path: Path, kind: str
) -> None:
    backups.mkdir()
    victim = tmp_path / "victim.txt"
    if kind == "link":
        (backups / "backup.log").symlink_to(victim)
    else:
        os.mkfifo(backups / "backup.log")
    answer = backupd("backup", timeout_s=60)
    assert answer.code == 3
    assert "backup.log cannot be written" in answer.err
    assert not victim.exists()
    assert backupd("doctor").code == 1
