"""Prune the local store by the retention policy, and pin the generations that pruning must not touch."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from backupd.errors import GenerationMissing
from backupd.model import POINT, Pin, source_of
from backupd.report import PruneDetails, RunReport
from backupd.retention import RetentionPlan
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.events import (
    CopyForgotten,
    GenerationPinned,
    GenerationRemoved,
    GenerationUnpinned,
    PruningReleased,
    StoreListed,
)
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import PruningPlans, newest_point
from backupd.tasks.requests import PinRequest, RetentionRule
from backupd.tasks.run import D, Run
from backupd.tasks.store_events import PointRemoved
from backupd.tasks.sweep import note_sweep, sweep_if_due


def listed_inventory(context: TaskContext) -> Inventory:
    """Read the local store, and let the catalog list what is there. Raises OSError."""
    inventory = read_inventory(context)
    present = frozenset(generation.id for generation in inventory.generations)
    context.emit(StoreListed(context.store.name, present - inventory.lost, inventory.manifests))
    return inventory


def apply_retention(
    source: str, retention: RetentionRule, inventory: Inventory, run: Run[D], context: TaskContext
) -> RetentionPlan:
    """Remove what the policy does not keep: restore points, then generations of `source`, then contents of files.

    `SHA256SUMS` is right, and each restore point has all its parts, at every instant. `inventory` is what the store
    holds now. Returns the plan of the source, with the restore points that were removed. Only under the exclusive lock.
    """
    present = frozenset(generation.id for generation in inventory.generations)
    for problem in inventory.problems():
        run.warn(problem)
    plans = PruningPlans(retention, inventory, context)
    points, plan = plans.points, plans.of(source)
    removed_ids = frozenset(plan.removed_ids)
    with run.stage("prune"):
        for removed in points.remove:
            remove_point(removed.generation.id, removed.reason, context)
        note_sweep(removed_ids, inventory, context)
        context.store.write_checksums(inventory.checksums(without=removed_ids))
        for removed in plan.remove:
            remove_generation(removed.generation.id, removed.reason, context)
        sweep_if_due(context.store, inventory.without(removed_ids), context, run.warn)
    newest = inventory.last_verified(source)
    _sweep_pins(source, newest.taken_at if newest else None, present - removed_ids, context)
    _sweep_pins(POINT, newest_point(inventory), inventory.points.keys() - {*points.removed_ids}, context)
    return replace(plan, remove=(*points.remove, *plan.remove))


def _sweep_pins(source: str, newest: datetime | None, present: Collection[str], context: TaskContext) -> None:
    """Remove the pins of `source` that have ended and whose generations are gone from every store.

    They end by the time of the newest generation, as retention counts, since the clock may run ahead. A pin stays for
    as long as its generation does.
    """
    if newest is None:
        return
    for pin in context.pins.all().values():
        over = source_of(pin.generation) == source and not pin.holds(newest)
        if over and pin.generation not in present and not context.copies().get(pin.generation):
            unpin_generation(pin.generation, "its time is over", context)


def remove_point(point_id: str, reason: str, context: TaskContext) -> None:
    """Remove the index of a restore point from the local store. Only under the exclusive lock. Raises OSError."""
    context.store.remove_point(point_id)
    context.emit(PointRemoved(point_id, context.store.name, reason))


def remove_generation(generation: str, reason: str, context: TaskContext) -> None:
    """Remove one generation of the local store, and its marks. Only under the exclusive lock. Raises OSError."""
    context.emit(CopyForgotten(generation, context.store.name))
    context.store.remove(generation)
    context.marks.clear(generation)
    context.emit(GenerationRemoved(generation, context.store.name, reason))


def prune(source: str, retention: RetentionRule, context: TaskContext) -> tuple[RunReport[PruneDetails], RetentionPlan]:
    """Prune one source now, as a run of its own; returns its plan too, an empty one if it failed."""
    plan = RetentionPlan((), ())
    with context.run("prune", source, PruneDetails()) as run, context.exclusive_lock("prune"):
        context.recover()
        run.start()
        plan = apply_retention(source, retention, listed_inventory(context), run, context)
        run.details = PruneDetails(kept=len(plan.keep), removed=plan.removed_ids)
    return run.report, plan


def release_hold(source: str, context: TaskContext) -> bool:
    """End the hold on `source` because an operator says so; returns whether there was one.

    A source that can no longer be read is accepted as it is: its next copy is published.
    """
    with context.exclusive_lock("prune"):
        context.recover()
        hold = context.holds.get(source)
        released = context.holds.release(source)
        if hold is not None and hold.unreadable:
            context.holds.accept(source)
    if released:
        context.emit(PruningReleased(source, by_operator=True))
    return released


def pin_generation(generation_id: str, request: PinRequest, context: TaskContext) -> Pin:
    """Pin one generation from now on. Only under the exclusive lock. Raises OSError."""
    now = context.clock()
    until = None if request.duration is None else now + request.duration
    pin = context.pins.set(Pin(generation_id, now, until, request.reason, request.label))
    context.emit(GenerationPinned(pin))
    return pin


def pin_if_possible(generation_id: str, request: PinRequest, run: Run[D], context: TaskContext) -> None:
    """Pin a generation during a run, which only degrades where the pin cannot be written.

    Only under the exclusive lock. A store on a read-only mount is left as it is, and the report notes that.
    """
    unpinned = f"{generation_id} could not be pinned, and the retention policy alone decides how long it stays"
    if not context.store.writable():
        run.note(f"{unpinned}: {context.store.directory} cannot be written")
        return
    try:
        pin_generation(generation_id, request, context)
    except OSError as error:
        run.warn(f"{unpinned}: {error.strerror} (backupd pin {generation_id} tries again)")


def unpin_generation(generation_id: str, reason: str, context: TaskContext) -> bool:
    """Release one pin; returns whether there was one. Only under the exclusive lock. Raises OSError."""
    released = context.pins.release(generation_id)
    if released:
        context.emit(GenerationUnpinned(generation_id, reason))
    return released


def pin_all(
    ids: Collection[str], request: PinRequest, elsewhere: Collection[str], context: TaskContext
) -> tuple[Pin, ...]:
    """Pin generations of the local store or known to be `elsewhere`: all of them, or none.

    Raises GenerationMissing, LockHeld, OSError.
    """
    with context.exclusive_lock("pin"):
        context.recover()
        store = context.store
        known = {stored.id for stored in store.list()} | {*store.lost(), *store.points()} | {*elsewhere}
        missing = [generation_id for generation_id in ids if generation_id not in known]
        if missing:
            raise GenerationMissing(
                f"there is no generation {', '.join(missing)[:300]!r}",
                "see backupd list; --store NAME looks for it at a replica",
            )
        return tuple(pin_generation(generation_id, request, context) for generation_id in ids)


def unpin_all(ids: Collection[str], context: TaskContext) -> frozenset[str]:
    """Release the pins on `ids`, and return those that were pinned. Raises LockHeld, OSError."""
    with context.exclusive_lock("unpin"):
        context.recover()
        return frozenset(one for one in ids if unpin_generation(one, "released by an operator", context))
