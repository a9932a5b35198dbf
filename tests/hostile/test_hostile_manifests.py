"""A replica that stalls, refuses, hides or damages manifests: no older copy is used silently, and nothing is lost."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.stores.sftp.connection import Timeouts
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.requests import BackupRequest
from support.backup_runs import NO_CAPABILITIES
from support.bank import is_balanced
from support.command import Backupd, log_lines
from support.faulty_sftp import FaultySftpServer, SftpFaults, running_faulty_sftp
from support.generations import backdated, flip_byte
from support.in_process import run_here
from support.replicas import REPLICATE_ALL, complete_generations, over_sftp
from support.sshd import Sshd, running_sshd

SUSPICIONS = ("corrupt", "DAMAGED", "damaged", "backupd remove")


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a moment, instead of a minute, for an answer of a replica."""
    monkeypatch.setattr("backupd.bootstrap.replicas.Timeouts", lambda: Timeouts(connect_s=10, stall_s=0.4))


def with_replica(backupd: Backupd, server: FaultySftpServer | Sshd) -> dict[str, str]:
    """Return the environment of the command with `server` as the replica `offsite`, which is not tried again."""
    return {
        **backupd.environ,
        "BACKUPD_REPLICAS__OFFSITE__URL": server.url,
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": server.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(server.key),
        "BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S": "0.1",
    }


def commands(target: Path, older: str) -> Sequence[tuple[str | Path, ...]]:
    """Return the commands that read manifests of the replica, and might judge the newest or use the older copy."""
    return (
        ("list", "--store", "offsite"),
        ("verify", "--all", "--store", "offsite"),
        ("restore", "latest", "--from", "offsite", "--to", target),
        ("restore", "--at", "2999-01-01", "--from", "offsite", "--to", target),
        ("restore", "--if-missing", "--from", "offsite"),
        ("restore", "latest", "--adopt", "--from", "offsite", "--to", target),
        ("drill", "--from", "offsite"),
        ("replicate",),
        ("replicate", "--dry-run"),
        ("remove", older, "--store", "offsite"),
    )


def known_damage(context: TaskContext) -> set[str]:
    """Return what catalog and store remember as damaged."""
    nothing = frozenset[str]()
    return {*context.ask_catalog(lambda catalog: catalog.damaged("offsite"), nothing), *context.marks.ids()}


def lying_in(files: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.glob("tasks-*")}


@pytest.mark.usefixtures("_impatient")
def test_manifest_without_response_makes_replica_unreachable_for_every_command(
    backupd: Backupd, faulty: FaultySftpServer, context: TaskContext, newest: str, older: str, order: BackupRequest
) -> None:
    environ, target = with_replica(backupd, faulty), order.path.with_name("restored.db")
    assert run_here(environ, "replicate").code == 0
    before = lying_in(faulty.files)
    order.path.unlink()
    for command in commands(target, older):
        faulty.set_faults(SftpFaults(stall_path=f"{newest}{MANIFEST_SUFFIX}"))
        answer = run_here(environ, *command)
        assert answer.code == 75, (command, answer)
        assert not any(word in answer.out + answer.err for word in SUSPICIONS), (command, answer)
        assert not target.exists()
        assert not order.path.exists()
    assert lying_in(faulty.files) == before
    assert known_damage(context) == set()


def test_refused_manifest_is_named_and_not_called_damaged_by_any_command(
    backupd: Backupd, faulty: FaultySftpServer, context: TaskContext, newest: str, older: str, order: BackupRequest
) -> None:
    environ, target = with_replica(backupd, faulty), order.path.with_name("restored.db")
    assert run_here(environ, "replicate").code == 0
    before = lying_in(faulty.files)
    order.path.unlink()
    faulty.set_faults(SftpFaults(denied_path=f"{newest}{MANIFEST_SUFFIX}"))
    for command in commands(target, older):
        answer = run_here(environ, *command)
        assert answer.code == 75, (command, answer)
        assert newest in answer.out + answer.err, (command, answer)
        assert not any(word in answer.out + answer.err for word in SUSPICIONS), (command, answer)
        assert not target.exists()
        assert not order.path.exists()
    listed = {row["id"]: row["verification"] for row in run_here(environ, "list", "--store", "offsite", "--json").json}
    assert listed == {newest: "unknown", older: "full"}
    found = list(check_replica(REPLICATE_ALL, over_sftp(faulty, faulty.path, context), context))[-1]
    assert (found.ok, newest in found.detail) == (False, True)
    assert lying_in(faulty.files) == before
    assert known_damage(context) == set()
    assert not any(line["event.action"] == "generation.damaged" for line in log_lines(context.store.directory))


