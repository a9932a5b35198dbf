"""A replication of a restore point whose connection ends at any request: what is listed there is complete."""

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.archive.file_list import contents_in
from backupd.archive.manifest import decode_manifest, decode_point
from backupd.model import LIST_SUFFIX, MANIFEST_SUFFIX, POINT_SUFFIX, FilesManifest, RetentionPolicy
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, ReplicationRequest, RetentionRule
from support.faulty_sftp import SftpFaults, running_faulty_sftp
from support.file_sets import FileSet
from support.points import publish_point
from support.replicas import empty_replica, over_sftp, replicate_to

WEEK = ReplicationRequest("there", RetentionRule(RetentionPolicy(daily=7)), ("tasks", "uploads"))


def contents_of(there: Path, generation: str) -> set[str]:
    """Return the digests of the contents that a generation at the replica needs."""
    manifest = decode_manifest((there / f"{generation}{MANIFEST_SUFFIX}").read_bytes(), generation)
    if not isinstance(manifest, FilesManifest):
        return set()
    with gzip.open(there / f"{generation}{LIST_SUFFIX}") as listed:
        return {digest.hex() for digest in contents_in(listed, manifest.files.list_sha256, generation)}


def content(path: Path) -> str:
    """Return the digest of what a stored content holds."""
    data = path.read_bytes()
    return hashlib.sha256(gzip.decompress(data) if path.suffix else data).hexdigest()


def assert_complete(there: Path) -> set[str]:
    """Fail unless all that is named is there: contents by lists, generations by indexes; returns the points."""
    stored = {path.name.split(".")[0] for path in there.glob("files/*/*") if content(path) == path.name.split(".")[0]}
    assert len(stored) == len(list(there.glob("files/*/*")))
    generations = {path.name.removesuffix(MANIFEST_SUFFIX) for path in there.glob(f"*{MANIFEST_SUFFIX}")}
    for generation in generations:
        assert contents_of(there, generation) <= stored
    points = {path.name.removesuffix(POINT_SUFFIX) for path in there.glob(f"*{POINT_SUFFIX}")}
    for key in points:
        assert decode_point((there / f"{key}{POINT_SUFFIX}").read_bytes(), key).generations <= generations
    return points


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
            assert assert_complete(server.files) <= {point}
            if outcome == "done":
                break
            cuts += 1
            report = replicate_to(connect, context, order=WEEK)
            assert report.outcome in ("done", "degraded"), report
            assert assert_complete(server.files) == {point}
        assert cuts > 2
