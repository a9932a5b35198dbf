"""Whose generations a replica holds: those of this store, and those that another store may still need.

Every manifest names the store that made it. What another store made is neither pruned nor overwritten, fills no place
of a retention policy, and is drilled or restored only where this store has made nothing of that source.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from backupd.errors import AdoptionRefused, ForeignCopies, GenerationMissing
from backupd.formatting import counted, human_duration
from backupd.model import AnyManifest, Manifest, RestorePoint
from backupd.tasks.choice import LATEST, choose_database
from backupd.tasks.context import TaskContext
from backupd.tasks.events import StoreAdopted
from backupd.tasks.inventory import Inventory
from backupd.tasks.prune import pin_generation
from backupd.tasks.requests import PinRequest

_WITH_ADOPT = "the same command with --adopt"


@dataclass(frozen=True, slots=True)
class ForeignGenerations:
    """The generations of one source that another store has made."""

    source: str
    store: str  # the identity of that store
    manifests: tuple[AnyManifest, ...]  # newest first; at least one

    @property
    def ids(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(manifest.id for manifest in self.manifests)

    def describe(self, now: datetime) -> str:
        """Return in words which store and database they are of, and how old the newest is at `now`."""
        newest = self.manifests[0]
        age = human_duration(max(0.0, (now - newest.taken_at).total_seconds()))
        what = counted(len(self.manifests), "generation")
        return f"{what} by store {self.store}, of {newest.origin.path}, the newest {newest.id}, {age} old"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which stores' generations count as this store's own."""

    own: str | None  # the identity of this store
    adopted: Mapping[str, datetime]  # until when the generations of other stores count, by identity
    sources: frozenset[str]  # that this store has generations of

    def counts(self, made: AnyManifest | RestorePoint) -> bool:
        """Return whether a generation or a restore point counts as own."""
        until = self.adopted.get(made.store)
        return made.store == self.own or (until is not None and made.taken_at <= until)

    def foreign(self, remote: Inventory, source: str | None = None) -> tuple[ForeignGenerations, ...]:
        """Return what does not count as own, of one source or all; the store with the newest generation first."""
        found = defaultdict[tuple[str, str], list[AnyManifest]](list)
        for generation in remote.generations:
            manifest = remote.manifests.get(generation.id)
            if manifest and source in (None, manifest.source) and not self.counts(manifest):
                found[manifest.source, manifest.store].append(manifest)
        return tuple(ForeignGenerations(*key, tuple(manifests)) for key, manifests in found.items())

    def usable(self, remote: Inventory) -> Inventory:
        """Return `remote` without foreign generations, except of sources that this store lost or never had."""
        found = self.foreign(remote)
        foreign = {key for group in found if group.source in self.sources for key in group.ids}
        return remote.without(foreign - remote.replaced)


def provenance_of(local: Inventory, context: TaskContext) -> Provenance:
    """Return whose generations count as own; those in the local store all do. Changes nothing. Raises OSError."""
    adopted = dict(context.identities.adopted())
    own = context.identities.own() or local.newest_identity()
    for manifest in local.manifests.values():
        if manifest.store != own:
            adopted[manifest.store] = max(manifest.taken_at, adopted.get(manifest.store, manifest.taken_at))
    return Provenance(own, adopted, frozenset(generation.source for generation in local.generations))


def refusal(
    foreign: Sequence[ForeignGenerations], name: str, consequence: str, now: datetime, adopting: str = ""
) -> ForeignCopies:
    """Return the error for foreign copies at replica `name`: whose they are, the `consequence`, and what to do.

    `adopting` is the command line that adopts them, if it is not that of a replication.
    """
    source = ", ".join(sorted({group.source for group in foreign}))
    whose = "; ".join(group.describe(now) for group in foreign)
    return ForeignCopies(
        f"{name} holds copies of {source} that another store has made ({whose}): {consequence}",
        f"give this app a directory of its own in the url of {name}, or its source another name; "
        f"if this machine replaces one that was lost: {adopting or f'backupd replicate --to {name} --adopt'}",
    )


def choose_usable(
    remote: Inventory, provenance: Provenance, wanted: str, source: str | None, at: datetime | None, name: str
) -> Manifest:
    """Choose a generation of replica `name` as `choose_database` does. Raises ForeignCopies for a foreign one."""
    usable = provenance.usable(remote)
    hidden = [group for group in provenance.foreign(remote, source) if not group.ids <= usable.manifests.keys()]
    by_id = at is None and wanted != LATEST
    consequence = "they are not used in place of this store's own"
    if by_id and (meant := [group for group in hidden if wanted in group.ids - remote.replaced]):
        raise refusal(meant, name, consequence, remote.now, _WITH_ADOPT)
    try:
        manifest = choose_database(usable, wanted, source, at)
    except GenerationMissing:
        if hidden and not by_id:
            raise refusal(hidden, name, consequence, remote.now, _WITH_ADOPT) from None
        raise
    rivals = provenance.foreign(usable.without(remote.replaced), manifest.source)
    if not by_id and not is_succession(rivals):
        raise refusal(rivals, name, "name it by its id (backupd list)", remote.now)
    return manifest


