"""A replication of a restore point whose connection ends at any request: what is listed there is complete."""

from dataclasses import replace
from pathlib import Path

import pytest

from backupd.retention import RetentionPolicy
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, ReplicationRequest, RetentionRule
from support.faulty_sftp import SftpFaults, running_faulty_sftp
from support.file_sets import FileSet
from support.points import assert_complete_points, publish_point
from support.replicas import empty_replica, over_sftp, replicate_to

WEEK = ReplicationRequest("there", RetentionRule(RetentionPolicy(daily=7)), ("tasks", "uploads"))


@pytest.mark.parametrize("fault", ["cut_before", "cut_after"])
def test_point_cut_at_any_request_is_absent_or_complete_and_next_run_sends_the_rest(
    tmp_path: Path, order: BackupRequest, context: TaskContext, fault: str
) -> None:
    uploads = FileSet(tmp_path / "app")
    uploads.context = context
    for number in range(6):
        uploads.write(f"{number}.txt", f"file {number}\n" * 30)
    keys = [backup(replace(order, retention=None), context).generation, uploads.back_up(retention=None).generation]
    point = publish_point(context.store.directory, [key for key in keys if key])
    with running_faulty_sftp(tmp_path / "odd") as server:
        connect = over_sftp(server, "/backups", context)
        cuts = 0
        for number in range(12 if fault == "cut_before" else 30, 2000, 37):
            empty_replica(server.files, context)
            server.set_faults(SftpFaults(**{fault: number}))
            outcome = replicate_to(connect, context, order=WEEK).outcome
            server.set_faults(SftpFaults())
            assert assert_complete_points(server.files) <= {point}
            if outcome == "done":
                break
            cuts += 1
            report = replicate_to(connect, context, order=WEEK)
            assert report.outcome in ("done", "degraded"), report
            assert assert_complete_points(server.files) == {point}
        assert cuts > 2
