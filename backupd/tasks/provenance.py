"""Whose generations a replica holds: those of this store, and those that another store may still need.

Every manifest names the store that made it. What another store made is neither pruned nor overwritten, fills no place
of a retention policy, and is proven or restored only where this store has nothing of that source itself.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from backupd.errors import ForeignCopies, GenerationMissing
from backupd.formatting import counted, human_duration
from backupd.model import Manifest
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import LATEST, Inventory, choose_generation

_WITH_ADOPT = "the same command with --adopt"


@dataclass(frozen=True, slots=True)
class Foreign:
    """The generations of `source` that the store of the identity `store` has made, newest first; at least one."""

    source: str
    store: str
    manifests: tuple[Manifest, ...]

    @property
    def ids(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(manifest.id for manifest in self.manifests)

    def words(self, now: datetime) -> str:
        """Tell of which store and database they are, and how old the newest is at `now`."""
        newest = self.manifests[0]
        age = human_duration(max(0.0, (now - newest.taken_at).total_seconds()))
        what = counted(len(self.manifests), "generation")
        return f"{what} by store {self.store}, of {newest.origin.path}, the newest {newest.id}, {age} old"


@dataclass(frozen=True, slots=True)
class Claims:
    """Whose generations count as this store's own, and of which `sources` it has made some.

    What an adopted store made counts up to a time: a store that made more afterwards was not lost.
    """

    own: str | None
    adopted: Mapping[str, datetime]
    sources: frozenset[str]

    def counts(self, manifest: Manifest) -> bool:
        """Tell whether a generation counts as own."""
        until = self.adopted.get(manifest.store)
        return manifest.store == self.own or (until is not None and manifest.taken_at <= until)

    def foreign(self, there: Inventory, source: str | None = None) -> tuple[Foreign, ...]:
        """Return what does not count as own, of one source or all; the store with the newest first."""
        found = defaultdict[tuple[str, str], list[Manifest]](list)
        for generation in there.generations:
            manifest = there.manifests.get(generation.id)
            if manifest and source in (None, manifest.source) and not self.counts(manifest):
                found[manifest.source, manifest.store].append(manifest)
        return tuple(Foreign(*key, tuple(manifests)) for key, manifests in found.items())

    def usable(self, there: Inventory) -> Inventory:
        """Leave out what is foreign, but for the sources of which this store has made nothing: after a disaster."""
        found = self.foreign(there)
        return there.without(key for group in found if group.source in self.sources for key in group.ids)


def claims_of(here: Inventory, context: TaskContext) -> Claims:
    """Return whose generations count as own, given what is `here`: whatever lies in the local store does as well.

    Changes nothing. Raises OSError.
    """
    adopted = dict(context.identities.adopted())
    own = context.identities.own() or next((m.store for m in newest_first(here)), None)
    for manifest in here.manifests.values():
        if manifest.store != own:
            adopted[manifest.store] = max(manifest.taken_at, adopted.get(manifest.store, manifest.taken_at))
    return Claims(own, adopted, frozenset(generation.source for generation in here.generations))


def newest_first(inventory: Inventory) -> list[Manifest]:
    """Return the sound manifests of an inventory in its order."""
    found = (inventory.manifests.get(generation.id) for generation in inventory.generations)
    return [manifest for manifest in found if manifest is not None]


def refusal(
    foreign: Sequence[Foreign], name: str, consequence: str, now: datetime, adopting: str = ""
) -> ForeignCopies:
    """Return the error that says whose copies replica `name` holds, that `consequence`, and the ways out.

    `adopting` is how this command adopts them, where it can itself.
    """
    source = ", ".join(sorted({group.source for group in foreign}))
    whose = "; ".join(group.words(now) for group in foreign)
    return ForeignCopies(
        f"{name} holds copies of {source} that another store has made ({whose}): {consequence}",
        f"give this app a directory of its own in the url of {name}, or its source another name; "
        f"if this machine goes on for one that was lost: {adopting or f'backupd replicate --to {name} --adopt'}",
    )


def choose_usable(
    there: Inventory, claims: Claims, wanted: str, source: str | None, at: datetime | None, name: str
) -> Manifest:
    """Choose a generation of replica `name` as `choose_generation` does, but none that this store may not restore.

    Raises ForeignCopies as well.
    """
    usable = claims.usable(there)
    hidden = [group for group in claims.foreign(there, source) if not group.ids <= usable.manifests.keys()]
    by_id = at is None and wanted != LATEST
    consequence = "they are not used in place of this store's own"
    if by_id and (meant := [group for group in hidden if wanted in group.ids]):
        raise refusal(meant, name, consequence, there.now, _WITH_ADOPT)
    try:
        manifest = choose_generation(usable, wanted, source, at)
    except GenerationMissing:
        if hidden and not by_id:
            raise refusal(hidden, name, consequence, there.now, _WITH_ADOPT) from None
        raise
    rivals = claims.foreign(usable, manifest.source)
    if not by_id and not is_succession(rivals):
        raise refusal(rivals, name, "say which you mean by its id (backupd list)", there.now)
    return manifest


def is_succession(foreign: Sequence[Foreign]) -> bool:
    """Tell whether stores followed each other, as on machines that were lost: one database path, one after another."""
    paths = {manifest.origin.path for group in foreign for manifest in group.manifests}
    spans = sorted((group.manifests[0].taken_at, group.manifests[-1].taken_at) for group in foreign)
    return len(paths) <= 1 and all(newest < oldest for (newest, _), (_, oldest) in pairwise(spans))
