"""Restore points and sets of files at a replica: what they need comes first, what nothing needs goes last."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from backupd.archive.manifest import decode_point, encode_point
from backupd.model import ARCHIVE_SUFFIX, LIST_SUFFIX, POINT_SUFFIX, source_of
from backupd.report import ReplicationDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.stores.contract import Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.system.directory import Directory
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.prune import pin_generation
from backupd.tasks.replica import Connect, replica_inventory
from backupd.tasks.requests import BackupRequest, PinRequest, ReplicationRequest, RetentionRule
from backupd.tasks.verify import verify
from support.file_sets import FileSet
from support.points import publish_point
from support.replicas import assert_checksums, over_sftp, replicate_to

LAST_ONE = ReplicationRequest(
    "there", RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0)), ("tasks", "uploads")
)
WEEK = replace(LAST_ONE, retention=RetentionRule(RetentionPolicy(daily=7)))


@contextmanager
def mirror(files: Path) -> Iterator[Replica]:
    yield DirectoryReplica("there", files)


@dataclass
class App:
    """A database and its uploads, backed up as of one instant, and a replica."""

    order: BackupRequest
    uploads: FileSet
    there: Path
    connect: Connect
    now: datetime

    @property
    def context(self) -> TaskContext:
        return self.uploads.context

    @property
    def here(self) -> Path:
        return self.context.store.directory

    def point(self, *, days: float = 0) -> str:
        """Take a restore point that many days later; returns its id."""
        self.now += timedelta(days=days)
        self.order.path.touch()
        keys = [backup(self.order, self.context).generation, self.uploads.back_up(retention=None).generation]
        return publish_point(self.here, [key for key in keys if key], at=self.now)

    def replicate(self, order: ReplicationRequest = WEEK) -> RunReport[ReplicationDetails]:
        return replicate_to(self.connect, self.context, order=order)

    def names(self, suffix: str) -> set[str]:
        return {path.name.removesuffix(suffix) for path in self.there.glob(f"*{suffix}")}

    def contents(self, directory: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in directory.glob("files/*/*")}


@pytest.fixture(params=["sftp", "directory"])
def app(request: pytest.FixtureRequest, tmp_path: Path, order: BackupRequest, context: TaskContext) -> App:
    uploads, there = FileSet(tmp_path / "app"), tmp_path / "there"

    def to_directory() -> AbstractContextManager[Replica]:
        return mirror(there)

    made = App(replace(order, retention=None), uploads, there, to_directory, datetime.now(UTC) + timedelta(minutes=1))
    uploads.context = replace(context, clock=lambda: made.now)
    if request.param == "sftp":
        made.connect = over_sftp(request.getfixturevalue("sshd"), there, made.context)
    for number in range(40):
        uploads.write(f"{number}.txt", f"file {number}\n" * 30)
    uploads.write("large.bin", os.urandom(400_000))
    return made


def test_point_is_sent_with_all_that_it_needs_and_only_what_changed_travels_later(app: App) -> None:
    first = app.point()
    report = app.replicate()
    assert (report.outcome, report.details.points, report.details.contents) == ("done", (first,), 41), report
    assert app.contents(app.there) == app.contents(app.here)
    assert report.details.sent_bytes > report.details.contents_bytes == sum(map(len, app.contents(app.here).values()))
    assert_checksums(app.there)
    assert decode_point((app.there / f"{first}{POINT_SUFFIX}").read_bytes(), first).generations == (
        app.names(ARCHIVE_SUFFIX) | app.names(LIST_SUFFIX)
    )
    again = app.replicate()
    assert (again.outcome, again.details.sent, again.details.points, again.details.contents) == ("done", (), (), 0)
    app.uploads.write("new.txt", "a new one")
    second = app.point(days=1)
    later = app.replicate()
    assert (later.details.points, later.details.contents) == ((second,), 1)
    assert app.contents(app.there) == app.contents(app.here)


def test_content_that_is_damaged_there_is_replaced_once_a_check_has_found_it(app: App) -> None:
    app.point()
    app.replicate()
    (key,) = app.names(LIST_SUFFIX)
    for damaged in sorted(app.there.glob("files/*/*"))[::20]:
        damaged.chmod(0o600)
        damaged.write_bytes(bytes(damaged.stat().st_size))
    with app.connect() as replica:
        assert verify(key, replica_inventory("there", replica, app.context), 1, app.context, store=replica).damaged
    report = app.replicate()
    assert (report.outcome, report.details.sent, report.details.contents) == ("done", (key,), 3), report
    assert app.contents(app.there) == app.contents(app.here)


def test_point_that_was_cut_before_its_index_is_completed_by_it_alone(app: App) -> None:
    key = app.point()
    app.replicate()
    (app.there / f"{key}{POINT_SUFFIX}").unlink()
    report = app.replicate()
    assert (report.details.sent, report.details.points) == ((), (key,))


def test_damaged_content_here_keeps_generation_and_point_here_but_nothing_else(app: App) -> None:
    key = app.point()
    damaged = max(app.here.glob("files/*/*"), key=lambda path: path.stat().st_size)
    damaged.write_bytes(b"damaged" + damaged.read_bytes()[7:])
    report = app.replicate(replace(WEEK, sources=("tasks",)))
    assert (report.outcome, [source_of(sent) for sent in report.details.sent]) == ("degraded", ["tasks"])
    assert any("was not sent" in warning and damaged.name[:64] in warning for warning in report.warnings)
    assert (app.names(POINT_SUFFIX), app.names(LIST_SUFFIX)) == (set(), set())
    assert damaged.name not in app.contents(app.there)
    assert app.names(ARCHIVE_SUFFIX)
    assert not app.replicate(replace(WEEK, sources=("tasks",))).details.points
    assert (app.here / f"{key}{POINT_SUFFIX}").exists()


def test_replica_keeps_points_by_its_own_policy_and_sweeps_what_no_list_names(app: App) -> None:
    app.uploads.write("old.txt", "it will be deleted")
    first = app.point()
    app.replicate()
    (app.uploads.path / "old.txt").unlink()
    app.uploads.write("0.txt", "other")
    second = app.point(days=3)
    for path in app.there.glob("files/*/*"):
        os.utime(path, (0, (app.now - timedelta(days=3)).timestamp()))
    kept = app.replicate(replace(LAST_ONE, append_only=True))
    assert (kept.details.removed, app.names(POINT_SUFFIX)) == ((), {first, second})
    before = app.contents(app.there)
    newest = max(app.there.glob("files/*/*"), key=lambda path: path.stat().st_mtime)
    os.utime(newest, (app.now.timestamp(), app.now.timestamp()))
    report = app.replicate(LAST_ONE)
    assert app.names(POINT_SUFFIX) == {second}
    assert report.details.removed[0] == first
    assert [source_of(key) for key in report.details.removed] == ["point", "uploads"]
    assert len(before) - len(app.contents(app.there)) == 2
    assert app.contents(app.there).items() <= app.contents(app.here).items()


def test_contents_are_not_swept_while_a_list_is_damaged(app: App) -> None:
    app.point()
    app.replicate()
    app.uploads.write("0.txt", "other")
    second = app.point(days=3)
    app.replicate()
    for path in app.there.glob("files/*/*"):
        os.utime(path, (0, 0))
    (app.there / f"{max(app.names(LIST_SUFFIX))}{LIST_SUFFIX}").write_bytes(b"x" * 100)
    (app.here / f"{max(app.names(LIST_SUFFIX))}{LIST_SUFFIX}").write_bytes(b"x" * 100)
    before = app.contents(app.there)
    app.replicate(LAST_ONE)
    assert app.contents(app.there) == before
    assert second


def test_content_that_the_replica_has_lost_is_sent_again_and_said(app: App) -> None:
    app.point()
    app.replicate()
    lost = sorted(app.there.glob("files/*/*"))[:3]
    for path in lost:
        path.unlink()
    report = app.replicate()
    assert report.outcome == "degraded"
    assert any("3 contents of files were no longer at there" in warning for warning in report.warnings), report.warnings
    assert app.contents(app.there) == app.contents(app.here)


def test_directory_in_the_place_of_a_content_is_named(app: App) -> None:
    app.point()
    content = min(app.here.glob("files/*/*"))
    place = app.there / content.relative_to(app.here)
    place.mkdir(parents=True)
    report = app.replicate()
    assert (report.outcome, place.name in str(report.error)) == ("failed", True), report.error


@pytest.mark.parametrize("app", ["directory"], indirect=True)
def test_content_that_another_store_sweeps_while_others_are_sent_is_sent_too(app: App) -> None:
    app.point()
    shutil.copytree(app.here / "files", app.there / "files")
    lacking, swept, *_ = app.there.glob("files/*/*")
    lacking.unlink()

    @contextmanager
    def connect() -> Iterator[Replica]:
        replica = DirectoryReplica("there", app.there)
        begin = replica.staging

        def begin_later() -> AbstractContextManager[Directory]:
            """Begin to send, once it is known what is there."""
            if not lacking.exists():
                swept.unlink()
            return begin()

        with patch.object(replica, "staging", begin_later):
            yield replica

    app.connect = connect
    report = app.replicate()
    assert (report.outcome, report.details.contents) == ("done", 2)
    assert app.contents(app.there) == app.contents(app.here)


def test_pinned_point_stays_at_replica(app: App) -> None:
    first = app.point()
    pin_generation(first, PinRequest("keep it"), app.context)
    app.replicate(LAST_ONE)
    app.uploads.write("0.txt", "other")
    second = app.point(days=3)
    app.replicate(LAST_ONE)
    assert app.names(POINT_SUFFIX) == {first, second}
    assert len(app.names(LIST_SUFFIX)) == 2


def test_loss_of_local_store_removes_no_point_at_replica(app: App) -> None:
    key = app.point()
    app.replicate()
    for path in [*app.here.glob("*.gz"), *app.here.glob("*.json"), *app.here.glob("files/*/*")]:
        path.unlink()
    app.now += timedelta(days=20)
    app.replicate(LAST_ONE)
    assert app.names(POINT_SUFFIX) == {key}
    assert len(app.contents(app.there)) == 41


def test_point_of_another_store_is_neither_removed_nor_overwritten(app: App) -> None:
    first = app.point()
    app.replicate()
    index = app.there / f"{first}{POINT_SUFFIX}"
    foreign = encode_point(replace(decode_point(index.read_bytes(), first), store="f" * 16))
    index.write_bytes(foreign)
    app.uploads.write("0.txt", "other")
    second = app.point(days=3)
    report = app.replicate(LAST_ONE)
    assert report.details.points == (second,)
    assert index.read_bytes() == foreign


def test_verify_reads_list_and_contents_of_either_store_and_names_the_files_that_it_lacks(app: App) -> None:
    app.point()
    app.replicate()
    key = next(iter(app.names(LIST_SUFFIX)))
    inventory = local_inventory(app.context)
    assert verify(key, inventory, 1, app.context).sound
    damaged, missing = sorted(app.there.glob("files/*/*"))[:2]
    with app.connect() as replica:
        there = replica_inventory("there", replica, app.context)
        assert verify(key, there, 1, app.context, store=replica).sound
        damaged.write_bytes(b"x" * damaged.stat().st_size)
        missing.unlink()
        found = verify(key, there, 1, app.context, store=replica)
    assert (found.sound, found.damaged) == (False, True)
    assert found.detail.startswith("2 of 41 files cannot be restored: '"), found
    assert ".txt" in found.detail
    assert verify(key, inventory, 1, app.context).sound
