"""What stays and what goes: the retention policy, applied by plan and act, and the pins that exempt generations."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from backupd.model import RetentionPlan, source_of
from backupd.report import PruneDetails, RunReport
from backupd.retention import plan_retention
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import Inventory, histories
from backupd.tasks.reporter import D, GenerationRemoved, PruningReleased, RemovalBegins
from backupd.tasks.requests import RetentionRule
from backupd.tasks.run import Run

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog
from collections.abc import Mapping

from backupd.errors import GenerationMissing
from backupd.model import Pin
from backupd.tasks.reporter import GenerationPinned, GenerationUnpinned
from backupd.tasks.requests import PinRequest


def plan_for(source: str, retention: RetentionRule, inventory: Inventory, context: TaskContext) -> RetentionPlan:
    """Return what would stay and go now, and why."""
    hold, pins, now = context.holds.get(source), context.pins.all(), context.clock()
    plans = [
        plan_retention(generations, retention.policy, now, retention.timezone, hold, pins)
        for generations in histories(inventory.of(source), inventory.manifests_of(source))
    ]
    return RetentionPlan(
        tuple(kept for plan in plans for kept in plan.keep), tuple(removed for plan in plans for removed in plan.remove)
    )


def expire(source: str, retention: RetentionRule, run: Run[D], context: TaskContext) -> RetentionPlan:
    """Remove what the policy lets go; `SHA256SUMS` is right at every instant. Only with the store locked."""
    inventory = read_inventory(context)
    _reconcile(inventory, context)
    for trouble in inventory.troubles():
        run.warn(trouble)
    plan = plan_for(source, retention, inventory, context)
    going = {removed.generation.id for removed in plan.remove}
    with run.stage("expire"):
        staying = {key: digest for key, digest in inventory.digests().items() if key not in going}
        context.store.write_checksums(staying)
        for removed in plan.remove:
            remove_generation(removed.generation.id, removed.reason, context)
    _sweep_pins(source, inventory, going, context)
    return plan


def removed_by(plan: RetentionPlan) -> tuple[str, ...]:
    """Return the ids of the generations that a plan removes."""
    return tuple(removed.generation.id for removed in plan.remove)


def _reconcile(inventory: Inventory, context: TaskContext) -> None:
    """Let the catalog know just what is in the store: a kill, or a catalog on a full disk, has set them apart."""
    name, there = context.store.name, {g.id for g in inventory.generations if g.id not in inventory.lost}

    def reconcile(catalog: "Catalog") -> None:
        known = {key for key, stores in catalog.copies().items() if name in stores}
        for key in known - there:
            catalog.remove_copy(key, name)
        for key in inventory.manifests.keys() - known:
            catalog.add_generation(inventory.manifests[key], name)

    context.write_catalog(reconcile)


def _sweep_pins(source: str, inventory: Inventory, removed: Collection[str], context: TaskContext) -> None:
    """Remove the pins of `source` whose time is over and whose generations are gone, here and at every replica.

    The clock is that of retention, the newest generation. A pin stays beside its generation: a clock that ran ahead
    only seemed to end it.
    """
    newest = inventory.last_verified(source)
    if newest is None:
        return
    there = {generation.id for generation in inventory.generations if generation.id not in removed}
    for pin in context.pins.all().values():
        over = source_of(pin.generation) == source and not pin.holds(newest.taken_at)
        if over and pin.generation not in there and not context.copies().get(pin.generation):
            unpin_generation(pin.generation, "its time is over", context)


def remove_generation(generation: str, reason: str, context: TaskContext) -> None:
    """Remove one generation of the local store and what is known of its copy here. Only with the store locked."""
    context.emit(RemovalBegins(generation, context.store.name))
    context.store.remove(generation)
    context.marks.clear(generation)
    context.emit(GenerationRemoved(generation, context.store.name, reason))


def prune(source: str, retention: RetentionRule, context: TaskContext) -> tuple[RunReport[PruneDetails], RetentionPlan]:
    """Apply the policy to one source now, as a run of its own; returns what was decided too (nothing if it failed)."""
    plan = RetentionPlan((), ())
    with context.run("prune", source, PruneDetails()) as run, context.exclusive_lock("prune"):
        context.recover()
        run.start()
        plan = expire(source, retention, run, context)
        run.details = PruneDetails(kept=len(plan.keep), removed=removed_by(plan))
    return run.report, plan


def release_hold(source: str, context: TaskContext) -> bool:
    """End the hold on `source` by an operator's word; False when nothing held it.

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
    """Pin one generation from now on, and log it. Only with the store locked. Raises OSError."""
    now = context.clock()
    until = None if request.duration is None else now + request.duration
    pin = context.pins.set(Pin(generation_id, now, until, request.reason, request.label))
    context.emit(GenerationPinned(pin))
    return pin


def pin_if_possible(generation_id: str, request: PinRequest, run: Run[D], context: TaskContext) -> None:
    """Pin a generation in the course of a run, which goes on, degraded, where the pin cannot be written.

    Only with the store locked; to a store on a read-only mount nothing is written, and the report notes it.
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
    """Release the pin of one generation, and log why; False when it was not pinned.

    Only with the store locked. Raises OSError.
    """
    released = context.pins.release(generation_id)
    if released:
        context.emit(GenerationUnpinned(generation_id, reason))
    return released


def pin_all(
    ids: Collection[str], request: PinRequest, elsewhere: Collection[str], context: TaskContext
) -> tuple[Pin, ...]:
    """Pin generations of the local store, and those that are known to be `elsewhere`: all of them, or none.

    Raises GenerationMissing, LockHeld, OSError.
    """
    with context.exclusive_lock("pin"):
        context.recover()
        known = {stored.id for stored in context.store.list()} | {*context.store.lost()} | {*elsewhere}
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


def pins_in_force(inventory: Inventory, context: TaskContext) -> Mapping[str, Pin]:
    """Return the pins that hold on generations of `inventory`, by id, as retention sees it. Raises OSError."""
    pins = context.pins.all()
    reached = {generation.source: inventory.now for generation in inventory.generations}
    for source in reached:
        if last := inventory.last_verified(source):
            reached[source] = last.taken_at
    pinned = {g.id: (pins[g.id], reached[g.source]) for g in inventory.generations if g.id in pins}
    return {key: pin for key, (pin, at) in pinned.items() if pin.holds(at)}
