"""`backupd restore` in the container of the README: root with few capabilities, and a private directory of the app."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.bank import spend, transfers
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.faulty_sftp_session import FaultySftpSession
from support.hardened import APP, GROUP, Volumes, volumes

pytestmark = pytest.mark.root


@pytest.fixture
def private() -> Iterator[Volumes]:
    """The volumes of an app that lets no other user into its directory."""
    with volumes(mode=0o700) as made:
        yield made


def test_restore_and_undo_in_private_directory_run_as_owner(private: Volumes) -> None:
    beside = {"BACKUPD_BACKUPS_DIR": str(private.data / "backups")}
    assert private.backupd("backup", **beside).code == 0
    spend(private.database)
    for arguments, found in (([], 0), (["--undo", "--dry-run"], 0), (["--undo"], 1)):
        answer = private.backupd("restore", *arguments, **beside)
        assert (answer.code, transfers(private.database)) == (0, found), answer
    owners = {(state.st_uid, state.st_gid) for path in private.data.rglob("*") if (state := path.stat())}
    assert owners == {(APP, GROUP)}


def test_root_without_dac_override_is_reported_for_private_directory(private: Volumes) -> None:
    (private.data / ".tasks.db.restore").write_text("{")
    answer = private.backupd("restore", "--undo", PUID="0")
    assert answer.code == 1
    assert "damaged" not in answer.err
    assert "DAC_OVERRIDE" in answer.err


WRITES = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
print(app.execute("SELECT count(*) FROM ledger").fetchone()[0])
"""


@pytest.fixture
def lost() -> Iterator[Volumes]:
    """A fresh volume, after all was lost but the copy at a replica; the app's directory was 0750 and its own."""
    with volumes() as made:
        replica = made.backups.parent / "offsite"
        replica.mkdir()
        os.chown(replica, APP, GROUP)
        replicated = replace(made, environ={"BACKUPD_REPLICAS__OFFSITE__URL": f"file:{replica}"})
        assert replicated.backupd("backup").code == 0
        assert replicated.backupd("replicate").code == 0
        for path in (replica, *replica.rglob("*")):  # to be read by any login, as over SFTP
            path.chmod(path.stat().st_mode | 0o055)
        for directory in (made.data, made.backups):
            shutil.rmtree(directory)
            directory.mkdir(mode=0o755)
        yield replicated


@pytest.mark.parametrize("beside", [True, False], ids=["backups beside the database", "backups elsewhere"])
def test_new_volume_gets_recorded_owner_of_directory_and_app_writes(lost: Volumes, beside: bool) -> None:
    environ = {"BACKUPD_BACKUPS_DIR": str(lost.data / "backups")} if beside else {}
    (lost.data / "lost+found").mkdir(mode=0o700)
    planned = lost.backupd("restore", "--from", "offsite", "--dry-run", **environ)
    assert f"{lost.data}, which was empty: owner {APP}:{GROUP}, mode 0750" in planned.out
    assert lost.data.stat().st_uid == 0
    answer = lost.backupd("restore", "--from", "offsite", **environ)
    assert answer.code == 0, answer
    assert answer.out.splitlines()[-1] == planned.out.splitlines()[-1]
    state = lost.data.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (APP, GROUP, 0o750)
    assert lost.as_app(WRITES).out == "1\n"
    assert lost.backupd("backup", **environ).code == 0


def test_new_volume_is_restored_from_backups_owned_by_app() -> None:
    with volumes() as made:
        made.backups.chmod(0o755)
        assert made.backupd("backup").code == 0
        assert (made.backups / ".backupd").stat().st_uid == APP
        shutil.rmtree(made.data)
        made.data.mkdir(mode=0o755)
        listed = made.backupd("list")
        assert (listed.code, "full" in listed.out) == (0, True), listed
        assert made.backupd("backup").err.startswith("error: backup of tasks: no database at")
        planned = made.backupd("restore", "--dry-run")
        assert f"{made.data}, which was empty: owner {APP}:{GROUP}, mode 0750" in planned.out
        answer = made.backupd("restore", "--if-missing")
        assert (answer.code, made.data.stat().st_uid) == (0, APP), answer
        assert "it was restored from" in made.backupd("list").out
        assert made.as_app(WRITES).out == "1\n"


def test_daemon_reads_backups_of_app_while_database_is_missing() -> None:
    with volumes() as made:
        made.backups.chmod(0o755)
        assert made.backupd("backup").code == 0
        shutil.rmtree(made.data)
        made.data.mkdir(mode=0o755)
        answer = made.backupd("serve", BACKUPD_HTTP__LISTEN="192.0.2.1:1")  # no address of ours ends the daemon
        assert answer.code == 1
        assert "192.0.2.1" in answer.err
        assert "lacks the rights" not in answer.err


def test_directory_with_other_files_keeps_owner_and_missing_rights_of_app_are_reported(lost: Volumes) -> None:
    (lost.data / "uploads").mkdir()
    for arguments in (["--dry-run"], []):
        answer = lost.backupd("restore", "--from", "offsite", *arguments)
        assert answer.code == (0 if arguments else 3), answer
        assert f"uid {APP} cannot write to {lost.data}" in answer.err
        assert f"chown {APP}:{GROUP} {lost.data}" in answer.err
    assert lost.data.stat().st_uid == 0
    assert "readonly" in lost.as_app(WRITES).err


@pytest.fixture
def sftp(lost: Volumes, tmp_path: Path) -> Iterator[tuple[Volumes, FaultySftpServer]]:
    """The same copy at an SFTP host; the backups of the fresh volume are beside the database."""
    with running_faulty_sftp(tmp_path / "host") as server:
        shutil.copytree(lost.backups.parent / "offsite", server.files, dirs_exist_ok=True)
        environ = {
            "BACKUPD_BACKUPS_DIR": str(lost.data / "backups"),
            "BACKUPD_REPLICAS__OFFSITE__URL": server.url,
            "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": server.host_key(),
            "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY": server.key.read_text(),
        }
        yield replace(lost, environ=environ), server


def test_volume_given_away_by_other_restore_at_any_request_is_restored_as_its_owner(
    sftp: tuple[Volumes, FaultySftpServer],
) -> None:
    """Of two init containers that start together, one gives the new volume to the app while the other looks at it."""
    fresh, server = sftp
    requests = 0

    def give_away(_session: FaultySftpSession, _name: str, _number: int) -> bool:
        nonlocal requests
        requests += 1
        if requests == at:
            for path in (*fresh.data.rglob("*"), fresh.data):
                os.chown(path, APP, GROUP)
            fresh.data.chmod(0o750)
        return False

    for at in (1, 4):
        shutil.rmtree(fresh.data)
        fresh.data.mkdir(mode=0o755)
        (fresh.data / "backups/.backupd").mkdir(parents=True, mode=0o700)
        requests = 0
        server.set_faults(SftpFaults(answer=give_away))
        answer = fresh.backupd("restore", "--if-missing", "--from", "offsite")
        assert (answer.code, requests >= at) == (0, True), f"{at}: {answer.out}{answer.err}"
        assert fresh.as_app(WRITES).out == "1\n"
