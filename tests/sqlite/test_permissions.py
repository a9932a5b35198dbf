"""The directory of a restored database: which permissions a manifest may ask for, and where they are applied."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.model import FileState, Signature, SourceFacts
from backupd.sqlite.permissions import Permissions, plan_permissions
from backupd.sqlite.source import Source

ORIGIN = SourceFacts(
    path="/app/data/app.db",
    uid=1000,
    gid=1000,
    mode=0o640,
    signature=Signature(FileState(1, 2, 8192, 0, 0), None, 0),
    directory_uid=1000,
    directory_gid=2000,
    directory_mode=0o750,
)
WANTED = Permissions(1000, 2000, 0o750)


@pytest.mark.parametrize(
    ("recorded", "applied"), [(0o750, 0o750), (0o4750, 0o750), (0o2770, 0o2770), (0o777, 0o1777), (0o1777, 0o1777)]
)
def test_recorded_mode_is_applied_without_setuid_and_world_writable_only_with_sticky_bit(
    recorded: int, applied: int
) -> None:
    assert Permissions.recorded(replace(ORIGIN, directory_mode=recorded)).mode == applied


@pytest.mark.parametrize(
    ("rights", "uid", "gid", "may"),
    [
        (Permissions(1000, 2000, 0o750), 1000, 1, True),
        (Permissions(1000, 2000, 0o550), 1000, 2000, False),
        (Permissions(0, 2000, 0o770), 1000, 2000, True),
        (Permissions(0, 2000, 0o705), 1000, 2000, False),
        (Permissions(0, 0, 0o1777), 1000, 2000, True),
        (Permissions(0, 0, 0o755), 1000, 2000, False),
        (Permissions(0, 0, 0o755), 0, 0, True),
    ],
)
def test_permissions_allow_what_kernel_allows(rights: Permissions, uid: int, gid: int, may: bool) -> None:
    assert rights.allows(uid, gid) == may


@pytest.mark.root
def test_directory_of_root_gets_owner_only_without_files_of_app(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    database, backups = data / "tasks.db", data / "backups"
    backups.mkdir()
    for suffix in ("", "-wal", "-shm"):  # a restore of a vacuumed generation is killed with the copy in WAL mode
        (data / f".tasks.db.0123abcd.part{suffix}").touch()
    assert plan_permissions(database, ORIGIN, backups) == WANTED
    assert plan_permissions(database, ORIGIN, tmp_path / "backups") is None, "this directory of that name is the app's"
    (data / "uploads").touch()
    assert plan_permissions(database, ORIGIN, backups) is None
    (data / "uploads").unlink()
    os.chown(data, 1001, 1001)
    assert plan_permissions(database, ORIGIN, backups) is None
    assert plan_permissions(tmp_path / "nowhere" / "tasks.db", ORIGIN, backups) is None


@pytest.mark.root
def test_backup_records_owner_and_mode_of_directory(data: Path) -> None:
    os.chown(data, 1000, 2000)
    data.chmod(0o2770)
    facts = Source.inspect(data / "tasks.db").facts
    assert (facts.directory_uid, facts.directory_gid, facts.directory_mode) == (1000, 2000, 0o2770)
