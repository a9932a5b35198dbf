"""Replication to a real OpenSSH server and to a directory: what is sent, removed and refused."""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from shutil import rmtree

import pytest

from backupd.errors import HostKeyRefused, LoginFailed
from backupd.log import open_log
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.retention import RetentionPolicy
from backupd.stores.contract import Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.stores.sftp.connection import CHANNELS
from backupd.stores.sftp.protocol import IN_FLIGHT_BYTES
from backupd.stores.sftp.upload import RemoteHash
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import Connect
from backupd.tasks.requests import BackupRequest, RetentionRule
from support.daemon import wait_until
from support.generations import backdated, flip_byte
from support.network_faults import DOWN, NetworkFaults, running_proxy
from support.replicas import (
    REPLICATE_ALL,
    assert_checksums,
    complete_generations,
    empty_replica,
    incompressible_database,
    only_complete_generations,
    over_sftp,
    replicate_to,
    retrying,
)
from support.sshd import Sshd


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The directory at the replica; not made yet."""
    return tmp_path / "there"


@pytest.fixture
def taken(order: BackupRequest, context: TaskContext) -> list[str]:
    """The ids of three generations, newest first."""
    key = backup(order, context).generation
    assert key is not None
    return [key, *(backdated(context.store.directory, key, days=days) for days in (1, 2))]


@contextmanager
def mirror(files: Path) -> Iterator[Replica]:
    yield DirectoryReplica("there", files)


@pytest.fixture(params=["sftp", "directory"])
def connect(request: pytest.FixtureRequest, files: Path, context: TaskContext) -> Connect:
    """What connects to a replica of each kind."""
    if request.param == "sftp":
        return over_sftp(request.getfixturevalue("sshd"), files, context)

    def to_directory() -> AbstractContextManager[Replica]:
        return mirror(files)

    return to_directory


@contextmanager
def other_site(tmp_path: Path, database: Path, source: str = "tasks") -> Iterator[TaskContext]:
    """Lend the local store of another machine, with one generation."""
    store = DirectoryStore("local", tmp_path / "elsewhere")
    store.prepare()
    log = open_log(store.directory / "backup.log")
    context = TaskContext(store, log, lock_timeout_s=5)
    assert backup(BackupRequest(source, database, reserve_bytes=0), context).outcome == "published"
    yield context
    log.close()


def test_sent_generations_are_complete_private_and_accepted_by_sha256sum(
    connect: Connect, context: TaskContext, files: Path, taken: list[str]
) -> None:
    report = replicate_to(connect, context)
    assert (report.outcome, report.details.sent, report.details.kept) == ("done", tuple(taken), 3)
    assert report.details.sent_bytes == sum(context.store.archive_path(key).stat().st_size for key in taken)
    assert complete_generations(files) == set(taken)
    assert_checksums(files)
    for key in taken:
        for name in (f"{key}{ARCHIVE_SUFFIX}", f"{key}{MANIFEST_SUFFIX}"):
            assert (files / name).read_bytes() == (context.store.directory / name).read_bytes()


def test_second_run_sends_nothing_and_later_run_sends_only_new_generation(
    connect: Connect, context: TaskContext, files: Path, taken: list[str]
) -> None:
    replicate_to(connect, context)
    times = {path: path.stat().st_mtime_ns for path in files.iterdir() if path.is_file()}
    second = replicate_to(connect, context)
    assert (second.outcome, second.details.sent, second.details.sent_bytes) == ("done", (), 0)
    assert times == {path: path.stat().st_mtime_ns for path in files.iterdir() if path.is_file()}
    older = backdated(context.store.directory, taken[0], days=3)
    assert replicate_to(connect, context).details.sent == (older,)


def test_emptied_replica_is_filled_again(connect: Connect, context: TaskContext, files: Path, taken: list[str]) -> None:
    replicate_to(connect, context)
    rmtree(files)
    report = replicate_to(connect, context)
    assert (report.outcome, report.details.sent) == ("degraded", tuple(taken))
    assert taken[0] in report.warnings[0]
    assert complete_generations(files) == set(taken)
    assert replicate_to(connect, context).outcome == "done"


def test_lost_local_disk_removes_nothing_at_replica(
    connect: Connect, context: TaskContext, files: Path, taken: list[str], order: BackupRequest
) -> None:
    replicate_to(connect, context)
    for path in context.store.directory.glob("tasks-*"):
        path.unlink()
    assert (replicate_to(connect, context).outcome, complete_generations(files)) == ("done", set(taken))
    order.path.touch()


def test_replica_has_own_retention_and_append_only_removes_nothing(
    connect: Connect, context: TaskContext, files: Path, taken: list[str]
) -> None:
    replicate_to(connect, context)
    one = RetentionRule(RetentionPolicy(within=timedelta(), daily=1, weekly=0))
    assert (
        replicate_to(connect, context, order=replace(REPLICATE_ALL, retention=one, append_only=True)).details.removed
        == ()
    )
    assert complete_generations(files) == set(taken)
    report = replicate_to(connect, context, order=replace(REPLICATE_ALL, retention=one))
    assert (set(report.details.removed), report.details.kept) == (set(taken[1:]), 1)
    assert complete_generations(files) == {taken[0]}
    assert_checksums(files)


def test_generation_with_id_of_another_store_is_refused_and_left_unchanged(
    connect: Connect, context: TaskContext, files: Path, taken: list[str], tmp_path: Path, database: Path
) -> None:
    replicate_to(connect, context)
    before = {path.name: path.read_bytes() for path in files.glob("tasks-*")}
    incompressible_database(database, 10_000)
    with other_site(tmp_path, database) as other:
        for key in taken:  # other contents under the same ids
            days = (decode_id(other.store.list()[-1].id) - decode_id(key)).total_seconds() / 86400
            if days:
                backdated(other.store.directory, other.store.list()[-1].id, days=days)
        report = replicate_to(connect, other)
    assert (report.outcome, "another store has made" in str(report.error)) == ("failed", True)
    assert {name: (files / name).read_bytes() for name in before} == before
    complete_generations(files)


def decode_id(generation: str) -> datetime:
    """Return when a generation was taken, to the minute."""
    return datetime.strptime(generation.removeprefix("tasks-")[:13], "%Y%m%d-%H%M").replace(tzinfo=UTC)


def test_sources_of_another_sender_are_not_pruned(
    connect: Connect, context: TaskContext, files: Path, taken: list[str], tmp_path: Path, database: Path
) -> None:
    replicate_to(connect, context)
    strict = replace(REPLICATE_ALL, sources=("notes",), retention=RetentionRule(RetentionPolicy(daily=1)))
    with other_site(tmp_path, database, "notes") as other:
        assert replicate_to(connect, other, order=strict).details.removed == ()
        assert complete_generations(files) == {*taken, other.store.list()[0].id}
        assert_checksums(files)


def test_locally_damaged_generation_is_not_sent(
    connect: Connect, context: TaskContext, files: Path, taken: list[str]
) -> None:
    flip_byte(context.store.archive_path(taken[0]))
    report = replicate_to(connect, context)
    assert (report.outcome, report.details.sent) == ("degraded", tuple(taken[1:]))
    assert taken[0] in report.warnings[0]
    assert complete_generations(files) == set(taken[1:])


def test_unknown_host_key_ends_run_without_retry(sshd: Sshd, context: TaskContext, files: Path, tmp_path: Path) -> None:
    tries = []

    class Stranger:
        user, port, key = sshd.user, sshd.port, sshd.key

        def host_key(self) -> str:
            return " ".join((tmp_path / "stranger.pub").read_text().split()[:2])

    (tmp_path / "stranger.pub").write_text((sshd.directory / "client.pub").read_text())
    connect = over_sftp(Stranger(), files, context)

    def counted() -> AbstractContextManager[Replica]:
        tries.append(1)
        return connect()

    report = replicate_to(counted, context, retrying(5))
    assert (report.outcome, len(tries)) == ("failed", 1)
    assert report.exit_code == HostKeyRefused.exit_code == LoginFailed.exit_code == 1
    assert not files.exists()


@pytest.mark.no_cover
def test_upload_cut_at_any_byte_leaves_complete_generations_and_next_run_recovers(
    sshd: Sshd, context: TaskContext, order: BackupRequest, files: Path
) -> None:
    incompressible_database(order.path, 300_000)
    key = backup(order, context).generation
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for turn in range(8):
        with running_proxy(sshd.port) as proxy:
            up, down = chance.choice([(True, False), (False, True)])
            limit = chance.randrange(2000, 340_000)
            proxy.faults = NetworkFaults(
                cut_up=limit if up else float("inf"), cut_down=limit if down else float("inf"), reset=turn % 2 == 0
            )
            report = replicate_to(over_sftp(sshd, files, context, proxy.port), context)
            assert report.outcome in ("failed", "done")
            assert report.outcome == "done" or report.exit_code == 75
        only_complete_generations(files, context)
        assert replicate_to(over_sftp(sshd, files, context), context).outcome == "done"
        assert complete_generations(files) == {key}
        empty_replica(files, context)


def test_broken_upload_resumes_after_verified_bytes(
    sshd: Sshd, context: TaskContext, order: BackupRequest, files: Path
) -> None:
    incompressible_database(order.path, 26_000_000)
    backup(order, context)
    gone = partial(wait_until, lambda: not sshd.connections(), "the end of what the server does for a dead connection")
    for remote_hash in (None, RemoteHash()):
        with running_proxy(sshd.port, NetworkFaults(cut_up=25_000_000, times=1)) as proxy:
            connect = over_sftp(sshd, files, context, proxy.port, remote_hash=remote_hash)
            report = replicate_to(connect, context, retrying(3, gone))
            assert proxy.disturbed == 1
            came_back = proxy.passed[DOWN]
        assert (report.outcome, len(report.details.sent)) == ("done", 1)
        assert report.details.resumed_bytes > 5_000_000  # what is lost is at most what was under way
        before_the_cut = report.details.sent_bytes - (
            context.store.list()[0].archive_bytes - report.details.resumed_bytes
        )
        assert 0 < before_the_cut - report.details.resumed_bytes <= CHANNELS * IN_FLIGHT_BYTES
        assert remote_hash is None or came_back < CHANNELS * IN_FLIGHT_BYTES + 2_000_000
        assert len(complete_generations(files)) == 1
        empty_replica(files, context)


def test_part_of_unwanted_generation_is_swept(
    sshd: Sshd, context: TaskContext, order: BackupRequest, files: Path
) -> None:
    incompressible_database(order.path, 6_000_000)
    backup(order, context)
    with running_proxy(sshd.port, NetworkFaults(cut_up=5_000_000)) as proxy:
        assert replicate_to(over_sftp(sshd, files, context, proxy.port), context).exit_code == 75
    assert list(files.rglob("*.part"))
    for path in context.store.directory.glob("tasks-*"):
        path.unlink()
    report = replicate_to(over_sftp(sshd, files, context), context)
    assert (report.exit_code, "no verified generation of tasks" in str(report.error)) == (75, True)
    assert not list(files.rglob("*.part"))
