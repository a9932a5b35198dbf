"""What is known of a site: how old the last proofs are, which sources are held, and which runs fail."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from backupd.catalog import CatalogUnavailable, LastRun, RunRecord, read_catalog
from backupd.errors import ErrorKind
from backupd.health import SOURCE_ERRORS, Failure, Freshness, HealthFacts, Limit, RefusedGeneration
from backupd.model import Task
from backupd.report import drill_of
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory, take_inventory

_OTHER_TASKS: Final[tuple[Task, ...]] = ("drill", "prune", "scrub")
_KILLED: Final = "find out what killed it (too little memory, a power cut)"


def read_health_facts(limits: Iterable[Limit], context: TaskContext, inventory: Inventory | None = None) -> HealthFacts:
    """Read how old each proof is that has a limit, and the rest of the facts; `inventory` is read where not given.

    Changes nothing, and raises nothing: what could not be found out is named. Of a source or replica that `limits` do
    not name nothing is said: it is not configured any more, or another daemon's.
    """
    limits = tuple(limits)
    try:
        facts = _health_facts(limits, inventory or present_inventory(context), context)
    except OSError:
        freshness = (Freshness(limit.task, limit.subject, None, limit.limit_s) for limit in limits)
        facts = HealthFacts(tuple(freshness), store_unreadable=True)
    return _with_runs(facts, limits, context)


def present_inventory(context: TaskContext) -> Inventory:
    """Return what the local store holds; one that is not there is no empty one. Raises OSError."""
    with os.scandir(context.store.directory):
        return take_inventory(context.store, context.clock(), context.marks.ids(), context.store.lost())


def _health_facts(limits: tuple[Limit, ...], inventory: Inventory, context: TaskContext) -> HealthFacts:
    """Return what store and catalog tell of proofs, holds and damage. Raises OSError."""
    sources = _sources(limits)
    freshness = [
        Freshness(limit.task, limit.subject, _last_at(limit, sources, inventory, context), limit.limit_s)
        for limit in limits
    ]
    holds = (context.holds.get(source) for source in sources)
    unverified = sorted((one.id, one.source) for one in inventory.generations if not one.verified)
    ours = [(key, source) for key, source in unverified if source in sources]
    return HealthFacts(
        tuple(freshness),
        tuple(hold for hold in holds if hold is not None),
        damaged=tuple((key, source) for key, source in ours if key not in inventory.refused),
        refused=tuple(
            RefusedGeneration(key, source, inventory.refused[key], archive_lost=key in inventory.lost)
            for key, source in ours
            if key in inventory.refused
        ),
    )


def _with_runs(facts: HealthFacts, limits: tuple[Limit, ...], context: TaskContext) -> HealthFacts:
    """Add to `facts` the runs that fail, or why they could not be read; without a catalog there was no run yet."""
    if not os.path.lexists(context.catalog_path):
        return facts
    try:
        with read_catalog(context.catalog_path) as catalog:
            last = catalog.last_runs(context.clock())
    except CatalogUnavailable as error:
        return replace(facts, catalog_error=error)
    by_subject = {(one.run.task, one.run.source): one for one in last}
    failures = (_failure(task, by_subject.get((task, subject))) for task, subject in _scheduled(limits))
    return replace(facts, failures=tuple(failure for failure in failures if failure is not None))


def _scheduled(limits: tuple[Limit, ...]) -> Iterator[tuple[Task, str]]:
    """Yield the tasks that are done by schedule, each with its subject: drills are limited by store, run by source."""
    sources, drills = _sources(limits), any(limit.task == "drill" for limit in limits)
    for source in sources:
        yield "backup", source
    yield from (("replicate", limit.subject) for limit in limits if limit.task == "replicate")
    for source in sources:
        yield from ((task, source) for task in _OTHER_TASKS if task != "drill" or drills)


def _failure(task: Task, last: LastRun | None) -> Failure | None:
    if last is None or last.failing_since is None:
        return None
    # What a run found wrong with the source stays so until one succeeds: a later one may not have got as far.
    run = next((one for one in last.failed if task == "backup" and _kind(one) in SOURCE_ERRORS), last.run)
    hint = _KILLED if run.report is None else run.report.hint or ""
    drill = drill_of(run.report)
    store = drill.store if drill else ""
    return Failure(task, run.source, _kind(run), last.failing_since, last.failures, run.error or "", hint, store)


def _kind(run: RunRecord) -> ErrorKind:
    return "interrupted" if run.report is None else run.report.error_kind or "other"


def _sources(limits: Iterable[Limit]) -> list[str]:
    return [limit.subject for limit in limits if limit.task == "backup"]


def _last_at(limit: Limit, sources: Iterable[str], inventory: Inventory, context: TaskContext) -> datetime | None:
    """Return when there was the last proof."""
    if limit.task == "backup":
        return last_verified_at(limit.subject, inventory, context)
    if limit.task == "drill":
        return _last_drill(limit.subject, sources, inventory.now, context)
    return _last_copy(limit.subject, inventory, context) if limit.task == "replicate" else None


def _last_drill(store: str, sources: Iterable[str], now: datetime, context: TaskContext) -> datetime | None:
    """Return since when every source has been restored from `store`; None where one never was."""
    try:
        with read_catalog(context.catalog_path) as catalog:
            runs = [catalog.last_success("drill", source, now, store) for source in sources]
    except CatalogUnavailable:
        return None
    proofs = [run.started_at for run in runs if run is not None]
    return min(proofs, default=None) if len(proofs) == len(runs) else None


def _last_copy(replica: str, inventory: Inventory, context: TaskContext) -> datetime | None:
    """Return as of when a replica holds every source: when all that was wanted was there, and no later than its proof.

    None where it was never so.
    """
    try:
        with read_catalog(context.catalog_path) as catalog:
            run = catalog.last_success("replicate", replica, inventory.now)
    except CatalogUnavailable:
        return None
    if run is None:
        return None
    proofs = (last_verified_at(source, inventory, context) for source in {g.source for g in inventory.generations})
    return min((run.started_at, *(proof for proof in proofs if proof is not None)))


def last_verified_at(source: str, inventory: Inventory, context: TaskContext) -> datetime | None:
    """Return when `source` was last known to be held, digest for digest, by a generation that still counts.

    That is when the newest such generation was taken, or when a later run found that nothing had changed since.
    """
    newest = inventory.last_verified(source)
    if newest is None:
        return None
    try:
        with read_catalog(context.catalog_path) as catalog:
            run = catalog.last_success("backup", source, inventory.now)
    except CatalogUnavailable:
        return newest.taken_at
    if run is None or run.generation != newest.id:
        return newest.taken_at
    return max(newest.taken_at, run.started_at)
