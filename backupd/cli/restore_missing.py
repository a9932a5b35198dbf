"""`backupd restore --if-missing`: at each start of a container, before its app."""

import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, NoReturn

from backupd.bootstrap.tasks import restore_request
from backupd.cli import common, output
from backupd.config import Config
from backupd.errors import BackupdError, CopyUnreadable, GenerationMissing, NewestUnusable, StoreUnusable
from backupd.model import LOCAL_STORE, AnyManifest, Manifest, Progress
from backupd.privileges import give_directories
from backupd.report import AnyReport
from backupd.stores.contract import Archives
from backupd.system.resources import total_bytes
from backupd.tasks.choice import LATEST, Accept, choose_database, require_newest
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory, recorded_path, require_same_database
from backupd.tasks.provenance import Provenance, choose_usable, refusal
from backupd.tasks.restore import RestoreRequest, RestoreResult
from backupd.tasks.restore.in_place import restore_in_place
from backupd.tasks.restore.recovery import database_exists


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which generation is wanted, and from which store."""

    id: str  # or `latest`
    at: datetime | None  # the newest at or before this time (aware)
    store: str | None  # None: the local one; with --if-missing also the replicas, one after the other

    def fitting(self, inventory: Inventory, databases: Iterable[Path]) -> Inventory:
        """Return `inventory`, where no id is wanted without what none of the disks of `databases` can hold."""
        directories = (next(place for place in path.absolute().parents if place.is_dir()) for path in databases)
        largest = max(directories, key=total_bytes, default=None)
        return inventory if self.id != LATEST or largest is None else inventory.refusing_oversized(largest)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done for one source. `there`: the database exists; `none`: it does not, and no store has a copy."""

    source: str
    outcome: Literal["there", "restored", "none", "failed"]
    report: AnyReport | None = None
    result: RestoreResult | None = None


def restore_missing(
    requests: Sequence[RestoreRequest],
    wanted: Wanted,
    config: Config,
    progress: Progress,
    *,
    allow_none: bool,
    accept_older: bool,
) -> Iterator[Outcome]:
    """Restore the databases of `requests` that are missing, and yield the outcome of each.

    The stores are read one after the other, as long as a source is missing. Raises GenerationMissing where no store has
    a copy, unless `allow_none` is set and nothing contradicts it; NewestUnusable or CopyUnreadable where a store has a
    newer one that cannot be used, unless `accept_older`; and errors of the connection.
    """
    names = (wanted.store,) if wanted.store else (LOCAL_STORE, *config.replicas)
    for name in names:
        common.require_store(name, config)
    missing = tuple(one for one in requests if not database_exists(one.path, empty_is_data=one.empty_is_data))
    yield from (Outcome(request.source, "there") for request in requests if request not in missing)
    if not missing:
        return
    context = common.open_context_for_restore(config, progress, reading=requests[0].dry_run)
    doubts: defaultdict[str, list[str]] = defaultdict(list)  # by source
    search = _Search(wanted, lambda _warning: accept_older, context)
    for name in names:
        if not missing:
            return
        with common.opened(name, config, context) as (archives, inventory):
            found = [search.choose(request, name, inventory) for request in missing]
            known = [(request, manifest) for request, manifest in found if manifest is not None]
            for request, (_, manifest) in zip(give_directories(known, config), known, strict=True):
                yield _restore(request, manifest, archives, context)
            missing = tuple(request for request, manifest in found if manifest is None)
            for request in missing:  # why this store should have a copy
                doubts[request.source] += _doubts(request.source, name, config, inventory)
    for request in missing:
        if doubts[request.source] or not allow_none:
            raise search.refused.get(request.source) or _no_copy(request.source, names, doubts[request.source])
        yield Outcome(request.source, "none")


class _Search:
    """Looks for copies in one store after the other, and uses none where a store has a newer one, unless accepted."""

    def __init__(self, wanted: Wanted, accept: Accept, context: TaskContext) -> None:
        self._wanted, self._accept, self._context = wanted, accept, context
        self._read: dict[str, Inventory] = {}  # by store
        self.refused: dict[str, BackupdError] = {}  # by source

    def choose(
        self, request: RestoreRequest, store: str, inventory: Inventory
    ) -> tuple[RestoreRequest, Manifest | None]:
        """Return what is to be restored from `store` (None: nothing), and the request with what was accepted."""
        inventory = self._wanted.fitting(inventory, [request.path])
        self._read[store], newer = inventory, list[str]()
        try:
            manifest = _chosen(request, self._wanted, store, inventory, self._context)
            if manifest is not None and self._wanted.id == LATEST:
                newer = [require_newest(manifest, one, self._accept, self._wanted.at) for one in self._read.values()]
        except (NewestUnusable, CopyUnreadable, StoreUnusable) as error:  # the next store may have the newest
            self.refused.setdefault(request.source, error)
            return request, None
        return replace(request, warnings=tuple(filter(None, newer))), manifest


def print_outcomes(outcomes: Iterable[Outcome], config: Config, *, as_json: bool) -> NoReturn:
    """Print each outcome as it comes; exit 0 where no restore failed."""
    seen = []
    for outcome in outcomes:
        seen.append(outcome)
        if not as_json:
            _print(outcome, config)
        if outcome.report is not None:
            output.print_problems(outcome.report)
    if as_json:
        output.print_json([_facts(outcome) for outcome in seen])
    sys.exit(common.worst_exit(outcome.report for outcome in seen if outcome.outcome == "failed" and outcome.report))


