"""Restore points in a store: pruned as wholes, index first, removed by hand, pinned, and never left without a part."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.errors import GenerationMissing, RemovalRefused
from backupd.retention import RetentionPolicy
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.prune import pin_all, prune, unpin_all
from backupd.tasks.remove import remove_at_replica, remove_local
from backupd.tasks.replica import once
from backupd.tasks.replicate import replicate
from backupd.tasks.requests import BackupRequest, PinRequest, ReplicationRequest, RetentionRule
from support.command import log_lines
from support.generations import backdated
from support.points import publish_point

ONE = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))


@pytest.fixture
def newest(order: BackupRequest, context: TaskContext) -> str:
    key = backup(order, context).generation
    assert key
    return key


@pytest.fixture
def points(context: TaskContext, backups: Path, newest: str) -> list[str]:
    """Three restore points, oldest first, of `tasks` and of `other`, which did not change since the first."""
    other = backdated(backups, newest, days=9, source="other")
    tasks = [backdated(backups, newest, days=days) for days in (8, 4)]
    manifests = read_inventory(context).manifests
    return [publish_point(backups, (key, other), at=manifests[key].taken_at) for key in (*tasks, newest)]


def generations(context: TaskContext) -> set[str]:
    return {stored.id for stored in context.store.list()}


def whole(context: TaskContext) -> bool:
    """Return whether all parts of all restore points are there."""
    inventory = read_inventory(context)
    return all(point.generations <= inventory.manifests.keys() for point in inventory.points.values())


def test_points_are_pruned_with_what_is_part_of_none_that_stays(
    context: TaskContext, points: list[str], newest: str
) -> None:
    report, plan = prune("tasks", ONE, context)
    assert report.outcome == "done"
    assert context.store.points() == (points[-1],)
    assert report.details.removed[:2] == (points[1], points[0])
    assert generations(context) == {newest, *(key for key in generations(context) if key.startswith("other"))}
    assert len(generations(context)) == 2
    assert f"part of {points[-1]}" in plan.reasons()[newest]
    prune("other", ONE, context)
    assert len(generations(context)) == 2
    assert whole(context)


def test_index_goes_before_any_part(context: TaskContext, points: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[bool]()
    remove = DirectoryStore.remove

    def watched(store: DirectoryStore, key: str) -> None:
        seen.append(any(key in point.generations for point in read_inventory(context).points.values()))
        remove(store, key)

    monkeypatch.setattr(DirectoryStore, "remove", watched)
    prune("tasks", ONE, context)
    remove_local([key for key in generations(context) if key.startswith("other")], context, force=True)
    assert seen == [False] * 3
    assert len(points) == 3


def test_nothing_is_pruned_while_an_index_cannot_be_read(
    context: TaskContext, points: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, read = generations(context), DirectoryStore.point

    def failing(store: DirectoryStore, key: str) -> bytes:
        if key == points[0]:
            raise OSError(5, "Input/output error")
        return read(store, key)

    monkeypatch.setattr(DirectoryStore, "point", failing)
    report, _ = prune("tasks", ONE, context)
    assert (report.outcome, generations(context)) == ("degraded", before)
    assert any(points[0] in warning and "cannot be read" in warning for warning in report.warnings)


def test_damaged_index_is_named_and_removed_by_hand(context: TaskContext, points: list[str], backups: Path) -> None:
    path = backups / f"{points[0]}.point.json"
    path.write_bytes(path.read_bytes()[:-3])
    report, _ = prune("tasks", ONE, context)
    assert report.outcome == "degraded"
    assert any(f"backupd remove {points[0]}" in warning for warning in report.warnings)
    remove_local([points[0]], context, force=False)
    assert not path.exists()
    assert prune("tasks", ONE, context)[0].outcome == "done"


def test_part_of_point_is_removed_only_by_force_and_its_points_first(
    context: TaskContext, points: list[str], backups: Path
) -> None:
    (part,) = [key for key in generations(context) if key.startswith("other")]
    second = next(key for key in generations(context) if key in read_inventory(context).points[points[1]].generations)
    with pytest.raises(RemovalRefused, match=rf"part of restore point {points[2]} and 2 more") as refused:
        remove_local([part], context, force=False)
    assert f"backupd remove {points[2]}" in refused.value.hint
    assert context.store.points() == tuple(points)
    done = remove_local([part], context, force=True)
    assert [removal.generation for removal in done] == [*reversed(points), part]
    assert context.store.points() == ()
    assert second in generations(context) or second == part
    removed = [line["backupd.point"] for line in log_lines(backups) if line["event.action"] == "point.removed"]
    assert removed == [*reversed(points)]


def test_point_is_removed_by_its_id_and_its_parts_stay(context: TaskContext, points: list[str]) -> None:
    before = generations(context)
    remove_local([points[0]], context, force=False)
    assert context.store.points() == tuple(points[1:])
    assert generations(context) == before
    with pytest.raises(GenerationMissing, match=points[0]):
        remove_local([points[0]], context, force=False)


def test_pinned_point_stays_with_its_parts_until_it_is_released(context: TaskContext, points: list[str]) -> None:
    pin_all([points[0]], PinRequest("by an operator"), (), context)
    prune("tasks", ONE, context)
    assert context.store.points() == (points[0], points[2])
    assert whole(context)
    with pytest.raises(RemovalRefused, match=f"{points[0]} is pinned"):
        remove_local([points[0]], context, force=False)
    unpin_all([points[0]], context)
    prune("tasks", ONE, context)
    assert context.store.points() == (points[2],)


def test_point_that_lost_a_part_is_not_counted_and_newest_whole_one_stays(
    context: TaskContext, points: list[str], newest: str, backups: Path
) -> None:
    for path in backups.glob(f"{newest}.*"):
        path.unlink()
    prune("tasks", ONE, context)
    assert context.store.points() == tuple(points[1:])
    inventory = read_inventory(context)
    assert inventory.points[points[1]].generations <= inventory.manifests.keys()


def test_point_at_replica_is_removed_before_a_part_and_only_by_force(
    context: TaskContext, points: list[str], tmp_path: Path
) -> None:
    there = DirectoryReplica("nas", tmp_path / "nas")
    request = ReplicationRequest("nas", RetentionRule(), ("tasks",))
    replicated = replicate(request, lambda: nullcontext(there), once, context)
    assert replicated.outcome == "done", replicated
    assert there.points() == tuple(points)
    (part,) = [stored.id for stored in there.list() if stored.id.startswith("other")]
    with pytest.raises(RemovalRefused, match=f"{part} is part of restore point {points[2]}"):
        remove_at_replica([part], request, lambda: nullcontext(there), context, force=False)
    remove_at_replica([points[0]], request, lambda: nullcontext(there), context, force=False)
    assert there.points() == tuple(points[1:])
    remove_at_replica([part], request, lambda: nullcontext(there), context, force=True)
    assert there.points() == ()
    assert part not in {stored.id for stored in there.list()}
    assert context.store.points() == tuple(points)
