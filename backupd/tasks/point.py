"""The restore point of a run: the generations that hold all sources as of one instant, as nearly as can be."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backupd import __version__
from backupd.archive.manifest import decode_point, encode_point
from backupd.errors import BackupdError
from backupd.model import POINT, PointPart, RestorePoint
from backupd.system.os_errors import os_error_text
from backupd.tasks.context import TaskContext
from backupd.tasks.publication import free_id
from backupd.tasks.store_events import PointPublished

_FEWEST: int = 2  # parts; a single source is restored by its generations


@dataclass(frozen=True, slots=True)
class PointDecision:
    """What becomes of the parts of a run: a new restore point, an earlier one that still holds them, or none."""

    parts: tuple[PointPart, ...] = ()  # of a new one
    holds: RestorePoint | None = None
    missing: tuple[str, ...] = ()  # sources without a part, for which there is no restore point


def decide_point(
    parts: Sequence[PointPart], wanted: Collection[str], points: Mapping[str, RestorePoint]
) -> PointDecision:
    """Decide about the restore point of a run that was to back up the sources `wanted`, which are all there are."""
    if len(wanted) < _FEWEST:
        return PointDecision()
    found = {part.source: part for part in parts}
    if missing := tuple(source for source in wanted if source not in found):
        return PointDecision(missing=missing)
    newest = max(points.values(), key=lambda point: (point.taken_at, point.id), default=None)
    if newest is not None and newest.generations == {part.generation for part in parts}:
        return PointDecision(holds=newest)
    return PointDecision(parts=tuple(found[source] for source in wanted))


def publish_point(parts: Sequence[PointPart], context: TaskContext) -> RestorePoint:
    """Publish the index of a restore point, durably. Raises NamesExhausted, GenerationTaken, OSError."""
    taken_at = min(part.since for part in parts)
    key = free_id(POINT, taken_at, context)
    point = RestorePoint(1, key, context.identity(), taken_at, __version__, tuple(parts))
    encoded = encode_point(point)
    decode_point(encoded, key)  # nothing is published that a restore would refuse
    context.store.publish_point(key, encoded)
    context.emit(PointPublished(point))
    return point


def publish_point_if_whole(
    parts: Sequence[PointPart], wanted: Collection[str], points: Mapping[str, RestorePoint], context: TaskContext
) -> tuple[RestorePoint | None, str]:
    """Publish the restore point of a run; return it, or an earlier one that still holds, and else why there is none."""
    decision = decide_point(parts, wanted, points)
    if decision.missing:
        return None, f"there is no restore point of this run: it has nothing of {', '.join(decision.missing)}"
    if not decision.parts:
        return decision.holds, ""
    try:
        return publish_point(decision.parts, context), ""
    except BackupdError as error:
        return None, f"there is no restore point of this run: {error.message}"
    except OSError as error:
        return None, f"there is no restore point of this run: {os_error_text(error)}"
