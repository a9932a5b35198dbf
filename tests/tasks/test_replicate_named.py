"""Errors of a server name the replica, the operation and the remote path."""

import re
from pathlib import Path

import pytest

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.command import Backupd
from support.faulty_sftp import SftpFaults, running_faulty_sftp
from support.replicas import over_sftp, replicate_to
from support.sshd import running_sshd


@pytest.mark.parametrize(
    ("denied", "named"),
    [
        ("mkdir", "make the directory /backups/.backupd"),
        ("opendir", r"list /backups\S*"),
        ("lstat", "stat /backups"),
        ("open", "open /backups/.backupd/[0-9a-f]{16}/tasks-[0-9-]+.sqlite3.gz.part"),
        ("write", "write /backups/.backupd/[0-9a-f]{16}/tasks-[0-9-]+.sqlite3.gz.part"),
        ("rename", "rename /backups/.backupd/[0-9a-f]{16}/tasks-[0-9-]+.sqlite3.gz.part"),
        ("fsync@openssh.com", "flush /backups/.backupd/[0-9a-f]{16}/tasks-[0-9-]+.sqlite3.gz.part"),
    ],
)
def test_refused_request_names_replica_operation_and_path(
    order: BackupRequest, context: TaskContext, tmp_path: Path, denied: str, named: str
) -> None:
    backup(order, context)
    with running_faulty_sftp(tmp_path / "odd") as faulty:
        faulty.set_faults(SftpFaults(denied=frozenset({denied, "posix-rename@openssh.com"})))
        report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert report.outcome == "failed"
    assert re.fullmatch(f"there: cannot {named}: [Pp]ermission denied", str(report.error)), report.error


def test_long_or_hostile_error_text_becomes_one_bounded_line(
    order: BackupRequest, context: TaskContext, tmp_path: Path
) -> None:
    backup(order, context)
    with running_faulty_sftp(tmp_path / "odd") as faulty:
        faulty.set_faults(SftpFaults(bad_write=1, bad_write_message="no\x1b[2J\nroom " + "x" * 9000))
        report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    error = str(report.error)
    assert re.match(r"there: cannot write /backups/\S+.part: no\\x1b\[2J room x+$", error), error
    assert error.isprintable()
    assert len(error) < 300


@pytest.mark.root
def test_every_command_names_replica_operation_and_path_with_openssh(backupd: Backupd, tmp_path: Path) -> None:
    assert backupd("backup").code == 0
    with running_sshd(tmp_path / "sshd", kind="chroot") as server:
        replica = {
            "BACKUPD_REPLICAS__OFFSITE__URL": server.url,
            "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": server.host_key(),
            "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(server.key),
        }
        server.files.chmod(0)
        answers = {
            command: backupd(*command.split(), **replica)
            for command in ("list --store offsite", "verify --store offsite", "replicate --dry-run", "replicate")
        }
    for command, answer in answers.items():
        assert re.search(rf"offsite: cannot (stat|list) {server.path}\S*: Permission denied\n", answer.err), answer
        assert "let the account there read and write the directory" in answer.err, command
