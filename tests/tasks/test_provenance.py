"""Two sidecars with the same directory of backups and source name, but different databases."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.report import AnyReport
from backupd.retention import RetentionPolicy
from backupd.stores.directory_replica import DirectoryReplica
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.doctor.local import check_local
from backupd.tasks.drill import drill
from backupd.tasks.prune import prune
from backupd.tasks.replica import once
from backupd.tasks.replicate import replicate
from backupd.tasks.requests import BackupRequest, DrillRequest, ReplicationRequest, RetentionRule
from support.bank import make_bank, spend

TWO = RetentionRule(RetentionPolicy(last=2, daily=0, weekly=0, within=timedelta(0)))


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 23, 4, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def takes(context: TaskContext, tmp_path: Path) -> Callable[..., AnyReport]:
    """Takes the next night's backup, of one database or another, under the same name."""
    clock = Clock()

    def take(name: str, retention: RetentionRule | None = None) -> AnyReport:
        clock.now += timedelta(days=1)
        path = tmp_path / name / "db.sqlite3"
        if path.exists():
            spend(path, 1)
        else:
            path.parent.mkdir()
            make_bank(path, rows=100 + ord(name))
        nightly = replace(context, clock=clock)
        return backup(BackupRequest("db", path, reserve_bytes=0, retention=retention), nightly)

    return take


def test_two_databases_in_one_store_warn_and_are_pruned_separately(
    takes: Callable[..., AnyReport], context: TaskContext, tmp_path: Path
) -> None:
    first, moved = takes("a"), takes("b")
    assert (first.warnings, moved.warnings) == ((), ()), "it may have been moved"
    later = [takes(name, TWO) for name in "abab"]
    for report in later:
        assert (report.outcome, report.exit_code) == ("degraded", 3)
        assert all(part in report.warnings[0] for part in (str(tmp_path / "a"), str(tmp_path / "b"), "backups_dir"))
    kept = [report.generation for report in later]
    assert [stored.id for stored in context.store.list()] == kept
    to_nas = ReplicationRequest("nas", TWO, ("db",))
    replicate(to_nas, lambda: nullcontext(DirectoryReplica("nas", tmp_path / "nas")), once, context)
    assert [stored.id for stored in DirectoryReplica("nas", tmp_path / "nas").list()] == kept
    order = DrillRequest("db", "local", 1e9, 1, 0, path=tmp_path / "a" / "db.sqlite3")
    (drilled,) = drill([order], lambda: nullcontext((context.store, local_inventory(context))), once, context)
    assert (drilled.outcome, f"of which {kept[2]} is the newest" in str(drilled.error)) == ("failed", True)
    found = [finding for finding in check_local((BackupRequest("db", order.path),), context) if not finding.ok]
    assert [finding.check for finding in found] == ["backups of db"]


def test_moved_database_continues_as_one_source(
    takes: Callable[..., AnyReport], context: TaskContext, tmp_path: Path
) -> None:
    takes("a")
    last = [takes("b", TWO) for _ in range(3)]
    assert (last[-1].outcome, last[-1].warnings) == ("published", ())
    assert [stored.id for stored in context.store.list()] == [report.generation for report in last[1:]]
    order = DrillRequest("db", "local", 1e9, 1, 0, path=tmp_path / "c" / "db.sqlite3")
    (drilled,) = drill([order], lambda: nullcontext((context.store, local_inventory(context))), once, context)
    assert drilled.outcome == "done", "restored elsewhere after a disaster"
    assert prune("db", TWO, context)[0].details.removed == ()
