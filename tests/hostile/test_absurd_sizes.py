"""A manifest that claims absurd sizes is named and skipped; the other generations are verified and drilled."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, Manifest
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.command import Backupd
from support.directories import sha256
from support.generations import backdated, inflated, rewritten

EXBIBYTE, PEBIBYTE = 1 << 60, 1 << 50


@pytest.fixture
def newest(order: BackupRequest, context: TaskContext) -> str:
    """The id of the newest generation."""
    report = backup(order, context)
    assert report.generation is not None
    return report.generation


@pytest.fixture
def older(newest: str, backups: Path) -> str:
    """The id of one that is sound, taken a day earlier."""
    return backdated(backups, newest, days=1)


@pytest.fixture
def offsite(backups: Path, older: str, newest: str, tmp_path: Path) -> Path:
    """A replica that holds both generations."""
    directory = tmp_path / "offsite"
    directory.mkdir()
    for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
        for generation in (older, newest):
            shutil.copy(backups / f"{generation}{suffix}", directory)
    return directory


def claiming(manifest: Manifest, size_bytes: int) -> Manifest:
    """Return the manifest with another size of the snapshot, whose archive is as small as it is."""
    pages = size_bytes // manifest.snapshot.page_size
    return replace(manifest, snapshot=replace(manifest.snapshot, size_bytes=size_bytes, page_count=pages))


def test_size_impossible_for_archive_is_refused_as_manifest(
    backupd: Backupd, backups: Path, older: str, newest: str
) -> None:
    rewritten(backups, newest, lambda manifest: claiming(manifest, EXBIBYTE))
    answer = backupd("verify", "--all", "--json")
    assert answer.code == 1
    assert {check["id"]: check["sound"] for check in answer.json} == {newest: False, older: True}
    assert "its archive is too small to hold its snapshot" in backupd("verify", newest).out
    assert backupd("drill", "--from", "local").code == 3


def test_size_above_disk_ends_neither_verify_nor_drill(
    backupd: Backupd, backups: Path, older: str, newest: str
) -> None:
    inflated(backups, newest, PEBIBYTE)
    answer = backupd("verify", "--all", "--json")
    assert answer.code == 1
    assert {check["id"]: check["sound"] for check in answer.json} == {newest: False, older: True}
    drill = backupd("drill", "--from", "local", "--json")
    assert (drill.code, drill.json[0]["generation"]) == (3, older)
    (warning,) = drill.json[0]["warnings"]
    assert f"the manifest of {newest} claims a database of 1024.0 TiB" in warning


def test_size_above_disk_is_named_by_restore_and_skipped_where_accepted(
    backupd: Backupd, backups: Path, database: Path, older: str, newest: str
) -> None:
    inflated(backups, newest, PEBIBYTE)
    before = sha256(database)
    refused = backupd("restore", "latest")
    assert (refused.code != 0, sha256(database)) == (True, before)
    assert f"the manifest of {newest} claims a database of 1024.0 TiB" in refused.err
    for where in ((), ("--to", str(database.with_name("new.db")))):
        done = backupd("restore", "latest", "--accept-older", "--json", *where)
        assert (done.code, done.json["generation"]) == (3, older)
        assert newest in done.err
    assert backupd("restore", newest).code == 1, "it is still meant by its id"
    database.unlink()
    missing = backupd("restore", "--if-missing", "--accept-older", "--json")
    assert [one["generation"] for one in missing.json] == [older]


def test_size_above_disk_at_replica_ends_neither_verify_nor_drill(
    backupd: Backupd, offsite: Path, older: str, newest: str
) -> None:
    inflated(offsite, newest, PEBIBYTE)
    replica = {"BACKUPD_REPLICAS__OFFSITE__URL": f"file:{offsite}"}
    answer = backupd("verify", "--all", "--store", "offsite", "--json", **replica)
    assert {check["id"]: check["sound"] for check in answer.json} == {newest: False, older: True}
    drill = backupd("drill", "--from", "offsite", "--json", **replica)
    assert (drill.code, drill.json[0]["generation"]) == (3, older)
