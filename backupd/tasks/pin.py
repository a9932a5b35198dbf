"""Pin generations, so that neither this store nor a replica prunes them, and release them again."""

from collections.abc import Collection, Mapping

from backupd.errors import GenerationMissing
from backupd.model import Pin
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.options import PinRequest
from backupd.tasks.reporter import D, GenerationPinned, GenerationUnpinned
from backupd.tasks.run import Run


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
