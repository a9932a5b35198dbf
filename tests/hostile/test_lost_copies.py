"""A replica that loses or hides copies, or is not mounted, is taken neither for an empty nor for an older one."""

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from paramiko import sftp

from backupd.errors import ReplicaFailed, ReplicaUnreachable
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import replica_errors
from support.bank import is_balanced
from support.command import Backupd, log_lines
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.faulty_sftp_session import FaultySftpSession
from support.generations import backdated
from support.in_process import run_here
from support.replicas import complete_generations, over_sftp, replicate_to


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The directory of the replica."""
    return tmp_path / "there"


@pytest.fixture
def environ(backupd: Backupd, there: Path, newest: str, older: str) -> dict[str, str]:
    """The environment of the command with a replica in a directory, to which both generations were sent."""
    found = {
        **backupd.environ,
        "BACKUPD_REPLICAS__OFFSITE__URL": f"file:{there}",
        "BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S": "0.1",
    }
    assert run_here(found, "replicate").code == 0
    assert complete_generations(there) == {newest, older}
    return found


def remove_copy(files: Path, generation: str) -> None:
    for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
        (files / f"{generation}{suffix}").unlink()


def test_replica_that_is_not_mounted_is_unreachable_for_every_command(
    environ: dict[str, str], there: Path, newest: str, tmp_path: Path
) -> None:
    there.rename(tmp_path / "disk")
    there.mkdir()  # the mount point
    for command in (
        ("list", "--store", "offsite"),
        ("verify", "--all", "--store", "offsite"),
        ("restore", "latest", "--from", "offsite", "--to", tmp_path / "restored.db"),
        ("drill", "--from", "offsite"),
        ("replicate", "--dry-run"),
        ("replicate",),
        ("remove", newest, "--store", "offsite"),
    ):
        answer = run_here(environ, *command)
        assert (answer.code, f"mkdir {there}/.backupd" in answer.err) == (75, True), (command, answer)
    assert run_here(environ, "doctor").code == 1
    assert list(there.iterdir()) == []  # nothing was written to the disk below


def test_new_disk_is_accepted_where_operator_says_so(
    environ: dict[str, str], there: Path, newest: str, older: str
) -> None:
    shutil.rmtree(there)
    (there / ".backupd").mkdir(parents=True)
    answer = run_here(environ, "replicate")
    assert (answer.code, newest in answer.err, older in answer.err) == (3, True, True), answer
    assert complete_generations(there) == {newest, older}
    assert run_here(environ, "replicate").code == 0


def test_missing_newest_copy_is_named_and_skipped_only_where_operator_accepts(
    environ: dict[str, str], there: Path, newest: str, older: str, tmp_path: Path
) -> None:
    remove_copy(there, newest)
    target = tmp_path / "restored.db"
    listed = run_here(environ, "list", "--store", "offsite")
    assert (listed.code, f"{newest} was sent to offsite" in listed.err) == (0, True), listed
    verified = run_here(environ, "verify", "--all", "--store", "offsite")
    assert (verified.code, f"{newest}: NOT VERIFIED" in verified.out) == (1, True), verified
    assert f"{older}: verified" in verified.out
    for wanted in (("latest",), ("--at", "2999-01-01"), (newest,)):
        refused = run_here(environ, "restore", *wanted, "--from", "offsite", "--to", target)
        assert (refused.code, newest in refused.err, target.exists()) == (1, True, False), refused
    drilled = run_here(environ, "drill", "--from", "offsite", "--json")
    assert (drilled.code, drilled.json[0]["generation"], newest in drilled.json[0]["warnings"][0]) == (3, older, True)
    found = run_here(environ, "doctor")
    assert (found.code, f"not removed by backupd: {newest}" in found.out) == (1, True), found
    accepted = run_here(environ, "restore", "latest", "--from", "offsite", "--to", target, "--accept-older")
    assert (accepted.code, is_balanced(target)) == (3, True), accepted


def test_copy_that_is_gone_is_reported_once_and_sent_again(
    environ: dict[str, str], there: Path, newest: str, older: str, context: TaskContext
) -> None:
    remove_copy(there, newest)
    remove_copy(there, older)
    remove_copy(context.store.directory, older)
    answer = run_here(environ, "replicate", "--json")
    assert (answer.code, answer.json[0]["outcome"], answer.json[0]["sent"]) == (3, "degraded", [newest])
    assert newest in answer.json[0]["warnings"][0]
    assert older in answer.json[0]["warnings"][0]
    assert [
        line["backupd.generation"]
        for line in log_lines(context.store.directory)
        if line["event.action"] == "generation.lost"
    ] == [older, newest]
    assert context.copies()[newest] == ("local", "offsite")
    assert older not in context.copies() or "offsite" not in context.copies()[older]
    again = run_here(environ, "replicate", "--json")
    assert (again.code, again.json[0]["warnings"]) == (0, [])


def test_copy_that_operator_removes_is_not_missed(
    environ: dict[str, str], there: Path, newest: str, older: str
) -> None:
    assert run_here(environ, "remove", older, "--store", "offsite").code == 0
    assert complete_generations(there) == {newest}
    answer = run_here(environ, "list", "--store", "offsite")
    assert (answer.code, older in answer.out + answer.err) == (0, False)


def test_append_only_replica_may_be_pruned_by_its_administrator(
    environ: dict[str, str], there: Path, newest: str, older: str
) -> None:
    policy = {"LAST": "1", "WITHIN": "0", "HOURLY": "0", "DAILY": "0", "WEEKLY": "0", "MONTHLY": "0"}
    append_only = environ | {f"BACKUPD_REPLICAS__OFFSITE__RETENTION__{name}": value for name, value in policy.items()}
    append_only["BACKUPD_REPLICAS__OFFSITE__APPEND_ONLY"] = "true"
    remove_copy(there, older)
    pruned = run_here(append_only, "replicate", "--json")
    assert (pruned.code, pruned.json[0]["warnings"]) == (0, []), pruned
    remove_copy(there, newest)
    lost = run_here(append_only, "replicate", "--json")
    assert (lost.code, newest in lost.json[0]["warnings"][0]) == (3, True), lost


@pytest.mark.parametrize(
    "code", [errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT]
)
def test_mount_whose_server_is_away_is_unreachable(code: int) -> None:
    with pytest.raises(ReplicaUnreachable), replica_errors("offsite"):
        raise OSError(code, "gone", "/mnt/nas")
    with pytest.raises(ReplicaFailed), replica_errors("offsite"):
        raise OSError(errno.EACCES, "denied", "/mnt/nas")


# --- A server that lists and does not open, or confirms and does not keep ---


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


@pytest.mark.parametrize("request_name", ["lstat", "open"])
@pytest.mark.parametrize("code", [sftp.SFTP_NO_SUCH_FILE, sftp.SFTP_PERMISSION_DENIED, sftp.SFTP_FAILURE])
def test_archive_that_is_listed_and_not_opened_is_not_called_verified_pruned_or_damaged(
    backupd: Backupd, faulty: FaultySftpServer, newest: str, older: str, request_name: str, code: int
) -> None:
    environ = {
        **backupd.environ,
        "BACKUPD_REPLICAS__OFFSITE__URL": faulty.url,
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": faulty.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(faulty.key),
        "BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S": "0.1",
    }
    assert run_here(environ, "replicate").code == 0

    def refuse(session: FaultySftpSession, name: str, number: int) -> bool:
        if name != request_name or f"{newest}{ARCHIVE_SUFFIX}" not in session.faulty.requests[-1]:
            return False
        session._send_status(number, code)
        return True

    faulty.set_faults(SftpFaults(answer=refuse))
    answer = run_here(environ, "verify", "--all", "--store", "offsite")
    assert (answer.code, f"{newest}: NOT VERIFIED" in answer.out) == (75, True), answer
    assert f"{older}: verified" in answer.out
    assert "pruned" not in answer.out + answer.err
    restored = run_here(environ, "restore", "latest", "--from", "offsite", "--to", faulty.directory / "restored.db")
    assert (restored.code, newest in restored.err) == (1, True), restored


def test_rename_that_is_confirmed_and_not_done_is_no_copy(
    faulty: FaultySftpServer, context: TaskContext, newest: str, older: str
) -> None:
    assert replicate_to(over_sftp(faulty, faulty.path, context), context).outcome == "done"
    later = backdated(context.store.directory, newest, days=-1 / 1440)

    def lie(session: FaultySftpSession, name: str, number: int) -> bool:
        if name not in ("rename", "posix-rename@openssh.com"):
            return False
        session._send_status(number, sftp.SFTP_OK)
        return True

    faulty.set_faults(SftpFaults(answer=lie))
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, later in str(report.error)) == ("failed", True), report
    faulty.set_faults(SftpFaults())
    replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert complete_generations(faulty.files) == {newest, older, later}


def test_copy_that_app_plants_in_catalog_is_ignored_or_reported(
    environ: dict[str, str], backups: Path, newest: str
) -> None:
    """The catalog is in the app's volume: a planted row stops no command."""
    planted = ("x", "../../etc", "tasks-\x1b[2J", "", "tasks-99999999-9999")
    with closing(sqlite3.connect(backups / ".backupd" / "catalog.sqlite3")) as catalog:
        for key in planted:
            catalog.execute(
                "INSERT INTO copy VALUES (?, 'offsite', 'present', '2026-01-01T00:00:00.000000+00:00')", (key,)
            )
            columns = "source, taken_at, snapshot_bytes, archive_bytes, snapshot_sha256, archive_sha256, verification"
            catalog.execute(
                f"INSERT INTO generation SELECT ?, {columns} FROM generation WHERE id = ?",
                (key, newest),
            )
        catalog.commit()
    for command in (("list", "--store", "offsite"), ("verify", "--store", "offsite"), ("drill", "--from", "offsite")):
        answer = run_here(environ, *command)
        assert (answer.code, "\x1b" in answer.out + answer.err) in ((0, False), (3, False)), (command, answer)
    answer = run_here(environ, "replicate")
    assert answer.code in (0, 3), answer
    assert run_here(environ, "replicate").code == 0
