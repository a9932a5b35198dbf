"""A backup by another user than the owner of the database: it does no harm to the app, or does not begin."""

import gzip
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support.app import running_app
from support.backup_runs import APP, FOREIGN, NO_CAPABILITIES, SETUID_ONLY, backupd_as
from support.bank import is_balanced, make_bank
from support.directories import contents, rows, state
from support.processes import children_of, die_in_a_transaction, has_open, is_gone, wait_until
from support.rights import Rights

pytestmark = pytest.mark.root
helpless = pytest.mark.parametrize(
    "who", [SETUID_ONLY, Rights(("setuid", "setgid", "chown"))], ids=["may not chown", "may chown"]
)
AS_THE_APP = replace(FOREIGN, uid=APP)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where anybody may put backups."""
    directory = tmp_path / "store"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def restored(store: Path, tmp_path: Path) -> Path:
    """Unpack the one archive in `store`."""
    (archive,) = store.glob("*.gz")
    path = tmp_path / "restored.db"
    path.write_bytes(gzip.decompress(archive.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("who", "side_files"),
    [(FOREIGN, ()), (FOREIGN, ("-wal",)), (FOREIGN, ("-shm",)), (NO_CAPABILITIES, ())],
    ids=["closed", "WAL alone", "shared memory alone", "powerless root"],
)
def test_idle_wal_database_of_another_user_is_refused_unchanged(
    data: Path, store: Path, who: Rights, side_files: tuple[str, ...]
) -> None:
    data.chmod(0o777)
    for suffix in side_files:
        (data / f"tasks.db{suffix}").touch()
        os.chown(data / f"tasks.db{suffix}", APP, APP)
    before = state(data)
    done = backupd_as(who, data / "tasks.db", store)("backup")
    assert done.code == 1
    assert f"is an idle WAL database of uid {APP}" in done.err
    assert f"run backupd as uid {APP}" in done.err
    assert "or as root with the capabilities SETUID and SETGID" in done.err
    assert state(data) == before
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (0)")


@pytest.mark.parametrize(
    ("who", "directory_mode", "mode"),
    [(FOREIGN, 0o755, 0o644), (FOREIGN, 0o770, 0o664), (NO_CAPABILITIES, 0o755, 0o644)],
    ids=["reader", "writer by group", "powerless root"],
)
def test_open_database_of_another_user_is_copied(
    data: Path, store: Path, tmp_path: Path, who: Rights, directory_mode: int, mode: int
) -> None:
    data.chmod(directory_mode)
    (data / "tasks.db").chmod(mode)
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("CREATE TABLE late AS SELECT 7 AS a")
        before = state(data)
        assert len(before) == 3
        done = backupd_as(who, data / "tasks.db", store)("backup")
        assert done.code == 0, done.err
        assert state(data) == before
        app.sql("INSERT INTO late VALUES (8)")
    assert rows(restored(store, tmp_path), "SELECT a FROM late") == [(7,)]


@pytest.mark.parametrize("mode", [0o644, 0o664], ids=["reader", "writer by group"])
def test_wal_of_killed_app_of_another_user_is_copied(data: Path, store: Path, tmp_path: Path, mode: int) -> None:
    (data / "tasks.db").chmod(mode)
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("CREATE TABLE late AS SELECT 7 AS a")
        app.kill()
    before = state(data)
    done = backupd_as(FOREIGN, data / "tasks.db", store)("backup")
    assert done.code == 0, done.err
    assert state(data) == before
    assert rows(restored(store, tmp_path), "SELECT a FROM late") == [(7,)]
    with running_app(data / "tasks.db", uid=APP) as app:
        app.sql("INSERT INTO late VALUES (8)")


def test_rollback_database_of_another_user_is_copied_without_new_files(data: Path, store: Path, tmp_path: Path) -> None:
    data.chmod(0o777)
    make_bank(data / "plain.db", "delete")
    before = state(data)
    done = backupd_as(FOREIGN, data / "plain.db", store)("backup")
    assert done.code == 0, done.err
    assert is_balanced(restored(store, tmp_path))
    assert state(data) == before


def test_idle_wal_database_is_backed_up_by_user_of_app(data: Path, store: Path, tmp_path: Path) -> None:
    done = backupd_as(AS_THE_APP, data / "tasks.db", store)("backup")
    assert done.code == 0, done.err
    assert is_balanced(restored(store, tmp_path))
    assert {path.stat().st_uid for path in data.iterdir()} == {APP}


@helpless
def test_root_without_dac_override_becomes_owner_and_can_use_its_copy(
    data: Path, store: Path, tmp_path: Path, who: Rights
) -> None:
    (data / "tasks.db").chmod(0o600)
    done = backupd_as(who, data / "tasks.db", store)("backup")
    assert done.code == 0, done.err
    assert is_balanced(restored(store, tmp_path))
    assert {path.stat().st_uid for path in data.iterdir()} == {APP}


@pytest.mark.parametrize("method", ["backup", "vacuum"])
@helpless
def test_root_without_dac_override_recovers_hot_copy(
    data: Path, store: Path, tmp_path: Path, who: Rights, method: str
) -> None:
    make_bank(data / "hot.db", "delete")
    os.chown(data / "hot.db", APP, APP)
    die_in_a_transaction(data / "hot.db", uid=APP)
    before = contents(data)
    options = {"BACKUPD_SOURCES__HOT__METHOD": method, "BACKUPD_SOURCES__HOT__HOT_JOURNAL_WAIT_S": "0"}
    done = backupd_as(who, data / "hot.db", store, **options)("backup")
    assert done.code == 3, done.err
    assert is_balanced(restored(store, tmp_path))
    assert contents(data) == before


@helpless
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=str)
def test_root_without_kill_capability_leaves_no_child_and_no_permanent_files(
    data: Path, store: Path, who: Rights, sent: signal.Signals, code: int
) -> None:
    path = data / "tasks.db"
    with running_app(path, uid=APP) as app:
        app.sql("PRAGMA journal_mode=DELETE")
        app.sql("BEGIN EXCLUSIVE")
        command = [*who.command, sys.executable, "-m", "backupd", "backup"]
        with subprocess.Popen(command, env=backupd_as(who, path, store).environment()) as parent:
            wait_until(lambda: any(has_open(pid, path) for pid in children_of(parent.pid)))
            (child,) = children_of(parent.pid)
            assert Path(f"/proc/{child}").stat().st_uid == APP
            parent.send_signal(sent)
            assert parent.wait(20) == code
        wait_until(lambda: is_gone(child))
        app.sql("COMMIT")
    done = backupd_as(who, path, store)("backup")
    assert done.code == 0, done.err
    assert [*(store / ".backupd" / "staging").iterdir()] == []


@helpless
def test_directory_closed_to_root_is_reported_with_missing_capability(
    data: Path, store: Path, tmp_path: Path, who: Rights
) -> None:
    data.chmod(0o700)
    refused = backupd_as(who, data / "tasks.db", store)("backup")
    assert refused.code == 1
    assert f"uid 0 may not access {data / 'tasks.db'}" in refused.err
    assert "with the capability DAC_READ_SEARCH" in refused.err
    searching = replace(who, capabilities=(*who.capabilities, "dac_read_search"))
    done = backupd_as(searching, data / "tasks.db", store)("backup")
    assert done.code == 0, done.err
    assert is_balanced(restored(store, tmp_path))


def test_unreadable_file_is_reported_with_user_to_run_as(data: Path, store: Path) -> None:
    (data / "tasks.db").chmod(0o600)
    done = backupd_as(NO_CAPABILITIES, data / "tasks.db", store)("backup")
    assert done.code == 1
    assert "may not read" in done.err
    assert f"run backupd as the owner of the file (uid {APP}), or as root with the capabilities SETUID" in done.err
