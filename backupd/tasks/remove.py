"""Remove single generations for an operator, from the local store or from a replica."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backupd.errors import GenerationMissing, RemovalRefused
from backupd.model import Generation, Hold, Pin
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import Inventory
from backupd.tasks.provenance import provenance_of
from backupd.tasks.prune import remove_generation, remove_point, unpin_generation
from backupd.tasks.pruning_plan import holds_on, pins_in_force, points_with
from backupd.tasks.replica import Connect, remove_copies, remove_points, replica_errors, replica_inventory
from backupd.tasks.requests import ReplicationRequest
from backupd.tasks.sweep import note_sweep, sweep_if_due

_REASON = "removed by an operator"


@dataclass(frozen=True, slots=True)
class Removal:
    """A generation that was removed from one store."""

    generation: str
    store: str
    still_in: tuple[str, ...]  # other stores with a copy, as far as the catalog knows


def remove_local(ids: Collection[str], context: TaskContext, *, force: bool) -> tuple[Removal, ...]:
    """Remove generations and restore points from the local store: a point, which is its index, before its parts.

    Of a generation `SHA256SUMS` and the catalog forget it first, then manifest and archive go. All are removed, or
    none. Raises GenerationMissing, RemovalRefused, LockHeld, OSError.
    """
    with context.exclusive_lock("remove"):
        context.recover()
        inventory = read_inventory(context)
        points, chosen = _chosen(ids, inventory, context, force=force)
        copies = context.copies()
        for key in points:
            remove_point(key, _REASON, context)
        note_sweep(chosen, inventory, context)
        context.store.write_checksums(inventory.checksums(without=chosen))
        for key in chosen:
            _unpin_last(key, context.store.name, copies, context)
            remove_generation(key, _REASON, context)
        sweep_if_due(context.store, inventory.without(chosen), context)
    return _removals((*points, *chosen), context.store.name, context)


def remove_at_replica(
    ids: Collection[str], request: ReplicationRequest, connect: Connect, context: TaskContext, *, force: bool
) -> tuple[Removal, ...]:
    """Remove `ids` from a replica. An append-only one refuses, also with `force`.

    Raises GenerationMissing, RemovalRefused, LockHeld, CopyUnreadable, and what opening the replica raises.
    """
    if request.append_only:
        raise RemovalRefused(
            f"{request.name} is append_only: nothing is removed there", "remove the files on that host itself"
        )
    with context.task_lock(f"replicate-{request.name}"), replica_errors(request.name), connect() as replica:
        replica.prepare()
        remote = replica_inventory(request.name, replica, context)
        remote.require_readable()
        own = remote.without(_foreign(ids, remote, request.name, context))
        points, chosen = _chosen(ids, own, context, force=force)
        context.report_recovered(replica.recover())
        with context.exclusive_lock("remove"):
            context.recover()
            copies = context.copies()
            for key in chosen:
                _unpin_last(key, request.name, copies, context)
        remove_points(dict.fromkeys(points, _REASON), replica, context)
        remove_copies(dict.fromkeys(chosen, _REASON), request, replica, remote, context)
        sweep_if_due(replica, remote.without(chosen), context)
    return _removals((*points, *chosen), request.name, context)


def _foreign(ids: Collection[str], remote: Inventory, name: str, context: TaskContext) -> frozenset[str]:
    """Return what other stores have sent to a replica. Raises RemovalRefused when one of `ids` is theirs."""
    groups = provenance_of(read_inventory(context), context).foreign(remote)
    for group in groups:
        if theirs := sorted((group.ids & {*ids}) - remote.replaced):
            raise RemovalRefused(
                f"{theirs[0]} at {name} is of another store: {group.describe(context.clock())}",
                f"if that machine is lost, adopt its copies first: backupd replicate --to {name} --adopt",
            )
    return frozenset(key for group in groups for key in group.ids) - remote.replaced


def require_removable(
    chosen: Mapping[str, Generation], inventory: Inventory, pins: Mapping[str, Pin], holds: Mapping[str, Hold]
) -> None:
    """Raise RemovalRefused for what is pinned, on hold, or the last verified generation of its source in a store."""
    for key, generation in chosen.items():
        if key in pins:
            raise RemovalRefused(
                f"{key} is pinned: {pins[key].reason}", f"backupd unpin {key} releases it; or add --force"
            )
        if hold := holds.get(generation.source):
            raise RemovalRefused(
                f"nothing of {generation.source} is removed while its pruning is on hold: {hold.reason}",
                "backupd prune --unfreeze ends that; or add --force",
            )
    for source in sorted({generation.source for generation in chosen.values()}):
        verified = {generation.id for generation in inventory.of(source) if inventory.counts(generation)}
        if verified and verified <= chosen.keys():
            raise RemovalRefused(
                f"no verified generation of {source} would be left in this store",
                "take a backup first (backupd backup); or add --force",
            )


def require_removable_points(
    chosen: Collection[str], generations: Collection[str], inventory: Inventory, pins: Mapping[str, Pin]
) -> None:
    """Raise RemovalRefused for restore points that are pinned, and for parts of points that are not chosen as well."""
    for key in chosen:
        if key in pins:
            raise RemovalRefused(
                f"{key} is pinned: {pins[key].reason}", f"backupd unpin {key} releases it; or add --force"
            )
    for key in generations:
        if points := [point for point in points_with({key}, inventory) if point not in chosen]:
            more = f" and {len(points) - 1} more" if len(points) > 1 else ""
            raise RemovalRefused(
                f"{key} is part of restore point {points[0]}{more}, which could not be restored without it",
                f"backupd remove {points[0]} removes the point first; --force removes all that it is part of",
            )


def _chosen(
    ids: Collection[str], inventory: Inventory, context: TaskContext, *, force: bool
) -> tuple[tuple[str, ...], Mapping[str, Generation]]:
    """Return the restore points and the generations that are to go, with `force` the points of these generations too.

    Raises GenerationMissing, RemovalRefused unless `force`.
    """
    present = {generation.id: generation for generation in inventory.generations}
    indexes = {*inventory.points, *inventory.refused_points}
    missing = [key for key in ids if key not in present and key not in indexes]
    if missing:
        what = f"there is no generation {', '.join(missing)[:300]!r} in store {inventory.store}"
        raise GenerationMissing(what, f"see backupd list --store {inventory.store}")
    chosen = {key: present[key] for key in ids if key in present}
    points = tuple(key for key in ids if key in indexes)
    if force:
        return tuple(dict.fromkeys((*points, *points_with(chosen.keys(), inventory)))), chosen
    pins = pins_in_force(inventory, context)
    require_removable_points(points, chosen, inventory, pins)
    holds = holds_on({generation.source for generation in chosen.values()}, context)
    require_removable(chosen, inventory, pins, holds)
    return points, chosen


def _removals(chosen: Collection[str], store: str, context: TaskContext) -> tuple[Removal, ...]:
    """Return what was removed; a replica still has a copy as far as the catalog knows, the local store if files."""
    copies, local = context.copies(), context.store.name
    removals = []
    for key in chosen:
        still_in = {*copies.get(key, ())} - {local, store}
        if store != local and context.store.has_files(key):
            still_in.add(local)
        removals.append(Removal(key, store, tuple(sorted(still_in))))
    return tuple(removals)


def _unpin_last(generation_id: str, store: str, copies: Mapping[str, tuple[str, ...]], context: TaskContext) -> None:
    """Release the pin with the last copy; where the catalog knows of no copy it stays."""
    elsewhere = store != context.store.name and context.store.has_files(generation_id)
    if set(copies.get(generation_id, ())) == {store} and not elsewhere:
        unpin_generation(generation_id, _REASON, context)
