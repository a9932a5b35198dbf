"""A user namespace that does not map the owner of the database: the owner that it shows is not trusted.

The ids above 65535 are not mapped there; 65534, by which they are shown, is a user of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backupd.sqlite.database_files import side_files
from support.app import running_app
from support.backup_runs import APP
from support.bank import is_balanced
from support.command import Backupd
from support.directories import state
from support.fork_server import CommandResult
from support.user_namespace import IN_USER_NAMESPACE, enter

pytestmark = pytest.mark.root
UNMAPPED, SHOWN = 70000, 65534
LOOK = """
import ctypes, os, sys  # before another user cannot reach them
from backupd.system.owners import known_owner
os.setuid(int(sys.argv[1]))
for path in sys.argv[2:]:
    print(known_owner(path, os.stat(path)))
"""
WAY_OUT = "run backupd in the user namespace of the app"


@pytest.fixture
def store(data: Path) -> Path:
    """Where backups go, beside the app's directory."""
    directory = data.with_name("backups")
    directory.mkdir()
    return directory


def owned(data: Path, uid: int, gid: int, mode: int = 0o644) -> Path:
    """Give the app's directory, which everyone may write to, and its database to `uid`:`gid`."""
    for path in (data, data / "tasks.db"):
        os.chown(path, uid, gid)
    data.chmod(0o777)
    (data / "tasks.db").chmod(mode)
    return data / "tasks.db"


def backupd(data: Path, *arguments: str | Path, puid: str = "0", inside: bool = True) -> CommandResult:
    """Run `backupd ARGUMENTS` as root, in a user namespace of its own or outside."""
    environ = {
        "BACKUPD_DATABASE": str(data / "tasks.db"),
        "BACKUPD_BACKUPS_DIR": str(data.with_name("backups")),
        "BACKUPD_SPACE__RESERVE": "0",
        "PUID": puid,
    }
    return Backupd(environ, Path.cwd(), enter=enter if inside else None)(*arguments, timeout_s=60)


def origin(store: Path) -> dict[str, Any]:
    (manifest,) = store.glob("*.manifest.json")
    found: dict[str, Any] = json.loads(manifest.read_text())["origin"]
    return found


def assert_app_can_write(data: Path, uid: int) -> None:
    with running_app(data / "tasks.db", uid=uid) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (0)")


@pytest.mark.parametrize("puid", ["auto", "0", str(UNMAPPED)])
def test_idle_wal_database_of_unmapped_owner_is_refused_with_any_puid(data: Path, store: Path, puid: str) -> None:
    owned(data, UNMAPPED, UNMAPPED)
    before = state(data)
    done = backupd(data, "backup", puid=puid)
    assert (done.code, WAY_OUT in done.err) == (1 if puid == "0" else 78, True), done.err
    assert "chown" not in done.err
    assert f"PUID={SHOWN}" not in done.err
    assert state(data) == before
    assert [*store.glob("tasks-*")] == []
    assert_app_can_write(data, UNMAPPED)


def test_open_database_of_unmapped_owner_is_copied_without_owner_in_manifest(data: Path, store: Path) -> None:
    owned(data, UNMAPPED, UNMAPPED)
    with running_app(data / "tasks.db", uid=UNMAPPED) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (0)")
        before = state(data)
        assert backupd(data, "backup").code == 0
        assert state(data) == before
        app.sql("INSERT INTO ledger(amount) VALUES (0)")
        examined = backupd(data, "doctor")
    assert (origin(store)["uid"], origin(store)["gid"]) == (None, None)
    assert examined.code == 1
    assert f"{WAY_OUT}" in examined.out + examined.err


def test_database_of_overflow_user_is_backed_up(data: Path, store: Path) -> None:
    owned(data, SHOWN, SHOWN, 0o600)
    done = backupd(data, "backup")
    assert done.code == 0, done.err
    assert (origin(store)["uid"], origin(store)["gid"]) == (SHOWN, SHOWN)
    assert {path.stat().st_uid for path in data.iterdir()} == {SHOWN}
    assert_app_can_write(data, SHOWN)


def test_private_directory_of_unmapped_owner_is_reported_as_such(data: Path, store: Path) -> None:
    owned(data, UNMAPPED, UNMAPPED)
    data.chmod(0o700)
    done = backupd(data, "backup", puid="auto")
    assert done.code == 78
    assert f"{data} belongs to a user that is not mapped in this user namespace" in done.err
    assert WAY_OUT in done.err
    assert [*store.iterdir()] == []


