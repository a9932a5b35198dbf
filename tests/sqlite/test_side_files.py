"""The files of the app are never changed, in any state and on any mount."""

import os
from pathlib import Path

import pytest

from backupd.errors import SourceUnusable
from backupd.sqlite.worker.protocol import SnapshotSettings
from support.app import App, running_app
from support.backup_runs import APP, BackUp
from support.bank import is_balanced, make_bank, running_bank
from support.directories import contents, read_only, rows, small_disk, state, through_fuse
from support.snapshots import SHORT_WAITS, Take

LATE = "SELECT a FROM late"


def kill_with_rows_in_the_wal(app: App) -> None:
    app.sql("PRAGMA wal_autocheckpoint=0")
    app.sql("CREATE TABLE late AS SELECT 7 AS a")
    app.kill()


@pytest.mark.root
def test_new_side_files_belong_to_app_which_continues_to_write(data: Path, take: Take) -> None:
    for _ in range(2):
        take(data / "tasks.db")
        assert {p.name: (p.stat().st_uid, p.stat().st_gid) for p in data.iterdir()} == {
            "tasks.db": (APP, APP),
            "tasks.db-wal": (APP, APP),
            "tasks.db-shm": (APP, APP),
        }
        with running_app(data / "tasks.db", uid=APP) as app:
            app.sql("INSERT INTO ledger(amount) VALUES (0)")


@pytest.mark.root
def test_wal_of_killed_app_is_copied_and_left_unchanged(data: Path, take: Take) -> None:
    with running_app(data / "tasks.db", uid=APP) as app:
        kill_with_rows_in_the_wal(app)
    before = state(data)
    assert rows(take(data / "tasks.db").file.path, LATE) == [(7,)]
    assert state(data) == before


@pytest.mark.root
def test_wal_without_shared_memory_is_copied_and_new_shared_memory_belongs_to_app(data: Path, take: Take) -> None:
    with running_app(data / "tasks.db", uid=APP) as app:
        kill_with_rows_in_the_wal(app)
    (data / "tasks.db-shm").unlink()
    before = state(data)
    assert rows(take(data / "tasks.db").file.path, LATE) == [(7,)]
    after = state(data)
    assert after.pop("tasks.db-shm")[:2] == (APP, APP)
    assert after == before


def test_copy_makes_no_checkpoint(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    with running_app(path) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (1)")
        before = path.read_bytes()
        take(path, SHORT_WAITS)
        assert path.read_bytes() == before


@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist", "memory"])
def test_rollback_journal_of_each_mode_is_left_unchanged(tmp_path: Path, take: Take, journal_mode: str) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    make_bank(directory / "tasks.db", "delete")
    with running_app(directory / "tasks.db") as app:
        app.sql(f"PRAGMA journal_mode={journal_mode}")
        app.sql("UPDATE account SET balance = balance + 1")
        before = contents(directory)
        assert ("tasks.db-journal" in before) == (journal_mode in {"truncate", "persist"})
        copy = take(directory / "tasks.db")
        assert rows(copy.file.path, "SELECT min(balance), max(balance) FROM account") == [(101, 101)]
        assert contents(directory) == before
        app.sql("UPDATE account SET balance = balance + 1")


@pytest.mark.root
def test_database_in_use_on_read_only_mount_is_copied(data: Path, take: Take) -> None:
    with read_only(data) as mount, running_app(data / "tasks.db", uid=APP) as app:
        app.sql("CREATE TABLE late AS SELECT 7 AS a")
        before = state(data)
        assert rows(take(mount / "tasks.db").file.path, LATE) == [(7,)]
        assert state(data) == before
        app.sql("INSERT INTO late VALUES (8)")


@pytest.mark.root
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_busy_database_on_read_only_mount_is_copied_consistently(tmp_path: Path, take: Take, journal_mode: str) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with read_only(directory) as mount, running_bank(directory / "tasks.db", journal_mode) as bank:
        for _ in range(3):
            bank.wait_for_commits(20)
            assert is_balanced(take(mount / "tasks.db", SnapshotSettings()).file.path)


@pytest.mark.root
def test_wal_of_killed_app_on_read_only_mount_is_copied(data: Path, take: Take) -> None:
    with running_app(data / "tasks.db", uid=APP) as app:
        kill_with_rows_in_the_wal(app)
    before = state(data)
    with read_only(data) as mount:
        assert rows(take(mount / "tasks.db").file.path, LATE) == [(7,)]
    assert state(data) == before


@pytest.mark.root
def test_rollback_database_on_read_only_mount_is_copied(data: Path, take: Take) -> None:
    make_bank(data / "plain.db", "delete")
    with read_only(data) as mount:
        assert is_balanced(take(mount / "plain.db").file.path)


@pytest.mark.root
@pytest.mark.parametrize("lost", [("-shm",), ("-wal", "-shm")], ids=["no shared memory", "closed"])
def test_wal_database_without_side_files_on_read_only_mount_is_refused_with_hint(
    data: Path, back_up: BackUp, lost: tuple[str, ...]
) -> None:
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (0)")
        app.kill()
    for suffix in lost:
        (data / f"tasks.db{suffix}").unlink()
    before = state(data)
    with read_only(data) as mount:
        result = back_up(mount / "tasks.db")
    assert result.outcome == ("failed", 1)
    assert "cannot be opened" in result.error
    assert "mount the volume writable, or back up while the app runs" in result.hint
    assert state(data) == before


@pytest.mark.root
def test_wal_database_on_fuse_is_refused_unless_allowed(data: Path, take: Take, back_up: BackUp) -> None:
    before = state(data)
    with through_fuse(data) as mount:
        result = back_up(mount / "tasks.db")
        assert result.outcome == ("failed", 1)
        assert "is a WAL database on fuse" in result.error
        assert 'network_fs = "allow"' in result.hint
        assert state(data) == before
        copy = take(mount / "tasks.db", SnapshotSettings(network_fs="allow"))
    assert is_balanced(copy.file.path)
    assert copy.filesystem.startswith("fuse")


@pytest.mark.root
def test_rollback_database_on_fuse_is_copied_with_warning_unless_allowed(data: Path, back_up: BackUp) -> None:
    make_bank(data / "plain.db", "delete")
    os.chown(data / "plain.db", APP, APP)
    with through_fuse(data) as mount:
        warned = back_up(mount / "plain.db")
        assert warned.outcome == ("degraded", 3)
        assert "whose locks may fail" in warned.report.warnings[0]
        allowed = back_up(mount / "plain.db", SnapshotSettings(network_fs="allow"))
        assert (allowed.outcome, allowed.report.warnings) == (("unchanged", 0), ())


@pytest.mark.root
def test_owner_without_access_to_directory_is_named(data: Path, take: Take) -> None:
    data.parent.chmod(0o700)
    with pytest.raises(SourceUnusable, match=f"uid {APP}, which owns it, cannot reach"):
        take(data / "tasks.db")


@pytest.mark.root
@pytest.mark.parametrize("name", [b"latin-1 \xe9", "next\x85line".encode(), "para\u2029graph".encode()])
def test_mount_point_with_special_characters_is_found(tmp_path: Path, take: Take, name: bytes) -> None:
    with small_disk(tmp_path / os.fsdecode(name), "1m") as odd:
        for directory in (tmp_path, odd):
            make_bank(directory / "tasks.db", "delete")
        assert take(odd / "tasks.db").filesystem == "tmpfs"
        assert take(tmp_path / "tasks.db").filesystem != "tmpfs"
