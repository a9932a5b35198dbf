"""Go on with what a lost machine has sent: its store is adopted, and its copies count as own from then on."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from backupd.errors import AdoptionRefused
from backupd.log import Event
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.options import PinRequest
from backupd.tasks.pin import pin_generation
from backupd.tasks.provenance import Claims, Foreign, claims_of, is_succession

_ADOPTED: Final = PinRequest("adopted from a lost machine", timedelta(days=30))


def adopt(
    foreign: Sequence[Foreign],
    here: Inventory,
    there: Inventory,
    name: str,
    context: TaskContext,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Claims:
    """Adopt the stores that made the `foreign` generations at replica `name`; returns what counts as own then.

    Refused where one of them still lives: it made a generation after this store had made one of the same source,
    which a lost machine cannot; and where several of one source were at work in the same days. `force` adopts them all
    the same. Raises AdoptionRefused, LockHeld, StoreUnusable, OSError.
    """
    now, claims = context.clock(), claims_of(here, context)
    if not force:
        _refuse_doubtful(foreign, here, there, name, claims)
    until = {group.store: now for group in foreign}
    for group in foreign:  # the clock of a machine that was lost may have run ahead
        until[group.store] = max(until[group.store], group.manifests[0].taken_at)
    if foreign and not dry_run:
        _pin(foreign, context)
        context.identities.adopt(until)
        for group in foreign:
            what = f"adopted at {name}: {group.words(now)}"
            context.log.warning(Event.STORE_ADOPTED, what, store=name, source=group.source, identity=group.store)
    return replace(claims, adopted={**claims.adopted, **until})


def _pin(foreign: Sequence[Foreign], context: TaskContext) -> None:
    """Keep what is adopted for a month: what of it the lost machine had pinned is not known. Raises LockHeld, OSError.

    Before it counts as own, since from then on the retention policy decides about it.
    """
    with context.exclusive_lock("adopt"):
        context.recover()
        for generation_id in sorted(key for group in foreign for key in group.ids):
            pin_generation(generation_id, _ADOPTED, context)


def adopt_local(here: Inventory, context: TaskContext) -> None:
    """Adopt the stores of generations that an operator has put into the local store, as far as those reach."""
    adopted = claims_of(here, context).adopted
    if adopted.items() - context.identities.adopted().items():
        context.identities.adopt(adopted)


def _refuse_doubtful(foreign: Sequence[Foreign], here: Inventory, there: Inventory, name: str, claims: Claims) -> None:
    hint = (
        f"give each app a directory of its own in the url of {name}; if these are machines of this app, and lost for "
        f"certain: backupd replicate --to {name} --adopt --force"
    )
    for group in foreign:
        if _lives(group, here, there, claims):
            raise AdoptionRefused(
                f"{name} holds {group.words(there.now)}; this store had made copies of {group.source} before that: "
                "the other store seems to be at work, and was not adopted",
                hint,
            )
        rivals = [other for other in foreign if other.source == group.source]
        if not is_succession(rivals):
            whose = "; ".join(other.words(there.now) for other in rivals)
            raise AdoptionRefused(f"several stores have sent copies of {group.source} to {name}: {whose}", hint)


def _lives(group: Foreign, here: Inventory, there: Inventory, claims: Claims) -> bool:
    made = [
        m.taken_at
        for side in (here, there)
        for m in side.manifests.values()
        if m.source == group.source and m.store == claims.own
    ]
    return bool(made) and group.manifests[0].taken_at > min(made)
