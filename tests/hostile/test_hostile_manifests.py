"""A replica that stalls, refuses, hides or damages manifests: nothing older is used without a word, nothing is lost."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from backupd.cli import cli
from backupd.model import MANIFEST_SUFFIX
from backupd.stores.sftp.connection import Timeouts
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.requests import BackupRequest
from support.command import Backupd, CommandResult, log_lines
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.generations import backdated
from support.replicas import REPLICATE_ALL, over_sftp
from support.sshd import Sshd

SUSPICIONS = ("corrupt", "DAMAGED", "damaged", "backupd remove")


@pytest.fixture
def newest(order: BackupRequest, context: TaskContext) -> str:
    """The id of a generation; `older` is one of the day before."""
    generation = backup(order, context).generation
    assert generation is not None
    return generation


@pytest.fixture
def older(newest: str, backups: Path) -> str:
    return backdated(backups, newest, days=1)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


def replica_of(server: FaultySftpServer | Sshd) -> dict[str, str]:
    """Return the environment that configures `server` as the replica `offsite`, which a run gives up at once."""
    return {
        "BACKUPD_REPLICAS__OFFSITE__URL": server.url,
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": server.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(server.key),
        "BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S": "1",
    }


@pytest.fixture
def impatient(backupd: Backupd, monkeypatch: pytest.MonkeyPatch) -> "Impatient":
    """The command in this process, which waits one second for an answer of a replica."""
    monkeypatch.setattr("backupd.bootstrap.replicas.Timeouts", lambda: Timeouts(connect_s=5, stall_s=1))
    return Impatient(backupd.environ)


class Impatient:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def __call__(self, *arguments: str | Path, replica: Mapping[str, str], said: str = "") -> CommandResult:
        outside = {name: None for name in os.environ if name.startswith("BACKUPD_")}
        env = {**outside, **self.environ, **replica}
        done = CliRunner().invoke(cli, [str(one) for one in arguments], said, env, catch_exceptions=False)
        return CommandResult(done.exit_code, done.stdout, done.stderr)


def commands(target: Path, older: str) -> Sequence[tuple[str | Path, ...]]:
    """Return every command that reads manifests of the replica, and would otherwise use or judge the older copy."""
    return (
        ("list", "--store", "offsite"),
        ("verify", "--all", "--store", "offsite"),
        ("verify", "--store", "offsite"),
        ("restore", "latest", "--from", "offsite", "--to", target),
        ("restore", "--at", "2999-01-01", "--from", "offsite", "--to", target),
        ("restore", "latest", "--from", "offsite"),
        ("restore", "--if-missing", "--from", "offsite"),
        ("restore", "--adopt", "latest", "--from", "offsite", "--to", target),
        ("drill", "--from", "offsite"),
        ("replicate",),
        ("replicate", "--adopt"),
        ("replicate", "--dry-run"),
        ("remove", older, "--store", "offsite"),
    )


def known_damage(context: TaskContext) -> set[str]:
    """Return what catalog and store remember as damaged."""
    return {*context.ask_catalog(lambda catalog: catalog.damaged("offsite"), frozenset()), *context.marks.ids()}


def lying_in(files: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.glob("tasks-*")}


def test_a_manifest_that_is_never_answered_makes_the_replica_unreachable_for_every_command(
    faulty: FaultySftpServer, impatient: Impatient, context: TaskContext, newest: str, older: str, tmp_path: Path
) -> None:
    offsite = replica_of(faulty)
    assert impatient("replicate", replica=offsite).code == 0
    before, target = lying_in(faulty.files), tmp_path / "restored.db"
    (tmp_path / "data" / "tasks.db").unlink()
    for command in commands(target, older):
        faulty.set_faults(SftpFaults(stall_path=f"{newest}{MANIFEST_SUFFIX}"))
        answer = impatient(*command, replica=offsite)
        told = answer.out + answer.err
        assert answer.code == 75, (command, answer)
        assert not any(word in told for word in SUSPICIONS), (command, answer)
        assert not target.exists()
        assert not (tmp_path / "data" / "tasks.db").exists()
    assert lying_in(faulty.files) == before
    assert known_damage(context) == set()


def test_a_manifest_that_is_refused_is_named_and_not_damaged_for_any_command(
    faulty: FaultySftpServer, impatient: Impatient, context: TaskContext, newest: str, older: str, tmp_path: Path
) -> None:
    offsite = replica_of(faulty)
    assert impatient("replicate", replica=offsite).code == 0
    before, target = lying_in(faulty.files), tmp_path / "restored.db"
    (tmp_path / "data" / "tasks.db").unlink()
    faulty.set_faults(SftpFaults(denied_path=f"{newest}{MANIFEST_SUFFIX}"))
    for command in commands(target, older):
        answer = impatient(*command, replica=offsite)
        told = answer.out + answer.err
        assert answer.code == 75, (command, answer)
        assert newest in told, (command, answer)
        assert not any(word in told for word in SUSPICIONS), (command, answer)
        assert not target.exists()
        assert not (tmp_path / "data" / "tasks.db").exists()
    found = list(check_replica(REPLICATE_ALL, over_sftp(faulty, faulty.path, context), context))[-1]
    assert (found.ok, newest in found.detail) == (False, True)
    assert lying_in(faulty.files) == before
    assert known_damage(context) == set()
    assert not any(line["event.action"] == "generation.damaged" for line in log_lines(context.store.directory))
