"""Two simultaneous senders to one directory of an SFTP server: nothing is lost, mixed or omitted."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import pytest

from backupd.log import null_log
from backupd.report import AnyReport
from backupd.stores import contract
from backupd.stores.contract import Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.replica import Connect
from backupd.tasks.requests import BackupRequest
from support.replicas import (
    REPLICATE_ALL,
    assert_checksums,
    complete_generations,
    empty_replica,
    incompressible_database,
    over_sftp,
    replicate_to,
)
from support.sshd import Sshd

NOW = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
ROUNDS = 2


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The directory at the replica; not made yet."""
    return tmp_path / "there"


@pytest.fixture
def sender(tmp_path: Path) -> Callable[[str], TaskContext]:
    """Makes the local store of one more machine, with one generation of a source, all taken in the same minute."""

    def make(source: str) -> TaskContext:
        directory = tmp_path / f"sender-{len(list(tmp_path.glob('sender-*')))}"
        directory.mkdir()
        incompressible_database(directory / "database", 100_000)
        store = DirectoryStore("local", directory / "backups")
        store.prepare()
        context = TaskContext(store, null_log(), lock_timeout_s=5, clock=lambda: NOW)
        assert backup(BackupRequest(source, directory / "database", reserve_bytes=0), context).outcome == "published"
        return context

    return make


def meanwhile(connect: Connect, asked: str, do: Callable[[], object]) -> Connect:
    """Return what connects as `connect` does; when the replica is first `asked`, something is done before."""
    left = [do]

    @contextmanager
    def connected() -> Iterator[Replica]:
        with connect() as replica:
            ask = getattr(replica, asked)

            def ask_later(*arguments: object) -> object:
                if left:
                    left.pop()()
                return ask(*arguments)

            setattr(replica, asked, ask_later)
            yield replica

    def connecting() -> AbstractContextManager[Replica]:
        return connected()

    return connecting


def archives(context: TaskContext) -> set[bytes]:
    return {context.store.archive_path(stored.id).read_bytes() for stored in context.store.list()}


def test_two_simultaneous_senders_lose_nothing_and_share_checksums(
    sshd: Sshd, files: Path, sender: Callable[[str], TaskContext]
) -> None:
    sites = {source: sender(source) for source in ("tasks", "notes")}
    together = Barrier(len(sites))

    def send(source: str) -> AnyReport:
        together.wait()
        return replicate_to(
            over_sftp(sshd, files, sites[source]), sites[source], order=replace(REPLICATE_ALL, sources=(source,))
        )

    with ThreadPoolExecutor() as threads:
        for _ in range(ROUNDS):
            assert [report.outcome for report in threads.map(send, sites)] == ["done", "done"]
            assert len(complete_generations(files)) == len(sites)
            assert_checksums(files)
            empty_replica(files, *sites.values())


def test_listing_during_publication_by_another_sender_is_repeated(
    sshd: Sshd, files: Path, sender: Callable[[str], TaskContext]
) -> None:
    tasks, notes = sender("tasks"), sender("notes")

    def other() -> None:
        assert (
            replicate_to(over_sftp(sshd, files, notes), notes, order=replace(REPLICATE_ALL, sources=("notes",))).outcome
            == "done"
        )

    connect = meanwhile(over_sftp(sshd, files, tasks), "write_checksums", other)
    assert replicate_to(connect, tasks).outcome == "done"
    assert len(complete_generations(files)) == 2
    assert_checksums(files)


def test_one_of_two_simultaneous_senders_of_same_id_is_refused(
    sshd: Sshd, files: Path, sender: Callable[[str], TaskContext]
) -> None:
    sites = (sender("tasks"), sender("tasks"))
    together = Barrier(len(sites))

    def send(context: TaskContext) -> AnyReport:
        together.wait()
        return replicate_to(over_sftp(sshd, files, context), context)

    with ThreadPoolExecutor() as threads:
        for _ in range(ROUNDS):
            reports = list(threads.map(send, sites))
            assert sorted(report.outcome for report in reports) == ["done", "failed"], reports
            assert [report for report in reports if "another" in str(report.error)]  # by its id, or by its store
            assert len(complete_generations(files)) == 1
            assert_checksums(files)
            empty_replica(files, *sites)


@pytest.mark.parametrize("over", ["sftp", "directory"])
def test_sender_that_is_overtaken_after_it_has_compared_overwrites_nothing(
    sshd: Sshd, files: Path, sender: Callable[[str], TaskContext], over: str
) -> None:
    first, second = sender("tasks"), sender("tasks")

    def connect(context: TaskContext) -> Connect:
        return over_sftp(sshd, files, context) if over == "sftp" else lambda: in_directory(files)

    def other() -> None:
        assert replicate_to(connect(first), first).outcome == "done"

    report = replicate_to(meanwhile(connect(second), "publish", other), second)
    assert (report.outcome, "there has another generation tasks-" in str(report.error)) == ("failed", True)
    assert {path.read_bytes() for path in files.glob("*.gz")} == archives(first)
    assert_checksums(files)


@contextmanager
def in_directory(files: Path) -> Iterator[Replica]:
    yield DirectoryReplica("there", files)


def test_later_sender_of_same_id_overwrites_nothing(
    sshd: Sshd, files: Path, sender: Callable[[str], TaskContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sender("tasks"), sender("tasks")
    look = contract.require_unchanged_manifest
    left = [first]

    def look_and_be_late(*arguments: object) -> None:
        look(*arguments)  # type: ignore[arg-type]
        if left:
            context = left.pop()
            assert replicate_to(over_sftp(sshd, files, context), context).outcome == "done"

    monkeypatch.setattr(contract, "require_unchanged_manifest", look_and_be_late)
    report = replicate_to(over_sftp(sshd, files, second), second)
    assert (report.outcome, "there has another generation tasks-" in str(report.error)) == ("failed", True)
    assert {path.read_bytes() for path in files.glob("*.gz")} == archives(first)
    assert len(complete_generations(files)) == 1
