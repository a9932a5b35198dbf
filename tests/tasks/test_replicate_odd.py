"""Replication to servers that lack features, fail, lie or stall: no wrong file gets a final name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.stores.sftp.connection import Timeouts
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.requests import BackupRequest
from support.faulty_sftp import (
    EXTENSIONS,
    HOSTILE_NAMES,
    NON_UTF8_NAME,
    FaultySftpServer,
    SftpFaults,
    running_faulty_sftp,
)
from support.network_faults import NetworkFaults, running_proxy
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

BYTES = 110_000  # four writes
OTHER = "tasks-20200101-0400"
TINY_TIMEOUTS = Timeouts(connect_s=5, stall_s=1)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


@pytest.fixture
def key(order: BackupRequest, context: TaskContext) -> str:
    """The id of the only generation: a handful of writes."""
    incompressible_database(order.path, BYTES)
    generation = backup(order, context).generation
    assert generation is not None
    return generation


def each_request(faulty: FaultySftpServer, context: TaskContext) -> range:
    """Return the numbers of the requests of a replication; none was made yet when this returns."""
    assert replicate_to(over_sftp(faulty, faulty.path, context), context).outcome == "done"
    assert faulty.requests.count("write") > 5
    total = len(faulty.requests)
    empty_replica(faulty.files, context)
    return range(1, total + 1)


def lying_in(files: Path) -> frozenset[tuple[str, int, bytes]]:
    """Return names, modes and contents of all that is there."""
    return frozenset(
        (str(path.relative_to(files)), path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in files.rglob("*")
    )


def assert_next_backup_recovers(faulty: FaultySftpServer, context: TaskContext, key: str) -> None:
    faulty.set_faults(SftpFaults())
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, complete_generations(faulty.files)) == ("done", {key}), report
    assert_checksums(faulty.files)
    empty_replica(faulty.files, context)


@pytest.mark.no_cover
def test_connection_cut_before_any_request_leaves_complete_generations_and_next_run_recovers(
    faulty: FaultySftpServer, context: TaskContext, key: str
) -> None:
    recovered = set()
    for request in each_request(faulty, context):
        faulty.set_faults(SftpFaults(cut_before=request))
        report = replicate_to(over_sftp(faulty, faulty.path, context), context)
        assert report.outcome == "done" or report.exit_code == 75, (request, report)
        only_complete_generations(faulty.files, context)
        left = lying_in(faulty.files)
        if left in recovered:  # recovery is the same from here on
            empty_replica(faulty.files, context)
        else:
            assert_next_backup_recovers(faulty, context, key)
            recovered.add(left)


@pytest.mark.no_cover
def test_connection_cut_before_any_response_is_retried_in_same_run(
    faulty: FaultySftpServer, context: TaskContext, key: str
) -> None:
    for request in each_request(faulty, context):
        faulty.set_faults(SftpFaults(cut_after=request))
        report = replicate_to(over_sftp(faulty, faulty.path, context), context, retrying(2))
        assert (report.outcome, complete_generations(faulty.files)) == ("done", {key}), (request, report)
        assert_checksums(faulty.files)
        empty_replica(faulty.files, context)


@pytest.mark.parametrize("bad", [1, 3, 4, 5])
def test_failed_write_is_error_and_leaves_no_file(
    faulty: FaultySftpServer, context: TaskContext, key: str, bad: int
) -> None:
    faulty.set_faults(SftpFaults(bad_write=bad))
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, complete_generations(faulty.files)) == ("failed", set())
    assert not list(faulty.files.glob("tasks-*"))
    assert_next_backup_recovers(faulty, context, key)


def test_full_replica_disk_is_left_without_partial_files(
    faulty: FaultySftpServer, context: TaskContext, key: str
) -> None:
    replicate_to(over_sftp(faulty, faulty.path, context), context)
    archive, manifest, checksums = faulty.writes - 2, faulty.writes - 1, faulty.writes
    empty_replica(faulty.files, context)
    for first in (3, archive, manifest, checksums):
        faulty.set_faults(SftpFaults(bad_write=first, bad_writes=float("inf")))
        report = replicate_to(over_sftp(faulty, faulty.path, context), context)
        assert (report.outcome, "free space" in str(report.hint)) == ("failed", True)
        there = {path.name for path in faulty.files.rglob("*") if path.is_file()}
        whole = {f"{key}{ARCHIVE_SUFFIX}", f"{key}{MANIFEST_SUFFIX}"}
        assert there == (whole if first == checksums else set())
        assert_next_backup_recovers(faulty, context, key)


@pytest.mark.parametrize("first", [1, 2])
def test_doctor_leaves_no_files_on_full_replica_disk(
    faulty: FaultySftpServer, context: TaskContext, first: int
) -> None:
    faulty.set_faults(SftpFaults(bad_write=first, bad_writes=float("inf")))
    (found,) = check_replica(REPLICATE_ALL, over_sftp(faulty, faulty.path, context), context)
    assert (found.ok, "free space" in f"{found.detail} {found.hint}") == (False, True)
    assert not [path for path in faulty.files.rglob("*") if path.is_file()]


def test_server_message_becomes_one_short_line(faulty: FaultySftpServer, context: TaskContext, key: str) -> None:
    faulty.set_faults(SftpFaults(bad_write=1, bad_write_message="no\n\x1b[2Jforged: all is well\r" + "x" * 5000))
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, str(report.error).isprintable(), len(str(report.error)) < 300) == ("failed", True, True)
    assert_next_backup_recovers(faulty, context, key)


def test_insufficient_space_at_replica_is_found_before_sending(
    faulty: FaultySftpServer, context: TaskContext, key: str
) -> None:
    faulty.set_faults(SftpFaults(free_bytes=BYTES // 2))
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, faulty.writes) == ("failed", 0)
    assert f"{key} needs" in str(report.error)
    assert_next_backup_recovers(faulty, context, key)


@pytest.mark.parametrize(
    "lie",
    [SftpFaults(lost_write=3), SftpFaults(flip_at=33_333), SftpFaults(ends_at=100_000), SftpFaults(size_error=-1)],
    ids=["a write is confirmed and not done", "a byte is wrong", "the file ends early", "the size is wrong"],
)
def test_upload_that_reads_back_differently_gets_no_final_name(
    faulty: FaultySftpServer, context: TaskContext, key: str, lie: SftpFaults
) -> None:
    faulty.set_faults(lie)
    replicate_to(over_sftp(faulty, faulty.path, context), context)
    only_complete_generations(faulty.files, context)
    if lie.size_error == 0:
        assert not list(faulty.files.glob("tasks-*"))
    assert_next_backup_recovers(faulty, context, key)


@pytest.mark.parametrize(
    "poor",
    [
        SftpFaults(extensions=frozenset()),
        SftpFaults(extensions=frozenset(), rename_replaces=True),
        SftpFaults(extensions=EXTENSIONS - {"posix-rename@openssh.com"}),
        SftpFaults(unsupported=frozenset({"setstat", "fsetstat"})),
        SftpFaults(closed_only=True),
        SftpFaults(writes_late=True),
        SftpFaults(denied=frozenset({"setstat", "fsetstat"})),
        SftpFaults(attributes=frozenset({"size"})),
        SftpFaults(read_bytes=1000),
    ],
    ids=[
        "no extensions",
        "renames replace",
        "no posix-rename",
        "no modes",
        "no open file is given back",
        "written at the end",
        "modes denied",
        "sizes only",
        "short reads",
    ],
)
def test_server_without_extensions_receives_copies_once(
    faulty: FaultySftpServer, context: TaskContext, key: str, poor: SftpFaults
) -> None:
    for sent in ((key,), ()):
        faulty.set_faults(poor)
        report = replicate_to(over_sftp(faulty, faulty.path, context), context)
        assert (report.outcome, report.details.sent) == ("done", sent), report
    for name in (f"{key}{ARCHIVE_SUFFIX}", f"{key}{MANIFEST_SUFFIX}"):
        assert (faulty.files / name).read_bytes() == (context.store.directory / name).read_bytes()
    assert_checksums(faulty.files)


def test_hostile_names_in_listing_are_ignored(faulty: FaultySftpServer, context: TaskContext, key: str) -> None:
    outside = faulty.root / "outside.sqlite3.gz"
    outside.write_bytes(b"mine")
    faulty.set_faults(SftpFaults(names=(*HOSTILE_NAMES, NON_UTF8_NAME)))
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, report.details.sent, report.details.removed) == ("done", (key,), ())
    assert outside.read_bytes() == b"mine"
    assert complete_generations(faulty.files) == {key}


def test_links_and_huge_manifests_at_replica_are_no_generations(
    faulty: FaultySftpServer, context: TaskContext, key: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"mine")
    (faulty.files / f"{OTHER}{ARCHIVE_SUFFIX}").write_bytes(b"")
    with (faulty.files / f"{OTHER}{MANIFEST_SUFFIX}").open("wb") as huge:
        huge.truncate(100_000_000)
    (faulty.files / f"{key}{ARCHIVE_SUFFIX}").symlink_to(secret)
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, report.details.sent) == ("done", (key,)), report
    assert secret.read_bytes() == b"mine"
    assert (faulty.files / f"{key}{ARCHIVE_SUFFIX}").is_file()


@pytest.mark.parametrize("named", [f"{{key}}{ARCHIVE_SUFFIX}.part", f"{{key}}{MANIFEST_SUFFIX}.part", "SHA256SUMS.new"])
def test_link_in_place_of_own_file_is_replaced_and_its_target_is_unchanged(
    faulty: FaultySftpServer, context: TaskContext, key: str, named: str, tmp_path: Path
) -> None:
    assert replicate_to(over_sftp(faulty, faulty.path, context), context).outcome == "done"
    (sender,) = (path for path in (faulty.files / ".backupd").iterdir() if path.name != "removing")
    empty_replica(faulty.files, context)
    sender.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    (sender / named.format(key=key)).symlink_to(tmp_path / "precious")
    assert_next_backup_recovers(faulty, context, key)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("suffix", [ARCHIVE_SUFFIX, MANIFEST_SUFFIX])
def test_link_with_final_name_is_replaced(
    faulty: FaultySftpServer, context: TaskContext, key: str, suffix: str, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(context.store.archive_path(key).read_bytes())
    (faulty.files / f"{key}{suffix}").symlink_to(tmp_path / "precious")
    assert replicate_to(over_sftp(faulty, faulty.path, context), context).outcome == "done"
    assert not (faulty.files / f"{key}{suffix}").is_symlink()
    assert_next_backup_recovers(faulty, context, key)


def test_link_in_place_of_hidden_directory_is_refused(
    faulty: FaultySftpServer, context: TaskContext, key: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (faulty.files / ".backupd").symlink_to(elsewhere)
    report = replicate_to(over_sftp(faulty, faulty.path, context), context)
    assert (report.outcome, "symbolic link" in str(report.error)) == ("failed", True)
    assert list(elsewhere.iterdir()) == []
    assert key not in complete_generations(faulty.files)


@pytest.mark.parametrize("request_number", [1, 9, 30, 37, 50])
def test_silent_server_is_abandoned_in_time(
    faulty: FaultySftpServer, context: TaskContext, key: str, request_number: int
) -> None:
    faulty.set_faults(SftpFaults(stall_at=request_number))
    report = replicate_to(over_sftp(faulty, faulty.path, context, timeouts=TINY_TIMEOUTS), context)
    assert report.exit_code == 75, report
    assert report.duration_s < 15
    only_complete_generations(faulty.files, context)
    assert_next_backup_recovers(faulty, context, key)


def test_endless_file_ends(faulty: FaultySftpServer, context: TaskContext, key: str) -> None:
    faulty.set_faults(SftpFaults(endless=True))
    replicate_to(over_sftp(faulty, faulty.path, context), context)
    only_complete_generations(faulty.files, context)
    assert_next_backup_recovers(faulty, context, key)


def test_very_slow_connection_is_waited_for(faulty: FaultySftpServer, context: TaskContext, key: str) -> None:
    with running_proxy(faulty.port, NetworkFaults(rate=60_000)) as proxy:
        report = replicate_to(over_sftp(faulty, faulty.path, context, proxy.port, TINY_TIMEOUTS), context)
    assert (report.outcome, complete_generations(faulty.files)) == ("done", {key}), report
