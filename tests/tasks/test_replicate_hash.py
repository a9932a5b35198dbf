"""Copies digested by the remote host, if its account has a shell; only a well-formed response is trusted."""

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupd.report import AnyReport
from backupd.stores.sftp.connection import Timeouts
from backupd.stores.sftp.upload import RemoteHash
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.replicas import complete_generations, incompressible_database, over_sftp, replicate_to, retrying
from support.sshd import Sshd, running_sshd

BYTES = 200_000
DIGEST = b"0123456789abcdef" * 4


@pytest.fixture
def key(order: BackupRequest, context: TaskContext) -> str:
    """The id of the only generation."""
    incompressible_database(order.path, BYTES)
    generation = backup(order, context).generation
    assert generation is not None
    return generation


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


def hashed(target: Sshd | FaultySftpServer, path: Path | str, context: TaskContext, tries: int = 1) -> AnyReport:
    """Replicate with `verify = "remote-hash"`."""
    timeouts = Timeouts(connect_s=5, stall_s=2)
    connect = over_sftp(target, path, context, timeouts=timeouts, remote_hash=RemoteHash(min_timeout_s=1))
    return replicate_to(connect, context, retrying(tries))


@dataclass
class Shell:
    """Runs what it is asked for, as an account would whose home is the root of the odd server; remembers the last."""

    faulty: FaultySftpServer
    asked: str = ""

    def __call__(self, command: str) -> bytes:
        self.asked = command
        real = command.replace(self.faulty.path, str(self.faulty.files))
        return subprocess.run(["sh", "-c", real], capture_output=True, check=False).stdout


def test_account_with_shell_digests_copy_without_download_in_any_directory(
    sshd: Sshd, context: TaskContext, key: str, tmp_path: Path
) -> None:
    files = tmp_path / "it's $(touch owned); `touch owned` & -x"
    sshd.requests.write_text("")
    report = hashed(sshd, files, context)
    assert (report.outcome, report.details.sent, report.details.verified_by, report.notes) == (
        "done",
        (key,),
        ("remote-hash",),
        (),
    )
    assert complete_generations(files) == {key}
    closed = re.findall(r"sqlite3\.gz\.part\" bytes read (\d+) written (\d+)", sshd.requests.read_text())
    assert {read for read, _ in closed} == {"0"}
    assert sum(int(written) for _, written in closed) == report.details.sent_bytes
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.root
def test_account_without_shell_has_copy_read_back(context: TaskContext, key: str, tmp_path: Path) -> None:
    with running_sshd(tmp_path / "locked", kind="chroot") as sshd:
        report = hashed(sshd, sshd.path, context)
        assert (report.outcome, report.details.sent, report.details.verified_by) == ("done", (key,), ("read-back",))
        assert "no shell" in report.notes[0]


@pytest.mark.parametrize(
    "shell",
    [
        None,
        lambda _command: b"",
        lambda _command: None,
        lambda _command: DIGEST + b"  -",
        lambda _command: b"Welcome!\n" + DIGEST + b"  -\n",
        lambda _command: DIGEST.upper() + b"  -\n",
        lambda _command: DIGEST + b"  -\n" + DIGEST + b"  -\n",
        lambda _command: DIGEST + b"  -\n",
        lambda _command: b"\x00\xff" * 3_000_000,
        lambda _command: b"This account is currently not available.\n",
    ],
    ids=[
        "refused",
        "nothing",
        "silence",
        "cut off",
        "a greeting",
        "capitals",
        "twice",
        "another digest",
        "a flood",
        "nologin",
    ],
)
def test_unexpected_shell_output_has_copy_read_back(
    faulty: FaultySftpServer, context: TaskContext, key: str, shell: Callable[[str], bytes | None] | None
) -> None:
    faulty.set_faults(SftpFaults(shell=shell))
    report = hashed(faulty, faulty.path, context)
    assert (report.outcome, report.details.sent, report.details.verified_by) == ("done", (key,), ("read-back",)), report
    assert complete_generations(faulty.files) == {key}


def test_host_that_closes_connection_on_command_is_not_asked_again(
    faulty: FaultySftpServer, context: TaskContext, key: str
) -> None:
    asked = []

    def hangs_up(command: str) -> None:
        asked.append(command)
        faulty.hang_up()

    faulty.set_faults(SftpFaults(shell=hangs_up))
    report = hashed(faulty, faulty.path, context, tries=4)
    assert (report.outcome, report.details.sent, len(asked)) == ("done", (key,), 1), report
    assert complete_generations(faulty.files) == {key}


def test_lost_write_is_detected_by_remote_digest(faulty: FaultySftpServer, context: TaskContext, key: str) -> None:
    shell = Shell(faulty)
    faulty.set_faults(SftpFaults(shell=shell, lost_write=3))
    report = hashed(faulty, faulty.path, context)
    assert (report.outcome, complete_generations(faulty.files)) == ("failed", set())
    assert "reads back differently than written" in str(report.error)
    faulty.set_faults(SftpFaults(shell=shell))
    report = hashed(faulty, faulty.path, context)
    assert (report.outcome, report.details.verified_by, report.details.resumed_bytes > 0) == (
        "done",
        ("remote-hash",),
        True,
    )
    assert complete_generations(faulty.files) == {key}
    assert str(context.store.list()[0].archive_bytes) in shell.asked