@pytest.mark.parametrize("who", [0, SHOWN, APP])
def test_overflow_user_differs_from_unmapped_owners_with_its_id(data: Path, who: int) -> None:
    (data / "of-it").touch()
    os.chown(data / "of-it", SHOWN, SHOWN)
    owned(data, UNMAPPED, APP)
    said = subprocess.run(
        [*IN_USER_NAMESPACE, sys.executable, "-c", LOOK, str(who), data / "tasks.db", data / "of-it", data.parent],
        capture_output=True,
        text=True,
        check=True,
    )
    mine = (SHOWN, SHOWN) if who in (0, SHOWN) else (None, None)  # another user cannot try it
    assert said.stdout.splitlines() == [str(owner) for owner in ((None, APP), mine, (0, 0))]


@pytest.mark.parametrize(("mode", "code"), [(0o660, 1), (0o644, 0)], ids=["shared by group", "of its user alone"])
def test_unmapped_group_matters_only_where_mode_grants_group_access(
    data: Path, store: Path, mode: int, code: int
) -> None:
    owned(data, APP, UNMAPPED, mode)
    done = backupd(data, "backup")
    assert done.code == code, done.err
    if code:
        assert "idle WAL database of a group that is not mapped" in done.err
    else:
        assert (origin(store)["uid"], origin(store)["gid"]) == (APP, None)
        assert_app_can_write(data, APP)


def test_restore_over_database_of_unmapped_owner_is_refused_and_to_path_succeeds(data: Path, store: Path) -> None:
    owned(data, APP, APP)
    assert backupd(data, "backup").code == 0
    owned(data, UNMAPPED, UNMAPPED)
    before = state(data)
    for arguments in (["--dry-run"], [], ["--online"]):
        refused = backupd(data, "restore", *arguments)
        assert refused.code == 1
        assert "belongs to a user that is not mapped in this user namespace" in refused.err
        assert WAY_OUT in refused.err
    assert state(data) == before
    assert backupd(data, "restore", "--to", store / "new.db").code == 0
    assert is_balanced(store / "new.db")


@pytest.fixture
def of_nobody_known(data: Path, store: Path) -> Path:
    """A store whose one generation was made where the owner was not mapped; the database is gone."""
    database = owned(data, UNMAPPED, UNMAPPED)
    with running_app(database, uid=UNMAPPED) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (0)")
        assert backupd(data, "backup").code == 0
    database.unlink()
    return store


def test_generation_without_owner_is_restored_with_owner_of_directory(data: Path, of_nobody_known: Path) -> None:
    assert "tasks.db (owner unknown, mode" in backupd(data, "show", "latest", inside=False).out
    os.chown(data, APP, APP)
    data.chmod(0o755)
    done = backupd(data, "restore", inside=False)
    assert done.code == 0, done.err
    assert f"owner {APP}:{APP}" in done.out
    assert_app_can_write(data, APP)
    assert "owner is you" in backupd(data, "restore", "--to", of_nobody_known / "new.db", inside=False).out


def test_owner_unmapped_at_restore_is_reported_as_such(data: Path, store: Path) -> None:
    database = owned(data, UNMAPPED, UNMAPPED)
    assert backupd(data, "backup", inside=False).code == 0
    assert origin(store)["uid"] == UNMAPPED
    for path in (database, *side_files(database)):
        path.unlink(missing_ok=True)
    refused = backupd(data, "restore")
    assert refused.code == 1
    assert f"cannot be given to {UNMAPPED}:{UNMAPPED}" in refused.err
    assert WAY_OUT in refused.err
    beside = backupd(data, "restore", "--to", store / "new.db")
    assert beside.code == 0, beside.err
    assert "owner is you" in beside.out
    assert f"note     files in {store} cannot be given to {UNMAPPED}:{UNMAPPED} (Invalid argument)" in beside.out


def test_backups_directory_of_unmapped_owner_is_refused_and_not_given_away(data: Path, store: Path) -> None:
    owned(data, APP, APP)
    os.chown(store, UNMAPPED, UNMAPPED)
    refused = backupd(data, "backup")
    assert refused.code == 1
    assert f"{store} belongs to a user that is not mapped here: {WAY_OUT}" in refused.err
    store.chmod(0o777)
    done = backupd(data, "backup")
    assert done.code == 0, done.err
    assert {path.stat().st_uid for path in store.rglob("*")} == {0}
