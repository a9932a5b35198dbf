"""The facts of health: when backups, copies and drills last succeeded, which sources are on hold, which runs fail."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeAlias

from backupd.catalog import CatalogUnavailable, LastRun, RunRecord, read_catalog
from backupd.errors import ErrorKind
from backupd.health import SOURCE_ERRORS, Failure, Freshness, HealthFacts, Limit, RefusedGeneration
from backupd.model import Task
from backupd.report import drill_of
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import newest_points

_OTHER_TASKS: Final[tuple[Task, ...]] = ("drill", "prune", "scrub")
_Successes: TypeAlias = Mapping[tuple[str, str, str], RunRecord]  # by task, source, and the store of a drill
_KILLED: Final = "find out what killed it (too little memory, a power cut)"


def read_health_facts(limits: Iterable[Limit], context: TaskContext, inventory: Inventory | None = None) -> HealthFacts:
    """Read the facts of health of the tasks that have limits; `inventory` is read where it is not given.

    Changes nothing and raises nothing: what cannot be read is named in the facts. Sources and replicas that `limits` do
    not name are left out: they are no longer configured, or belong to another daemon.
    """
    limits = tuple(limits)
    try:
        facts = _health_facts(limits, inventory or present_inventory(context), context)
    except OSError:
        freshness = (Freshness(limit.task, limit.subject, None, limit.limit_s) for limit in limits)
        facts = HealthFacts(tuple(freshness), store_unreadable=True)
    facts = replace(facts, files=frozenset(limit.subject for limit in limits if limit.of_files))
    return _with_runs(facts, limits, context)


def present_inventory(context: TaskContext) -> Inventory:
    """Return what the local store holds. Raises OSError, also where its directory is missing."""
    with os.scandir(context.store.directory):
        return read_inventory(context)


def _health_facts(limits: tuple[Limit, ...], inventory: Inventory, context: TaskContext) -> HealthFacts:
    """Return what store and catalog know of successes, holds and damage. Raises OSError."""
    sources, successes = _sources(limits), _read_successes(limits, inventory.now, context)
    freshness = [
        Freshness(limit.task, limit.subject, _last_at(limit, sources, inventory, successes), limit.limit_s)
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
            RefusedGeneration(key, source, inventory.refused[key], inventory.fault(key))
            for key, source in ours
            if key in inventory.refused
        ),
        points=newest_points(inventory),
    )


def _with_runs(facts: HealthFacts, limits: tuple[Limit, ...], context: TaskContext) -> HealthFacts:
    """Add the runs that fail, or why they cannot be read, to `facts`; without a catalog there was no run yet."""
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
    """Yield the scheduled tasks with their subjects; a drill is limited by store and runs by source."""
    drills = any(limit.task == "drill" for limit in limits)
    yield from ((limit.task, limit.subject) for limit in limits if limit.task == "backup")
    yield from ((limit.task, limit.subject) for limit in limits if limit.task == "replicate")
    for source in _sources(limits):
        yield from ((task, source) for task in _OTHER_TASKS if task != "drill" or drills)


def _failure(task: Task, last: LastRun | None) -> Failure | None:
    failed = [run for run in last.failed if not run.postponed] if last is not None else []
    if last is None or last.failing_since is None or not failed:
        return None
    # An error of the source counts until a run succeeds: a later run may fail before it reaches the source.
    run = next((one for one in failed if task == "backup" and _kind(one) in SOURCE_ERRORS), failed[0])
    hint = _KILLED if run.report is None else run.report.hint or ""
    drill = drill_of(run.report)
    store = drill.store if drill else ""
    postponed = len(last.failed) - len(failed)
    since = (failed[-1].finished_at if postponed else None) or last.failing_since
    return Failure(task, run.source, _kind(run), since, last.failures - postponed, run.error or "", hint, store)


def _kind(run: RunRecord) -> ErrorKind:
    return "interrupted" if run.report is None else run.report.error_kind or "other"


def _sources(limits: Iterable[Limit]) -> list[str]:
    return [limit.subject for limit in limits if limit.task == "backup"]


def _last_at(limit: Limit, sources: Iterable[str], inventory: Inventory, successes: _Successes) -> datetime | None:
    """Return when the task last succeeded for its subject."""
    if limit.task == "backup":
        return _last_verified_at(limit.subject, inventory, successes)
    if limit.task == "drill":
        return _last_drill(limit.subject, sources, successes)
    return _last_copy(limit.subject, inventory, successes) if limit.task == "replicate" else None


def _last_drill(store: str, sources: Iterable[str], successes: _Successes) -> datetime | None:
    """Return the oldest of the last drills of the sources from `store`; None where one had none."""
    runs = [successes.get(("drill", source, store)) for source in sources]
    times = [run.started_at for run in runs if run is not None]
    return min(times, default=None) if len(times) == len(runs) else None


def _last_copy(replica: str, inventory: Inventory, successes: _Successes) -> datetime | None:
    """Return as of when a replica holds every source: its last success, but not later than the last verified backup."""
    run = successes.get(("replicate", replica, ""))
    if run is None:
        return None
    times = (_last_verified_at(source, inventory, successes) for source in {g.source for g in inventory.generations})
    return min((run.started_at, *(time for time in times if time is not None)))


def last_verified_at(source: str, inventory: Inventory, context: TaskContext) -> datetime | None:
    """Return when a generation that still counts was last known to equal `source`, digest for digest.

    That is when the newest one was taken, or when a later run found `source` unchanged since.
    """
    return _last_verified_at(source, inventory, _read_successes((), inventory.now, context))


def _last_verified_at(source: str, inventory: Inventory, successes: _Successes) -> datetime | None:
    newest = inventory.last_verified(source)
    if newest is None:
        return None
    run = successes.get(("backup", source, ""))
    if run is None or run.generation != newest.id:
        return newest.taken_at
    return max(newest.taken_at, run.started_at)


def _read_successes(limits: Iterable[Limit], now: datetime, context: TaskContext) -> _Successes:
    """Return the last success of each task and source, of drills by store; none where the catalog cannot be read."""
    stores = ("", *(limit.subject for limit in limits if limit.task == "drill"))
    try:
        with read_catalog(context.catalog_path) as catalog:
            found = {store: catalog.last_successes(now, store) for store in stores}
    except CatalogUnavailable:
        return {}
    return {(task, source, store): run for store, runs in found.items() for (task, source), run in runs.items()}
