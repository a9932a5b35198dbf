"""Which restore point an operator means, and the newer ones that are skipped: never silently."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from backupd.errors import GenerationMissing, ManifestInvalid, NewestUnusable, UsageError
from backupd.formatting import local_time
from backupd.model import CLOCK_TOLERANCE, AnyManifest, PointPart, RestorePoint
from backupd.tasks.choice import LATEST, Accept
from backupd.tasks.inventory import Inventory
from backupd.tasks.provenance import Provenance, is_succession, refusal

_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class ChosenPoint:
    """A restore point, and the manifests of those of its parts that are to be restored."""

    point: RestorePoint
    manifests: tuple[AnyManifest, ...]


ChoosePoint = Callable[[], ChosenPoint]


def choose_point(inventory: Inventory, wanted: str, at: datetime | None, only: Collection[str] = ()) -> ChosenPoint:
    """Return the restore point that an operator means: by id, `latest`, or the newest at or before `at`.

    With `only` just the parts of these sources count and are restored. One with a part that is gone, damaged or dated
    in the future is never `latest`; `require_newest_point` tells which newer ones are passed over. Raises
    GenerationMissing, for one whose index or part cannot be used ManifestInvalid or the error of that part; UsageError
    for a source that it does not have.
    """
    if at is None and wanted != LATEST:
        return _named(inventory, wanted, only)
    points = _newest_first(inventory, at, only)
    for point in points:
        if not _faults(point, inventory, only):
            return _chosen(point, inventory, only)
    if points:
        raise NewestUnusable(
            f"no restore point of {inventory.store} can be used: {_listed(points, inventory, only)}",
            "restore what can be used part by part (backupd list), or a point of another store (--from)",
        )
    raise _none(inventory, at, only)


def choose_usable_point(
    remote: Inventory, provenance: Provenance, wanted: str, at: datetime | None, only: Collection[str], name: str
) -> ChosenPoint:
    """Choose a restore point of replica `name` as `choose_point` does. Raises ForeignCopies for a foreign one."""
    usable, by_id = provenance.usable(remote), at is None and wanted != LATEST
    hidden = [group for group in provenance.foreign(remote) if not group.ids <= usable.manifests.keys()]
    consequence = "they are not used in place of this store's own"
    with_adopt = "the same command with --adopt"
    try:
        chosen = choose_point(usable, wanted, at, only)
    except (GenerationMissing, NewestUnusable):
        if hidden:
            raise refusal(hidden, name, consequence, remote.now, with_adopt) from None
        raise
    for manifest in chosen.manifests:
        rivals = provenance.foreign(usable.without(remote.replaced), manifest.source)
        if not by_id and not is_succession(rivals):
            raise refusal(rivals, name, "name the point by its id (backupd list --points)", remote.now)
    return chosen


def require_newest_point(
    chosen: ChosenPoint,
    inventory: Inventory,
    accept: Accept,
    at: datetime | None = None,
    only: Collection[str] = (),
    zone: tzinfo = UTC,
) -> str:
    """Return the warning that an operator has accepted with `chosen`, empty if no newer one is skipped.

    The error shows times in `zone`. Raises NewestUnusable unless it is accepted.
    """
    point = chosen.point
    newer = [one for one in _newest_first(inventory, at, only) if _order(one) > _order(point)]
    unreadable = [why for key, why in sorted(inventory.refused_points.items()) if key > point.id and at is None]
    if not newer and not unreadable:
        return ""
    reasons = "; ".join(filter(None, (_listed(newer, inventory, only), *unreadable[:_MAX_NAMED])))
    warning = f"{inventory.store} has newer restore points than {point.id} that cannot be used: {reasons}"
    if accept(warning):
        return warning
    raise NewestUnusable(
        warning,
        f"take the newest from another store (--from); --accept-older takes {point.id}, of "
        f"{local_time(point.taken_at, zone)}",
    )


def _named(inventory: Inventory, wanted: str, only: Collection[str]) -> ChosenPoint:
    if wanted in inventory.refused_points:
        raise ManifestInvalid(
            inventory.refused_points[wanted], "use another one (backupd list --points), or restore its generations"
        )
    if wanted not in inventory.points:
        raise GenerationMissing(f"there is no restore point {wanted}", "see backupd list --points")
    point = inventory.points[wanted]
    for part in _parts(point, only):
        if part.generation in inventory.refused:
            raise inventory.refusal(part.generation)
        if (fault := _fault_of_presence(part, inventory)) is not None:
            raise GenerationMissing(
                f"{point.id} cannot be restored as a whole: {fault}",
                "restore the other parts alone (--only SOURCE), or use another point (backupd list --points)",
            )
    return _chosen(point, inventory, only)


def _newest_first(inventory: Inventory, at: datetime | None, only: Collection[str]) -> list[RestorePoint]:
    """Return the points that have the parts `only`, and were taken at or before `at`."""
    points = sorted(inventory.points.values(), key=_order, reverse=True)
    wanted = frozenset(only)
    return [
        point
        for point in points
        if wanted <= {part.source for part in point.parts} and (at is None or point.taken_at <= at)
    ]


def _order(point: RestorePoint) -> tuple[datetime, str]:
    return point.taken_at, point.id


def _parts(point: RestorePoint, only: Collection[str]) -> list[PointPart]:
    """Return the parts of `point` that are wanted. Raises UsageError."""
    sources = [part.source for part in point.parts]
    for name in only:
        if name not in sources:
            raise UsageError(f"{point.id} has no part {name!r}", f"it has: {', '.join(sources)}")
    return [part for part in point.parts if not only or part.source in only]


def _chosen(point: RestorePoint, inventory: Inventory, only: Collection[str]) -> ChosenPoint:
    return ChosenPoint(point, tuple(inventory.manifests[part.generation] for part in _parts(point, only)))


def _faults(point: RestorePoint, inventory: Inventory, only: Collection[str]) -> list[str]:
    """Return why `point` is not chosen without being named."""
    if point.taken_at > inventory.now + CLOCK_TOLERANCE:
        return ["it is dated in the future"]
    return [fault for part in _parts(point, only) if (fault := _fault(part, inventory)) is not None]


def _fault(part: PointPart, inventory: Inventory) -> str | None:
    if part.generation in inventory.refused:
        return inventory.refused[part.generation]
    if (fault := _fault_of_presence(part, inventory)) is not None:
        return fault
    generation = next(one for one in inventory.of(part.source) if one.id == part.generation)
    if generation.damaged:
        return f"{part.generation} is damaged"
    return None if inventory.counts(generation) else f"{part.generation} was corrupt when it was created"


def _fault_of_presence(part: PointPart, inventory: Inventory) -> str | None:
    manifest = inventory.manifests.get(part.generation)
    if manifest is None:
        return f"{part.generation} is not there"
    if manifest.archive.sha256 != part.archive_sha256:
        return f"{part.generation} is not the copy that the point names: its archive has another digest"
    return None


def _listed(points: list[RestorePoint], inventory: Inventory, only: Collection[str]) -> str:
    def lines() -> Iterator[str]:
        for point in points[:_MAX_NAMED]:
            yield f"{point.id} ({', '.join(_faults(point, inventory, only)[:_MAX_NAMED])})"

    more = f" and {len(points) - _MAX_NAMED} more" if len(points) > _MAX_NAMED else ""
    return f"{'; '.join(lines())}{more}"


def _none(inventory: Inventory, at: datetime | None, only: Collection[str]) -> GenerationMissing:
    hint = "see backupd list --points; backupd restore restores a single generation (backupd list)"
    if not inventory.points:
        return GenerationMissing(
            f"there is no restore point in store {inventory.store}",
            f"a backup of all sources makes one where there are two or more: {hint}",
        )
    names = {part.source for point in inventory.points.values() for part in point.parts}
    if unknown := [name for name in only if name not in names]:
        return GenerationMissing(
            f"no restore point has a part {unknown[0]!r}", f"they have: {', '.join(sorted(names))}"
        )
    oldest = min(inventory.points.values(), key=_order)
    if at is None:
        return GenerationMissing(f"no restore point has all of {', '.join(only)}", hint)
    zone = at.tzinfo or UTC
    return GenerationMissing(
        f"there is no restore point at or before {local_time(at, zone, seconds=True)}; the oldest is {oldest.id}, "
        f"taken at {local_time(oldest.taken_at, zone, seconds=True)}",
        f"{hint}; a time without a zone is one of schedule.timezone",
    )
