"""The app's files: nothing of them changes, whoever runs the backup and however the app left them."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupd.errors import SourceUnusable
from backupd.sqlite.snapshot import SnapshotSettings
from support.app import running_app
from support.bank import make_bank
from support.snapshots import HASTY, Take

APP = 1234
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]  # root in a container with cap-drop ALL


def state(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Owner, group, mode and content of every file; the content of `-shm` is locks, and not compared."""
    return {
        path.name: (s.st_uid, s.st_gid, s.st_mode, b"" if path.name.endswith("-shm") else path.read_bytes())
        for path in directory.iterdir()
        if (s := path.stat())
    }


@pytest.fixture
def data() -> Iterator[Path]:
    """A volume whose app runs as user 1234, where that user can reach it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        directory = home / "data"
        directory.mkdir(mode=0o755)
        make_bank(directory / "tasks.db")
        for path in (directory, directory / "tasks.db"):
            os.chown(path, APP, APP)
        yield directory


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """Mount `directory` read-only elsewhere."""
    mount = directory.parent / "read-only"
    mount.mkdir()
    subprocess.run(["mount", "--bind", directory, mount], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def as_powerless_root(path: Path, backups: Path) -> subprocess.CompletedProcess[str]:
    """Back up as a user who does not own the database and cannot become its owner."""
    environ = {"BACKUPD_DATABASE": str(path), "BACKUPD_BACKUPS_DIR": str(backups), "BACKUPD_SPACE__RESERVE": "0"}
    command = [*POWERLESS, sys.executable, "-m", "backupd", "backup"]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.root
def test_side_files_that_appear_belong_to_the_app_which_goes_on_writing(data: Path, take: Take) -> None:
    take(data / "tasks.db")
    assert {path.stat().st_uid for path in data.iterdir()} == {APP}
    assert (data / "tasks.db-wal").exists()
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (0)")


@pytest.mark.root
def test_rows_that_a_killed_app_left_in_its_wal_are_copied_and_stay_where_they_are(data: Path, take: Take) -> None:
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("PRAGMA wal_autocheckpoint=0")
        app.sql("CREATE TABLE late AS SELECT 7 AS a")
        app.kill()
    before = state(data)
    copy = take(data / "tasks.db")
    assert sqlite3.connect(copy.path).execute("SELECT a FROM late").fetchall() == [(7,)]
    assert state(data) == before


@pytest.mark.root
def test_an_idle_wal_database_of_another_user_is_refused_before_it_is_touched(data: Path, tmp_path: Path) -> None:
    data.chmod(0o777)
    before = state(data)
    done = as_powerless_root(data / "tasks.db", tmp_path / "backups")
    assert done.returncode == 1
    assert f"run backupd as uid {APP}" in done.stderr
    assert state(data) == before


@pytest.mark.root
def test_another_user_can_copy_while_the_app_has_its_database_open(data: Path, tmp_path: Path) -> None:
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (1)")
        before = state(data)
        done = as_powerless_root(data / "tasks.db", tmp_path / "backups")
        assert done.returncode == 0, done.stderr
        assert state(data) == before
        app.sql("INSERT INTO ledger(amount) VALUES (2)")


@pytest.mark.root
def test_a_file_that_may_not_be_read_is_told_with_whom_to_run_as(data: Path, tmp_path: Path) -> None:
    (data / "tasks.db").chmod(0o600)
    done = as_powerless_root(data / "tasks.db", tmp_path / "backups")
    assert done.returncode == 1
    assert f"uid {APP}" in done.stderr


@pytest.mark.root
def test_on_a_read_only_mount_a_live_database_is_copied(data: Path, take: Take) -> None:
    with read_only(data) as mount, running_app(data / "tasks.db", uid=APP) as app:
        app.sql("CREATE TABLE live AS SELECT 1 AS a")
        copy = take(mount / "tasks.db")
        assert sqlite3.connect(copy.path).execute("SELECT a FROM live").fetchone() == (1,)


@pytest.mark.root
def test_on_a_read_only_mount_a_closed_wal_database_cannot_be_read_and_the_way_out_is_told(
    data: Path, take: Take
) -> None:
    with read_only(data) as mount, pytest.raises(SourceUnusable) as refused:
        take(mount / "tasks.db")
    assert "mount the volume writable, or back up while the app runs" in refused.value.hint


@pytest.mark.root
def test_through_fuse_a_wal_database_is_refused_unless_allowed_and_a_rollback_one_is_not(
    data: Path, take: Take
) -> None:
    make_bank(data / "plain.db", "delete")
    os.chown(data / "plain.db", APP, APP)
    mount = data.parent / "fuse"
    mount.mkdir()
    subprocess.run(["bindfs", "-o", "allow_other", data, mount], check=True)
    try:
        with pytest.raises(SourceUnusable, match="a WAL database on fuse"):
            take(mount / "tasks.db")
        assert take(mount / "plain.db").filesystem.startswith("fuse")
        assert take(mount / "tasks.db", SnapshotSettings(network_fs="allow")).size_bytes > 0
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_checkpoint_is_never_made_for_the_app(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    with running_app(path) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (1)")
        before = path.read_bytes()
        take(path, HASTY)
        assert path.read_bytes() == before


@pytest.mark.root
def test_an_owner_who_cannot_reach_his_file_is_told_so(data: Path, take: Take) -> None:
    data.parent.chmod(0o700)
    with pytest.raises(SourceUnusable, match=f"uid {APP}, which owns it, cannot reach"):
        take(data / "tasks.db")
