"""What to send to a replica, and what to remove there: decided from its own listing, not by mirroring.

The loss of the local disk must not empty a replica. Restore points are planned first, as in the local store.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from backupd.model import Generation, Hold, Pin, RestorePoint
from backupd.retention import (
    NO_PINS,
    Kept,
    Parts,
    Removed,
    RetentionPlan,
    keep_all,
    keep_parts,
    plan_points,
    plan_retention,
)
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory, by_database
from backupd.tasks.provenance import ForeignGenerations, Provenance, provenance_of
from backupd.tasks.pruning_plan import holds_on, points_as_generations
from backupd.tasks.requests import ReplicationRequest

_NOTHING: Final = RetentionPlan((), ())
_NO_PARTS: Final[Parts] = {}
_UNREADABLE: Final = "the index of a restore point there cannot be read now"


@dataclass(frozen=True, slots=True)
class ReplicationPlan:
    """What to do for one source at a replica, each newest first."""

    send: tuple[Kept, ...]
    keep: tuple[Kept, ...]
    remove: tuple[Removed, ...]
    foreign: tuple[ForeignGenerations, ...] = ()  # made by other stores; where there are any, nothing is removed

    @property
    def refused(self) -> bool:
        """Whether all generations of the source at the replica that count are foreign: nothing is sent either."""
        return bool(self.foreign) and not any(kept.generation.verified for kept in (*self.keep, *self.send))


@dataclass(frozen=True, slots=True)
class PointsPlan:
    """Which restore points stay at a replica or are to be sent there, and which go."""

    plan: RetentionPlan = _NOTHING
    parts: Parts = field(default_factory=dict)  # the ids of the generations of each
    send: tuple[RestorePoint, ...] = ()  # newest first
    remove: tuple[Removed, ...] = ()
    there: frozenset[str] = frozenset()  # ids of all whose index is there
    unreadable: bool = False  # an index there cannot be read now: nothing is removed


@dataclass(frozen=True, slots=True)
class ReplicationPlans:
    """What to do at a replica for all sources, and for restore points."""

    sources: tuple[ReplicationPlan, ...]
    points: PointsPlan = PointsPlan()

    @property
    def refused(self) -> bool:
        """Whether nothing is sent, since all copies there are of another store."""
        return bool(self.sources) and all(plan.refused for plan in self.sources)

    @property
    def foreign(self) -> tuple[ForeignGenerations, ...]:
        """What other stores have made."""
        return tuple(group for plan in self.sources for group in plan.foreign)

    @property
    def lacking(self) -> Mapping[str, Generation]:
        """The generations to send, by id."""
        return {kept.generation.id: kept.generation for plan in self.sources for kept in plan.send}

    def in_order(self) -> Iterator[tuple[tuple[Generation, ...], RestorePoint | None]]:
        """Yield what is to be sent, newest first: a restore point after those of its parts that are still lacking.

        A whole newest point is worth more than old ones, or parts of several.
        """
        lacking = dict(self.lacking)
        units = [(point.taken_at, point.id, point.generations, point) for point in self.points.send]
        in_points = frozenset[str]().union(*(point.generations for point in self.points.send))
        alone = [one for one in lacking.values() if one.id not in in_points]
        units_alone = [(one.taken_at, one.id, frozenset({one.id}), None) for one in alone]
        for _, _, ids, point in sorted([*units, *units_alone], key=lambda unit: unit[:2], reverse=True):
            parts = sorted(
                (lacking.pop(key) for key in ids & lacking.keys()), key=lambda part: (part.taken_at, part.id)
            )
            yield tuple(parts), point


def plan_replication(
    local: Iterable[Generation],
    remote: Iterable[Generation],
    request: ReplicationRequest,
    now: datetime,
    hold: Hold | None = None,
    pins: Mapping[str, Pin] = NO_PINS,
    foreign: tuple[ForeignGenerations, ...] = (),
    points: PointsPlan = PointsPlan(),
) -> ReplicationPlan:
    """Decide for one source what to send to a replica and what to remove there, from both listings.

    A generation is sent that the replica's policy, one of the `pins` or one of the `points` there would keep, that is
    verified locally, and that the replica lacks or has damaged. Nothing is removed under a `hold`, from an append-only
    replica, or beside `foreign` generations: those fill no place of the policy, and where no others count, nothing is
    sent. Raises PolicyEmpty.
    """
    taken = frozenset(generation_id for group in foreign for generation_id in group.ids)
    local = [generation for generation in local if generation.id not in taken]
    remote = [generation for generation in remote if generation.id not in taken]
    if foreign and not any(generation.verified for generation in remote):
        local = []
    lacking, present = _sides(local, remote)
    plan = plan_retention(
        (present | lacking).values(), request.retention.policy, now, request.retention.timezone, hold, pins
    )
    plan = keep_parts(plan, points.plan, points.parts)
    if points.unreadable:
        plan = keep_all(plan, _UNREADABLE)
    send = tuple(kept for kept in plan.keep if kept.generation.id in lacking)
    keep = tuple(kept for kept in plan.keep if kept.generation.id in present)
    remove = tuple(removed for removed in plan.remove if removed.generation.id in present)
    return ReplicationPlan(send, keep, () if request.append_only or foreign else remove, foreign)


def _sides(
    local: Iterable[Generation], remote: Iterable[Generation]
) -> tuple[dict[str, Generation], dict[str, Generation]]:
    """Return what the replica lacks or has damaged, and is verified here, and what it has, by id."""
    remote = list(remote)
    good_there = {generation.id for generation in remote if generation.verified}
    lacking = {one.id: one for one in local if one.verified and one.id not in good_there}
    return lacking, {generation.id: generation for generation in remote if generation.id not in lacking}


def plan_all(
    request: ReplicationRequest, local: Inventory, remote: Inventory, context: TaskContext
) -> ReplicationPlans:
    """Return the plan for each source that is configured or in the local store, and for restore points."""
    provenance, now, pins = provenance_of(local, context), context.clock(), context.pins.all()
    local = local.without(remote.unreadable | remote.replaced)  # what is there may be good, and is not overwritten
    remote = remote.without(remote.lost)
    points = _plan_points(request, local, remote, provenance, context)

    def plan(source: str) -> ReplicationPlan:
        hold, foreign = context.holds.get(source), provenance.foreign(remote, source)
        others = {generation_id for group in foreign for generation_id in group.ids}
        sides = [side.without(others) if others and side is remote else side for side in (local, remote)]
        known = {g.id: g for side in sides for g in side.of(source)}
        manifests = {m.id: m for side in sides for m in side.manifests_of(source)}
        send, keep, remove = list[Kept](), list[Kept](), list[Removed]()
        for history in by_database(known.values(), manifests.values()):
            ids = {generation.id for generation in history}
            local_part, remote_part = ([g for g in side.of(source) if g.id in ids] for side in sides)
            part = plan_replication(local_part, remote_part, request, now, hold, pins, foreign, points)
            send += part.send
            keep += part.keep
            remove += part.remove
        return ReplicationPlan(tuple(send), tuple(keep), tuple(remove), foreign)

    plans = tuple(map(plan, planned_sources(request, local)))
    return ReplicationPlans(plans, _sendable(points, plans))


def _plan_points(
    request: ReplicationRequest, local: Inventory, remote: Inventory, provenance: Provenance, context: TaskContext
) -> PointsPlan:
    """Decide which restore points of this store, here or there, stay at the replica by its policy.

    One counts there if each of its parts is verified there or can be sent. Nothing is removed from an append-only
    replica, nor beside what another store has made of a source of the point.
    """
    own = {key: point for key, point in remote.points.items() if provenance.counts(point)}
    foreign = {generation_id for group in provenance.foreign(remote) for generation_id in group.ids}
    there = remote.without(foreign)
    lacking, present = _sides(local.generations, there.generations)
    together = replace(
        there,
        generations=tuple((present | lacking).values()),
        manifests={**there.manifests, **{key: local.manifests[key] for key in lacking}},
        points={**local.points, **own},
    )
    if not together.points:
        return PointsPlan(unreadable=bool(remote.unreadable_points))
    parts = {key: point.generations for key, point in together.points.items()}
    sources = {part.source for point in together.points.values() for part in point.parts}
    plan = plan_points(
        points_as_generations(together),
        parts,
        request.retention.policy,
        context.clock(),
        request.retention.timezone,
        holds_on(sources, context),
        context.pins.all(),
    )
    send = (together.points[kept.generation.id] for kept in plan.keep if kept.generation.verified)
    lacked = tuple(point for point in send if point.id not in remote.points)
    keeps_all = request.append_only or foreign or remote.unreadable_points
    removed = () if keeps_all else tuple(removed for removed in plan.remove if removed.generation.id in own)
    return PointsPlan(plan, parts, lacked, removed, frozenset(remote.points), bool(remote.unreadable_points))


def _sendable(points: PointsPlan, plans: Iterable[ReplicationPlan]) -> PointsPlan:
    """Return the `points` to send whose parts are all there, or are sent by these plans."""
    complete = {kept.generation.id for plan in plans for kept in (*plan.send, *plan.keep) if kept.generation.verified}
    return replace(points, send=tuple(point for point in points.send if point.generations <= complete))


def planned_sources(request: ReplicationRequest, local: Inventory) -> list[str]:
    """Return the names of the sources to plan for: those that are configured, or in the local store."""
    return sorted({*request.sources, *(generation.source for generation in local.generations)})