def test_refused_manifest_hinders_neither_older_ids_nor_accepted_older_generation(
    backupd: Backupd, faulty: FaultySftpServer, newest: str, older: str, tmp_path: Path
) -> None:
    environ = with_replica(backupd, faulty)
    assert run_here(environ, "replicate").code == 0
    faulty.set_faults(SftpFaults(denied_path=f"{newest}{MANIFEST_SUFFIX}"))
    by_id = run_here(environ, "restore", older, "--from", "offsite", "--to", tmp_path / "by-id.db")
    assert (by_id.code, is_balanced(tmp_path / "by-id.db")) == (0, True), by_id
    command = ("restore", "latest", "--from", "offsite", "--to", tmp_path / "accepted.db", "--accept-older", "--json")
    accepted = run_here(environ, *command)
    assert (accepted.code, accepted.json["generation"], newest in accepted.err) == (3, older, True), accepted
    drilled = run_here(environ, "drill", "--from", "offsite", "--accept-older", "--json")
    assert (drilled.code, drilled.json[0]["generation"], newest in drilled.json[0]["warnings"][0]) == (3, older, True)


def test_refused_manifest_hinders_no_new_copy_and_nothing_is_removed_or_overwritten(
    backupd: Backupd, faulty: FaultySftpServer, context: TaskContext, newest: str, older: str
) -> None:
    environ = {**with_replica(backupd, faulty), "BACKUPD_REPLICAS__OFFSITE__RETENTION__LAST": "1"}
    assert run_here(with_replica(backupd, faulty), "replicate").code == 0
    before = lying_in(faulty.files)
    faulty.set_faults(SftpFaults(denied_path=f"{older}{MANIFEST_SUFFIX}"))
    later = backdated(context.store.directory, newest, days=-1 / 1440)
    answer = run_here(environ, "replicate")
    assert (answer.code, older in answer.err) == (75, True), answer
    assert complete_generations(faulty.files) == {older, newest, later}
    assert before.items() <= lying_in(faulty.files).items()


def test_manifest_missing_after_listing_is_no_removal(
    backupd: Backupd, faulty: FaultySftpServer, newest: str, older: str, tmp_path: Path
) -> None:
    environ = with_replica(backupd, faulty)
    assert run_here(environ, "replicate").code == 0
    for name in (f"{newest}{ARCHIVE_SUFFIX}", f"{newest}{MANIFEST_SUFFIX}"):
        (faulty.files / name).unlink()
    faulty.set_faults(SftpFaults(names=(f"{newest}{ARCHIVE_SUFFIX}", f"{newest}{MANIFEST_SUFFIX}")))
    answer = run_here(environ, "restore", "latest", "--from", "offsite", "--to", tmp_path / "restored.db")
    assert (answer.code, newest in answer.err) == (75, True), answer
    assert not (tmp_path / "restored.db").exists()
    assert older


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
@pytest.mark.parametrize("kind", ["directory", "sftp"])
def test_newest_with_damaged_manifest_is_skipped_only_where_operator_accepts(
    backupd: Backupd, sshd: Sshd, newest: str, older: str, order: BackupRequest, tmp_path: Path, damage: str, kind: str
) -> None:
    there, target = tmp_path / "there", tmp_path / "restored.db"
    url = f"file:{there}" if kind == "directory" else f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}"
    environ = {**with_replica(backupd, sshd), "BACKUPD_REPLICAS__OFFSITE__URL": url}
    if kind == "directory":
        environ = {name: value for name, value in environ.items() if "KEY" not in name}
    assert run_here(environ, "replicate").code == 0
    manifest = there / f"{newest}{MANIFEST_SUFFIX}"
    flip_byte(manifest) if damage == "flipped" else os.truncate(manifest, 99)
    order.path.unlink()
    for command in (("latest", "--to", target), ("latest",), ("--if-missing",), ("--at", "2999-01-01", "--to", target)):
        answer = run_here(environ, "restore", *command, "--from", "offsite")
        told = (newest in answer.err, "--accept-older" in answer.err, "digest" in answer.err)
        assert (answer.code, told) == (1, (True, True, True)), (command, answer)
        assert not target.exists()
        assert not order.path.exists()
    drilled = run_here(environ, "drill", "--from", "offsite", "--json")
    assert (drilled.code, drilled.json[0]["generation"], newest in drilled.json[0]["warnings"][0]) == (3, older, True)
    to_path = run_here(environ, "restore", "latest", "--from", "offsite", "--to", target, "--accept-older")
    assert (to_path.code, older in to_path.out, newest in to_path.err, is_balanced(target)) == (3, True, True, True)
    in_place = run_here(environ, "restore", "latest", "--from", "offsite", "--accept-older")
    assert (in_place.code, older in in_place.out, newest in in_place.err) == (3, True, True), in_place
    assert log_lines(context_directory(backupd))[-1]["message"].count(newest) == 1