def is_succession(foreign: Sequence[ForeignGenerations]) -> bool:
    """Return whether stores followed each other, as on machines that were lost: of one path, one after another."""
    paths = {manifest.origin.path for group in foreign for manifest in group.manifests}
    spans = sorted((group.manifests[0].taken_at, group.manifests[-1].taken_at) for group in foreign)
    return len(paths) <= 1 and all(newest < oldest for (newest, _), (_, oldest) in pairwise(spans))


_ADOPTED: Final = PinRequest("adopted from a lost machine", timedelta(days=30))


def adopt(
    foreign: Sequence[ForeignGenerations],
    local: Inventory,
    remote: Inventory,
    name: str,
    context: TaskContext,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Provenance:
    """Adopt the stores that made the `foreign` generations at replica `name`; returns the provenance from then on.

    Refused for a store that is still in use, since it made a generation after this store had made one of that source,
    and for several stores of one source that overlap in time; `force` adopts them too. Raises AdoptionRefused,
    CopyUnreadable, LockHeld, StoreUnusable, OSError.
    """
    remote.require_readable()  # a generation of unknown origin could not be pinned
    now, provenance = context.clock(), provenance_of(local, context)
    if not force:
        _require_adoptable(foreign, local, remote, name, provenance)
    until = {group.store: now for group in foreign}
    for group in foreign:  # the clock of a machine that was lost may have run ahead
        until[group.store] = max(until[group.store], group.manifests[0].taken_at)
    if foreign and not dry_run:
        points = [key for key, point in remote.points.items() if point.store in until and not provenance.counts(point)]
        _pin_adopted([*points, *(key for group in foreign for key in group.ids)], context)
        context.identities.adopt(until)
        for group in foreign:
            what = f"adopted at {name}: {group.describe(now)}"
            context.emit(StoreAdopted(what, name, group.source, group.store))
    return replace(provenance, adopted={**provenance.adopted, **until})


def adopt_local(local: Inventory, remote: Inventory, context: TaskContext) -> None:
    """Adopt the stores of generations that an operator has put into the local store, up to the newest of each.

    What of these stores is at a replica, as `remote` says, counts from then on. Raises LockHeld, OSError.
    """
    known, provenance = context.identities.adopted(), provenance_of(local, context)
    if not provenance.adopted.items() - known.items() or remote.unreadable:  # which could not be pinned
        return
    before = replace(provenance, adopted=known)
    made = (*remote.manifests.values(), *remote.points.values())
    counted = [one.id for one in made if provenance.counts(one) and not before.counts(one)]
    _pin_adopted(counted, context)
    context.identities.adopt(provenance.adopted)


def _pin_adopted(ids: Collection[str], context: TaskContext) -> None:
    """Pin what is about to be adopted, since the pins of a lost machine are not known; then the policy decides."""
    with context.exclusive_lock("adopt"):
        context.recover()
        for generation_id in sorted(ids):
            pin_generation(generation_id, _ADOPTED, context)


def _require_adoptable(
    foreign: Sequence[ForeignGenerations], local: Inventory, remote: Inventory, name: str, provenance: Provenance
) -> None:
    hint = (
        f"give each app a directory of its own in the url of {name}; if these are machines of this app, and certainly "
        f"lost: backupd replicate --to {name} --adopt --force"
    )
    for group in foreign:
        if _is_in_use(group, local, remote, provenance):
            raise AdoptionRefused(
                f"{name} holds {group.describe(remote.now)}; this store had made copies of {group.source} before that: "
                "the other store seems to be in use, and was not adopted",
                hint,
            )
        rivals = [other for other in foreign if other.source == group.source]
        if not is_succession(rivals):
            whose = "; ".join(other.describe(remote.now) for other in rivals)
            raise AdoptionRefused(f"several stores have sent copies of {group.source} to {name}: {whose}", hint)


def _is_in_use(group: ForeignGenerations, local: Inventory, remote: Inventory, provenance: Provenance) -> bool:
    made = [
        m.taken_at
        for side in (local, remote)
        for m in side.manifests.values()
        if m.source == group.source and m.store == provenance.own
    ]
    return bool(made) and group.manifests[0].taken_at > min(made)
