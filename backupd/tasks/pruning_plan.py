"""What to prune in a store: the decisions of `retention` about what an inventory holds."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property

from backupd.model import POINT, Generation, Hold, Pin, RestorePoint, source_of
from backupd.retention import (
    Kept,
    Removed,
    RetentionPlan,
    keep_all,
    keep_more,
    plan_points,
    plan_retention,
    reasons_of_parts,
)
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory, by_database
from backupd.tasks.requests import RetentionRule

_UNREADABLE = "the index of a restore point cannot be read now"


class PruningPlans:
    """What to prune in a store, by its inventory and one rule for all sources; restore points first.

    All methods raise OSError where holds or pins cannot be read, PolicyEmpty.
    """

    def __init__(self, retention: RetentionRule, inventory: Inventory, context: TaskContext) -> None:
        self._retention, self._inventory, self._context = retention, inventory, context

    @cached_property
    def points(self) -> RetentionPlan:
        """Which restore points stay and which go, each with its reasons."""
        inventory, context, parts = self._inventory, self._context, self._parts
        if not inventory.points:
            return RetentionPlan((), ())
        return plan_points(
            points_as_generations(inventory),
            parts,
            self._retention.policy,
            context.clock(),
            self._retention.timezone,
            holds_on({source_of(part) for ids in parts.values() for part in ids}, context),
            context.pins.all(),
        )

    def of(self, source: str) -> RetentionPlan:
        """Which generations of a source stay and which go; what is part of a restore point that stays, stays too."""
        context, inventory, retention = self._context, self._inventory, self._retention
        hold, pins, now = context.holds.get(source), context.pins.all(), context.clock()
        keep, remove = list[Kept](), list[Removed]()
        for generations in by_database(inventory.of(source), inventory.manifests_of(source)):
            plan = plan_retention(generations, retention.policy, now, retention.timezone, hold, pins)
            keep += plan.keep
            remove += plan.remove
        plan = RetentionPlan(tuple(keep), tuple(remove))
        if inventory.unreadable_points:
            return keep_all(plan, _UNREADABLE)
        return keep_more(plan, self._in_points)

    @cached_property
    def _in_points(self) -> Mapping[str, Sequence[str]]:
        return reasons_of_parts(self.points, self._parts)

    @cached_property
    def _parts(self) -> Mapping[str, frozenset[str]]:
        return {key: point.generations for key, point in self._inventory.points.items()}


def holds_on(sources: Collection[str], context: TaskContext) -> Mapping[str, Hold]:
    """Return the holds on some sources, by source."""
    return {source: hold for source in sorted(sources) if (hold := context.holds.get(source))}


def points_with(ids: Collection[str], inventory: Inventory) -> tuple[str, ...]:
    """Return the ids of the restore points that one of these generations is part of, newest first."""
    found = (point for point in inventory.points.values() if not point.generations.isdisjoint(ids))
    return tuple(point.id for point in sorted(found, key=lambda point: (point.taken_at, point.id), reverse=True))


def points_as_generations(inventory: Inventory) -> tuple[Generation, ...]:
    """Return the restore points as retention and lists see them, newest first.

    One whose parts are not all there, undamaged, is damaged; one with a part that cannot be read now is unknown.
    """
    by_id = {generation.id: generation for generation in inventory.generations}
    found = (_as_generation(point, by_id, inventory) for point in inventory.points.values())
    return tuple(sorted(found, key=lambda point: (point.taken_at, point.id), reverse=True))


def _as_generation(point: RestorePoint, by_id: Mapping[str, Generation], inventory: Inventory) -> Generation:
    here = [by_id[part.generation] for part in point.parts if part.generation in by_id]
    known = [part for part in point.parts if part.generation not in inventory.unreadable]
    sound = len(here) == len(point.parts) and all(
        by_id[part.generation].verified and inventory.manifests[part.generation].archive.sha256 == part.archive_sha256
        for part in known
    )
    return Generation(
        id=point.id,
        source=POINT,
        taken_at=point.taken_at,
        archive_bytes=sum(generation.archive_bytes for generation in here),
        snapshot_bytes=sum(generation.snapshot_bytes for generation in here),
        verification="corrupt" if not sound else "full" if len(known) == len(point.parts) else "unknown",
        damaged=not sound,
    )


def newest_point(inventory: Inventory) -> datetime | None:
    """Return the time of the newest restore point that counts, from which the ends of pins are counted."""
    return next((point.taken_at for point in points_as_generations(inventory) if inventory.counts(point)), None)


def newest_points(inventory: Inventory) -> Mapping[str, str]:
    """Return the newest restore point that each generation is part of, by id of generation."""
    ordered = sorted(inventory.points.values(), key=lambda point: (point.taken_at, point.id))
    return {part.generation: point.id for point in ordered for part in point.parts}


def pins_in_force(inventory: Inventory, context: TaskContext) -> Mapping[str, Pin]:
    """Return the pins that hold, by id of generation or point, at the time that retention counts from.

    Raises OSError.
    """
    pins = context.pins.all()
    reached = {generation.source: inventory.now for generation in inventory.generations}
    for source in reached:
        if last := inventory.last_verified(source):
            reached[source] = last.taken_at
    pinned = {g.id: (pins[g.id], reached[g.source]) for g in inventory.generations if g.id in pins}
    at = newest_point(inventory) or inventory.now
    pinned |= {key: (pins[key], at) for key in inventory.points if key in pins}
    return {key: pin for key, (pin, at) in pinned.items() if pin.holds(at)}