def _chosen(
    request: RestoreRequest, wanted: Wanted, store: str, inventory: Inventory, context: TaskContext
) -> Manifest | None:
    """Return the wanted generation of the source, None where `store` has no verified one of it.

    Copies by another store are used only for a database at the same path, since no operator checks their origin here.
    Raises ForeignCopies, OtherDatabase, CopyUnreadable.
    """
    source = request.source
    if wanted.id == LATEST and inventory.last_verified(source) is None:
        inventory.require_readable(source)
        return None
    if store == LOCAL_STORE:
        manifest = choose_database(inventory, wanted.id, source, wanted.at)
        if wanted.id == LATEST:
            require_same_database(manifest, inventory, request.path)
        return manifest
    claims = common.read_claims(context)
    manifest = choose_usable(inventory, claims, wanted.id, source, wanted.at, store)
    if wanted.id == LATEST:
        _require_same_path(manifest, request, store, inventory, claims)
    common.warn_of_foreign((manifest,), inventory, claims, store)
    return manifest


def require_same_path(
    manifests: Iterable[AnyManifest],
    requests: Iterable[RestoreRequest],
    store: str,
    inventory: Inventory,
    context: TaskContext,
) -> None:
    """Refuse copies at a replica that another store has made of another path. Raises ForeignCopies."""
    if store == LOCAL_STORE:
        return
    claims, of_source = common.read_claims(context), {request.source: request for request in requests}
    for manifest in manifests:
        if manifest.source in of_source:
            _require_same_path(manifest, of_source[manifest.source], store, inventory, claims)


def _require_same_path(
    manifest: AnyManifest, request: RestoreRequest, store: str, inventory: Inventory, claims: Provenance
) -> None:
    if not claims.counts(manifest) and manifest.origin.path != recorded_path(request.path):
        what = f"not restored to {request.path} automatically; if they are of this app, give an ID, or restore by hand"
        raise refusal(claims.foreign(inventory, request.source), store, what, inventory.now)


def _doubts(source: str, store: str, config: Config, inventory: Inventory) -> Iterator[str]:
    """Yield why a store should have a verified copy of `source`, and has none."""
    if inventory.of(source):
        yield f"store {store} has copies of {source}, none of them verified"
    elif others := {generation.source for generation in inventory.generations} - set(config.sources):
        yield f"store {store} has copies of {', '.join(sorted(others))}, and no source of that name is configured"


def _no_copy(source: str, stores: Sequence[str], doubts: Sequence[str]) -> GenerationMissing:
    if doubts:
        hint = f"see backupd list --store {stores[-1]}; correct that, or start the app once without --if-missing"
        return GenerationMissing("; ".join(doubts), hint)
    where = ", ".join(stores)
    return GenerationMissing(
        f"the database of {source} does not exist, and neither does a copy in {where}",
        "on the very first start: --allow-none",
    )


def _restore(request: RestoreRequest, manifest: Manifest, store: Archives, context: TaskContext) -> Outcome:
    report, result = restore_in_place(lambda: manifest, request, store, context)
    if report.outcome == "failed":
        return Outcome(request.source, "failed", report)
    return Outcome(request.source, "restored" if result else "there", report, result)


def _facts(outcome: Outcome) -> dict[str, object]:
    facts: dict[str, object] = {"source": outcome.source, "outcome": outcome.outcome}
    if outcome.result is not None:
        return asdict(outcome.result) | facts
    if outcome.report is not None and outcome.report.outcome == "failed":
        return output.failure_facts(outcome.report) | facts
    return facts


def _print(outcome: Outcome, config: Config) -> None:
    path = config.sources[outcome.source].path
    match outcome.outcome:
        case "there":
            output.echo(f"{outcome.source}: {path} exists: nothing to restore")
        case "none":
            output.echo(f"{outcome.source}: {path} does not exist, and there is no copy yet: nothing to restore")
        case "restored" if outcome.result is not None:
            output.print_restored(outcome.result, config.schedule.timezone, as_json=False)


def knowing_copies(
    store: str | None, wanted: Collection[str], config: Config, progress: Progress, *, if_missing: bool
) -> Config:
    """Return `config` with the lost databases of a directory that have copies, as on a new machine.

    Where a directory has none now, or a source is `wanted` that is not known, they are looked for in `store`; with
    `if_missing` in all stores, until no directory is without any.
    """
    names = (store,) if store or not if_missing else (*config.replicas,)
    for name in names:
        sets = config.source_sets
        if name in (None, LOCAL_STORE) or sets is None or not (sets.empty() or {*wanted} - config.sources.keys()):
            break
        context = common.open_context_for_restore(config, progress, reading=True)
        with common.opened(str(name), config, context) as (_, inventory):
            newest = (inventory.last_database(source) for source in {one.source for one in inventory.generations})
            config = config.with_source_sets(sets.knowing(one for one in newest if one is not None))
    return config


def missing_request(source: str, config: Config, *, stopped: bool, dry_run: bool) -> RestoreRequest:
    """Return the request to restore the database of `source` if it is missing. Raises UsageError."""
    request = restore_request(config, source, stopped=stopped, dry_run=dry_run)
    settings, member = config.sources[source], config.member(source)
    if member is not None and member.path == member.search.path:  # a directory without any database
        request = replace(request, path=member.search.directory / (member.search.pattern or "*"))
    is_missing = not Path(settings.path).exists()  # then no process has it open, on this host or another
    return replace(request, if_missing=True, empty_is_data=settings.allow_empty, stopped=stopped or is_missing)
