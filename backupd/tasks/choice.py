"""Which generation an operator means, and the newer ones that are skipped: never silently."""

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Final

from backupd.errors import BackupdError, CopyUnreadable, GenerationMissing, GenerationTaken, NewestUnusable, UsageError
from backupd.formatting import local_time
from backupd.model import LOCAL_STORE, AnyManifest, Generation, Manifest, source_of
from backupd.tasks.inventory import Inventory

LATEST: Final = "latest"
_MAX_NAMED: Final = 3
Choose = Callable[[], Manifest]
Accept = Callable[[str], bool]  # gets a warning: whether the operator takes an older generation all the same


def never(_warning: str) -> bool:
    """Accept no older generation: no operator is there to ask."""
    return False


def choose_database(inventory: Inventory, wanted: str, source: str | None, at: datetime | None) -> Manifest:
    """Return the generation of a database that an operator means, as `choose_generation` does.

    Raises UsageError for one of a set of files.
    """
    if at is None and wanted in inventory.manifests and wanted not in inventory.refused:
        return require_database(inventory.manifests[wanted])
    if source is not None and inventory.of(source) and not inventory.databases().of(source):
        raise _set_of_files(source, source)
    return require_database(choose_generation(inventory.databases(), wanted, source, at))


def require_database(manifest: AnyManifest) -> Manifest:
    """Return `manifest` as that of a database. Raises UsageError for that of a set of files."""
    if isinstance(manifest, Manifest):
        return manifest
    raise _set_of_files(manifest.id, manifest.source)


def _set_of_files(what: str, source: str) -> UsageError:
    return UsageError(
        f"{what} is a set of files, not a database",
        f"restore it with a restore point that it is part of: backupd restore --point latest --only {source}; "
        "backupd list --points shows the others",
    )


def choose_generation(inventory: Inventory, wanted: str, source: str | None, at: datetime | None) -> AnyManifest:
    """Return the generation that an operator means: by id, `latest`, or the newest taken at or before `at`.

    Damaged ones and those dated in the future are meant by id alone; `accepted_choice` tells which newer ones of them
    are passed over. Raises GenerationMissing; for a refused one CopyUnreadable, StoreUnusable, GenerationTaken,
    ManifestInvalid; UsageError when it is not clear of which source.
    """
    if at is None and wanted != LATEST:
        if wanted in inventory.refused:
            raise inventory.refusal(wanted)
        if wanted not in inventory.manifests:
            raise GenerationMissing(f"there is no generation {wanted}", f"see {inventory.list_command}")
        return inventory.manifests[wanted]
    names = {g.source for g in inventory.generations if inventory.counts(g)}
    if source is None and len(names) > 1:
        raise UsageError(f"which source: {', '.join(sorted(names))}?", "name it with --source")
    for generation in inventory.generations:
        fits = inventory.counts(generation) and source in (None, generation.source)
        if fits and (at is None or generation.taken_at <= at):
            return inventory.manifests[generation.id]
    inventory.require_readable(source)
    raise _none_fits(inventory, source, at)


def _none_fits(inventory: Inventory, source: str | None, at: datetime | None) -> GenerationMissing:
    """Return the error, which shows times in the zone of `at`: it may have been meant in another one."""
    counting = [g for g in inventory.generations if inventory.counts(g)]
    sound = [g for g in counting if source in (None, g.source)]
    others = ", ".join(sorted({g.source for g in counting}))
    if not sound and others and source is not None:
        return GenerationMissing(
            f"there is no verified generation of {source}, but of {others}", "name one with --source"
        )
    if at is None or not sound:
        if not inventory.generations:
            return GenerationMissing(f"there is no generation in store {inventory.store}", inventory.how_to_fill)
        return GenerationMissing("there is no verified generation that fits", f"see {inventory.list_command}")
    zone, oldest = at.tzinfo or UTC, sound[-1]
    return GenerationMissing(
        f"there is no verified generation at or before {local_time(at, zone, seconds=True)}; "
        f"the oldest is {oldest.id}, taken at {local_time(oldest.taken_at, zone, seconds=True)}",
        f"see {inventory.list_command}; a time without a zone is one of schedule.timezone",
    )


def warning_of_newer(chosen: AnyManifest, inventory: Inventory, at: datetime | None = None) -> str:
    """Return which newer generations of the source of `chosen` are skipped, and why; empty for none.

    With `at` only those count that were taken by then.
    """
    reasons = [
        _why_passed_over(generation, inventory)
        for generation in _newer(chosen, inventory)
        if (at is None or generation.taken_at <= at) and not inventory.counts(generation)
    ]
    if not reasons:
        return ""
    more = f" and {len(reasons) - _MAX_NAMED} more" if len(reasons) > _MAX_NAMED else ""
    newer = f"{inventory.store} has newer generations of {chosen.source} than {chosen.id} that cannot be used"
    return f"{newer}: {'; '.join(reasons[:_MAX_NAMED])}{more}"


def require_newest(
    chosen: AnyManifest, inventory: Inventory, accept: Accept, at: datetime | None = None, zone: tzinfo = UTC
) -> str:
    """Return the warning that an operator has accepted with `chosen`, empty if no newer one is skipped.

    The error shows times in `zone`.
    Raises NewestUnusable unless it is accepted; CopyUnreadable where a newer one cannot be read now, GenerationTaken
    where one was replaced.
    """
    warning = warning_of_newer(chosen, inventory, at)
    if not warning or accept(warning):
        return warning
    kind: type[BackupdError] = NewestUnusable
    if any(_newer(chosen, inventory, inventory.unreadable)) and inventory.store != LOCAL_STORE:
        kind = CopyUnreadable
    elif any(_newer(chosen, inventory, inventory.replaced)):
        kind = GenerationTaken
    raise kind(
        warning,
        f"take the newest from another store (backupd list); --accept-older takes {chosen.id}, of "
        f"{local_time(chosen.taken_at, zone)}",
    )


def accepting_damage(accept: Accept, chosen: AnyManifest, inventory: Inventory) -> Accept:
    """Return `accept` where a newer generation may be good, or was replaced; damage alone needs no acceptance."""
    in_doubt = any(_newer(chosen, inventory, inventory.unreadable | inventory.replaced))
    return accept if in_doubt else lambda _warning: True


def _newer(chosen: AnyManifest, inventory: Inventory, ids: Collection[str] | None = None) -> Iterator[Generation]:
    """Yield the generations of the source of `chosen` with a later id, of those `ids` (None: all)."""
    order = _order(chosen.id)
    for generation in inventory.of(chosen.source):
        if (ids is None or generation.id in ids) and _order(generation.id) > order:
            yield generation


def _why_passed_over(generation: Generation, inventory: Inventory) -> str:
    key = generation.id
    if key in inventory.refused:
        return inventory.refused[key]
    if generation.damaged:
        return f"{key} is damaged"
    return f"{key} is dated in the future" if generation.verified else f"{key} was corrupt when it was created"


def _order(generation_id: str) -> tuple[str, int]:
    """Return the time in an id and the number of its attempt in that minute, of ids of one source in their order."""
    date, minute, *attempt = generation_id.removeprefix(f"{source_of(generation_id)}-").split("-")
    return f"{date}{minute}", int(*attempt or (1,))