def context_directory(backupd: Backupd) -> Path:
    return Path(backupd.environ["BACKUPD_BACKUPS_DIR"])


def test_restore_if_missing_takes_newest_from_another_store_and_never_older_one(
    backupd: Backupd, newest: str, older: str, order: BackupRequest, backups: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    environ = {**backupd.environ, "BACKUPD_REPLICAS__OFFSITE__URL": f"file:{there}"}
    assert run_here(environ, "replicate").code == 0
    flip_byte(backups / f"{newest}{MANIFEST_SUFFIX}")
    order.path.unlink()
    away = tmp_path / f"{newest}{MANIFEST_SUFFIX}"
    (there / away.name).rename(away)
    refused = run_here(environ, "restore", "--if-missing")  # `older` is sound in both stores
    assert (refused.code, newest in refused.err, order.path.exists()) == (1, True, False), refused
    away.rename(there / away.name)
    answer = run_here(environ, "restore", "--if-missing")
    assert (answer.code, newest in answer.out, is_balanced(order.path)) == (0, True, True), answer
    assert older


def test_real_server_that_refuses_manifest_is_unreachable(
    backupd: Backupd, newest: str, older: str, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with running_sshd(tmp_path / "sshd", kind="chroot") as server:
        environ = with_replica(backupd, server)
        assert run_here(environ, "replicate").code == 0
        os.chown(server.files / f"{newest}{MANIFEST_SUFFIX}", 0, 0)
        for command in commands(tmp_path / "restored.db", older):
            answer = run_here(environ, *command)
            if "--if-missing" not in command:  # the database is there
                assert (answer.code, newest in answer.out + answer.err) == (75, True), (command, answer)
            assert not any(word in answer.out + answer.err for word in SUSPICIONS), (command, answer)
        assert not (tmp_path / "restored.db").exists()


def test_directory_that_refuses_manifest_is_unreachable(
    backupd: Backupd, context: TaskContext, newest: str, older: str, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    environ = {"BACKUPD_REPLICAS__OFFSITE__URL": f"file:{there}"}
    assert backupd("replicate", **environ).code == 0
    (there / f"{newest}{MANIFEST_SUFFIX}").chmod(0)
    powerless = replace(backupd, rights=NO_CAPABILITIES if os.geteuid() == 0 else None)
    for command in (
        ("restore", "latest", "--from", "offsite", "--to", str(tmp_path / "restored.db")),
        ("verify", "--all", "--store", "offsite"),
        ("drill", "--from", "offsite"),
    ):
        done = powerless(*command, **environ)
        assert (done.code, newest in done.out + done.err) == (75, True), done
        assert not any(word in done.out + done.err for word in SUSPICIONS), done
    assert not (tmp_path / "restored.db").exists()
    assert known_damage(context) == set()
    assert older
