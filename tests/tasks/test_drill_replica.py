"""Drills of a restore point from replicas: on a disk, and over a real SFTP server whose connection is cut."""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from backupd.stores.contract import Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.drill import drill
from backupd.tasks.replica import Connect, replica_inventory
from backupd.tasks.requests import BackupRequest, DrillRequest, FilesRequest
from backupd.tasks.restore.extract import ResumingArchives
from support.drills import DAY_S, facts
from support.generations import manifest_of
from support.network_faults import NetworkFaults, running_proxy
from support.points import files_generation, publish_point
from support.replicas import over_sftp, retrying
from support.sshd import Sshd

SMALL_FILES, SMALL_BYTES, LARGE_BYTES = 300, 1000, 3_000_000
CUT_BYTES = 600_000
REQUESTS = [
    DrillRequest("tasks", "there", DAY_S, reserve_bytes=0),
    DrillRequest("uploads", "there", DAY_S, reserve_bytes=0, files=FilesRequest("uploads", Path("/app/uploads"))),
]


@pytest.fixture
def tree() -> dict[str, bytes]:
    """Files that do not compress: many small ones, and a large one."""
    small = {f"small/{number:03}": os.urandom(SMALL_BYTES) for number in range(SMALL_FILES)}
    return {**small, "large": os.urandom(LARGE_BYTES), "again": small["small/007"]}


@pytest.fixture
def sent(context: TaskContext, order: BackupRequest, tree: dict[str, bytes]) -> Callable[[Replica], str]:
    """Send a restore point of a database and these files; returns its id."""
    database = str(backup(order, context).generation)
    uploads = files_generation(context, tree, manifest_of(context, database).taken_at)
    point = publish_point(context.store.directory, [database, uploads])

    def send(replica: Replica) -> str:
        replica.prepare()
        digests = {hashlib.sha256(data).hexdigest() for data in tree.values()}
        replica.contents.publish(digests, context.store.contents)
        for stored in context.store.list():
            path = context.store.directory / stored.archive_name
            replica.publish(stored.id, path, context.store.manifest(stored.id), stored.kind)
        replica.publish_point(point, context.store.point(point))
        return point

    return send


def opener(connect: Connect, context: TaskContext, tries: int) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def opened() -> Any:
        with connect() as replica, ResumingArchives(replica, connect, retrying(tries)) as archives:
            yield archives, replica_inventory("there", replica, context)

    return opened


def test_point_is_drilled_from_replica_on_disk(
    context: TaskContext, sent: Callable[[Replica], str], tmp_path: Path
) -> None:
    there = DirectoryReplica("there", tmp_path / "there")
    point = sent(there)
    reports = drill(REQUESTS, opener(lambda: nullcontext(there), context, 1), retrying(1), context)
    assert [(report.outcome, facts(report).point) for report in reports] == [("done", point)] * 2
    assert (facts(reports[1]).files, facts(reports[1]).files_missing) == (SMALL_FILES + 2, 0)


def test_point_is_drilled_over_sftp_though_connection_is_cut_again_and_again(
    sshd: Sshd, context: TaskContext, sent: Callable[[Replica], str], tmp_path: Path
) -> None:
    with over_sftp(sshd, tmp_path / "there", context)() as replica:
        point = sent(replica)
    with running_proxy(sshd.port, NetworkFaults(cut_down=CUT_BYTES, times=3)) as proxy:
        connect = over_sftp(sshd, tmp_path / "there", context, proxy.port)
        reports = drill(REQUESTS, opener(connect, context, 9), retrying(9), context)
        assert proxy.disturbed == 3
    assert [(report.outcome, report.error, facts(report).point) for report in reports] == [("done", None, point)] * 2
    assert (facts(reports[1]).files, facts(reports[1]).files_missing) == (SMALL_FILES + 2, 0)


def test_content_that_is_missing_or_damaged_over_sftp_fails_drill_with_its_files(
    sshd: Sshd, context: TaskContext, sent: Callable[[Replica], str], tmp_path: Path, tree: dict[str, bytes]
) -> None:
    connect = over_sftp(sshd, tmp_path / "there", context)
    with connect() as replica:
        sent(replica)

    def stored(name: str) -> Path:
        digest = hashlib.sha256(tree[name]).hexdigest()
        return next((tmp_path / "there" / "files" / digest[:2]).glob(f"{digest}*"))

    stored("small/003").unlink()
    stored("large").write_bytes(b"else")
    _, uploads = drill(REQUESTS, opener(connect, context, 1), retrying(1), context)
    assert (uploads.outcome, facts(uploads).files_missing) == ("failed", 2)
    assert f"2 of {SMALL_FILES + 2} files cannot be restored from there: 'large': " in str(uploads.error)
    assert "'small/003': " in str(uploads.error)
    damaged = context.ask_catalog(lambda catalog: catalog.damaged("there"), frozenset())
    assert damaged == {str(uploads.generation)}
