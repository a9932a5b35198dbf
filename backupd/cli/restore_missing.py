"""`backupd restore --if-missing`: at each start of a container, before its app."""

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, NoReturn

import click

from backupd.cli.common import claims_at, opened, print_json, print_trouble, require_store, tell_whose, worst_exit
from backupd.cli.places import replacement, restore_site, with_directories
from backupd.cli.restored import print_done
from backupd.config import Config
from backupd.errors import GenerationMissing
from backupd.model import LOCAL_STORE, Manifest, Progress
from backupd.report import AnyReport
from backupd.stores.contract import Archives
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import LATEST, Inventory, choose_generation, recorded_path, require_same_database
from backupd.tasks.provenance import choose_usable, refusal
from backupd.tasks.restore.in_place import InPlaceResult, RestoreRequest, replace_database
from backupd.tasks.restore.presence import database_is_there

Requests = tuple[RestoreRequest, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which generation of each source is wanted, and from which store (None: the local one, else the replicas)."""

    id: str
    at: datetime | None
    store: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one source. `there`: a database is; `none`: there is none, and no copy in any store."""

    source: str
    outcome: Literal["there", "restored", "none", "failed"]
    report: AnyReport | None = None
    done: InPlaceResult | None = None


def restore_missing(
    requests: Requests, wanted: Wanted, config: Config, progress: Progress, *, allow_none: bool
) -> Iterator[Outcome]:
    """Restore the databases of `orders` that are missing; yield what became of each.

    The stores are asked one after the other, and only while a source is missing. Raises GenerationMissing where no
    store has a copy of one, unless `allow_none`, and where that may be a mistake; what opening the replica raises.
    """
    names = (wanted.store,) if wanted.store else (LOCAL_STORE, *config.replicas)
    for name in names:
        require_store(name, config)
    there = {
        request.source for request in requests if database_is_there(request.path, empty_is_data=request.empty_is_data)
    }
    yield from (Outcome(request.source, "there") for request in requests if request.source in there)
    missing = tuple(request for request in requests if request.source not in there)
    context = restore_site(config, progress, reading=requests[0].dry_run) if missing else None
    doubts: list[tuple[str, str]] = []
    for name in names:
        if missing and context is not None:
            missing = yield from _from_store(name, missing, wanted, config, context, doubts)
    for request in missing:
        why = [what for source, what in doubts if source == request.source]
        if why or not allow_none:
            raise _no_copy(request.source, names, why)
        yield Outcome(request.source, "none")


def _from_store(
    name: str, missing: Requests, wanted: Wanted, config: Config, context: TaskContext, doubts: list[tuple[str, str]]
) -> Generator[Outcome, None, Requests]:
    """Restore from one store what it has of `missing`; return the rest, and add to `doubts` what is odd about that."""
    with opened(name, config, context) as (place, inventory):
        found = [(request, _chosen(request, wanted, name, inventory, context)) for request in missing]
        known = [(request, manifest) for request, manifest in found if manifest is not None]
        for request, (_, manifest) in zip(with_directories(known, config), known, strict=True):
            yield _restored(request, manifest, place, context)
        rest = tuple(request for request, manifest in found if manifest is None)
        doubts += [
            (request.source, why) for request in rest for why in _doubts(request.source, name, config, inventory)
        ]
    return rest


def print_outcomes(outcomes: Iterable[Outcome], config: Config, *, as_json: bool) -> NoReturn:
    """Print what became of each source as it comes; exit 0 where each has its database, or there is no copy of it."""
    seen = []
    for outcome in outcomes:
        seen.append(outcome)
        if not as_json:
            _print(outcome, config)
        if outcome.report is not None:
            print_trouble(outcome.report)
    if as_json:
        print_json([_facts(outcome) for outcome in seen])
    sys.exit(worst_exit(outcome.report for outcome in seen if outcome.outcome == "failed" and outcome.report))


def _chosen(
    request: RestoreRequest, wanted: Wanted, store: str, inventory: Inventory, context: TaskContext
) -> Manifest | None:
    """Return the generation that is wanted for `order`, None where `store` has no verified one of its source at all.

    Copies of another store are taken only for a database at the same path, since no operator looks at whose they are.
    Raises ForeignCopies, OtherDatabase.
    """
    source = request.source
    if wanted.id == LATEST and inventory.last_verified(source) is None:
        return None
    if store == LOCAL_STORE:
        manifest = choose_generation(inventory, wanted.id, source, wanted.at)
        if wanted.id == LATEST:
            require_same_database(manifest, inventory, request.path)
        return manifest
    claims = claims_at(store, inventory, source, context)
    manifest = choose_usable(inventory, claims, wanted.id, source, wanted.at, store)
    if wanted.id == LATEST and not claims.counts(manifest) and manifest.origin.path != recorded_path(request.path):
        consequence = f"not restored to {request.path} by itself: if they are of this app, give an ID, or do it by hand"
        raise refusal(claims.foreign(inventory, source), store, consequence, inventory.now)
    tell_whose(manifest, inventory, claims, store)
    return manifest


def _doubts(source: str, store: str, config: Config, inventory: Inventory) -> Iterator[str]:
    """Yield why a store without a verified copy of `source` does not prove that there never was one."""
    if inventory.of(source):
        yield f"store {store} has copies of {source}, none of them verified"
    others = {generation.source for generation in inventory.generations} - set(config.sources)
    if others and not inventory.of(source):
        yield f"store {store} has copies of {', '.join(sorted(others))}, which no source here is called"


def _no_copy(source: str, stores: Sequence[str], doubts: Sequence[str]) -> GenerationMissing:
    if doubts:
        hint = f"see backupd list --store {stores[-1]}; put that right, or start the app once without --if-missing"
        return GenerationMissing("; ".join(doubts), hint)
    where = ", ".join(stores)
    return GenerationMissing(
        f"there is no database of {source}, and no copy of it in {where}",
        "on the very first start, when there is none yet: --allow-none",
    )


def _restored(request: RestoreRequest, manifest: Manifest, place: Archives, context: TaskContext) -> Outcome:
    report, done = replace_database(lambda: manifest, request, place, context)
    if report.outcome == "failed":
        return Outcome(request.source, "failed", report)
    if done is None:
        return Outcome(request.source, "there", report)
    return Outcome(request.source, "restored", report, done)


def _facts(outcome: Outcome) -> dict[str, object]:
    facts: dict[str, object] = {"source": outcome.source, "outcome": outcome.outcome}
    if outcome.done is not None:
        return asdict(outcome.done) | facts
    report = outcome.report
    if report is not None and report.outcome == "failed":
        facts |= {"error": report.error, "hint": report.hint, "exit_code": report.exit_code}
    return facts


def _print(outcome: Outcome, config: Config) -> None:
    path = config.sources[outcome.source].path
    match outcome.outcome:
        case "there":
            click.echo(f"{outcome.source}: there is a database at {path}: nothing to restore")
        case "none":
            click.echo(f"{outcome.source}: no database at {path}, and no copy of it yet: nothing to restore")
        case "restored" if outcome.done is not None:
            print_done(outcome.done, config, as_json=False)


def missing_request(source: str, config: Config, *, stopped: bool, dry_run: bool) -> RestoreRequest:
    """Return the order to restore the database of `source` if it is missing. Raises UsageError."""
    request = replacement(source, config, stopped=stopped, dry_run=dry_run)
    settings = config.sources[source]
    nothing_there = not Path(settings.path).exists()  # then no process has it open, on this host or another
    return replace(request, if_missing=True, empty_is_data=settings.allow_empty, stopped=stopped or nothing_there)
