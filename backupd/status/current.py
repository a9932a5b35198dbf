"""The current status: what store, catalog and clock show at this moment, and when each task runs next."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from backupd.catalog import CatalogUnavailable, NotificationState, RunRecord, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.health import Health, Limit
from backupd.model import FilesManifest, PointPart, RestorePoint
from backupd.notifications.delivery import read_pings
from backupd.notifications.outbox import ACCEPTED, REFUSED
from backupd.report import drill_of
from backupd.schedule import Due, Planned, TaskHistory, plan_next_run
from backupd.status.model import (
    FilesFigures,
    Instance,
    MessageFigures,
    NextRun,
    PointFigures,
    SourceFigures,
    Status,
    TaskFigures,
)
from backupd.system.mounts import responding_stat
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import present_inventory, read_health_facts
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import points_as_generations
from backupd.tasks.requests import RetentionRule


@dataclass(frozen=True, slots=True)
class StatusScope:
    """What the status is about: the tasks, limits and monitors that are configured, and where results are kept."""

    planned: tuple[Planned, ...]
    limits: tuple[Limit, ...]
    retention: RetentionRule
    monitors: Mapping[str, object]
    context: TaskContext
    started_at: datetime  # when the daemon started
    instance: Instance = field(default_factory=Instance)


def readable_inventory(context: TaskContext) -> Inventory | None:
    """Return what the local store holds; None when it cannot be read."""
    try:
        return present_inventory(context)
    except OSError:
        return None


def read_status(scope: StatusScope) -> Status:
    """Read the status; changes nothing, and raises nothing."""
    return status_of(scope, readable_inventory(scope.context))


def status_of(scope: StatusScope, inventory: Inventory | None) -> Status:
    """Read the status as `read_status` does, with the `inventory` that was read already; None: it cannot be read."""
    context, limits, mask = scope.context, scope.limits, scope.context.log.mask
    now = context.clock()
    tasks, next_runs, restores, migrations_ok = _tasks(scope.planned, context, now)
    facts, free, sources = read_health_facts(limits, context, inventory), dict[str, int](), tuple[SourceFigures, ...]()
    points = points_of(inventory, context) if inventory else ()
    if inventory is not None:
        with suppress(OSError):
            free = {context.store.name: context.store.free_space()}
            sources = tuple(_source(limit.subject, inventory, context) for limit in limits if limit.task == "backup")
    return Status(
        taken_at=now,
        started_at=scope.started_at,
        health=mask.of(Health.of(facts, now)),
        migrations_ok=migrations_ok,
        tasks=mask.of(tasks),
        sources=sources,
        free_bytes=free,
        sqlite_version=version("apsw").rpartition(".")[0],  # apsw appends a number of its own to SQLite's version
        messages=_messages(limits, context),
        pings=mask.of(read_pings(scope.monitors, context)),
        next_runs=next_runs,
        restores=restores,
        point=next((point for point in points if point.sound), None),
        points=len(points),
    )


def points_of(inventory: Inventory, context: TaskContext) -> tuple[PointFigures, ...]:
    """Return the restore points of the local store, newest first; the catalog knows which replicas have all parts."""
    copies = context.copies() if inventory.points else {}
    return tuple(
        PointFigures(
            id=found.id,
            taken_at=found.taken_at,
            spread_ms=point.spread_ms,
            parts=tuple(part.generation for part in point.parts),
            sound=inventory.counts(found),
            stores=(inventory.store, *_stores_of(point, copies, inventory.store)),
            current=all(_is_newest(part, inventory) for part in point.parts),
        )
        for found in points_as_generations(inventory)
        if (point := inventory.points.get(found.id))
    )


def _is_newest(part: PointPart, inventory: Inventory) -> bool:
    newest = inventory.last_verified(part.source)
    return newest is not None and newest.id == part.generation


def _stores_of(point: RestorePoint, copies: Mapping[str, tuple[str, ...]], local: str) -> list[str]:
    """Return the replicas that have all parts of a restore point."""
    held = [frozenset(copies.get(generation, ())) for generation in point.generations]
    return sorted(frozenset[str].intersection(*held) - {local})


def files_figures(source: str, inventory: Inventory) -> FilesFigures | None:
    """Return the figures of a set of files by its newest verified generations; None for a database."""
    counting = [inventory.manifests[one.id] for one in inventory.of(source) if inventory.counts(one)]
    lists = [manifest for manifest in counting if isinstance(manifest, FilesManifest)][:2]
    if not lists:
        return None
    newest, before = lists[0], lists[-1]
    known = len(lists) > 1
    return FilesFigures(
        files=newest.files.files,
        size_bytes=newest.files.size_bytes,
        changed_at=newest.taken_at,
        more_files=newest.files.files - before.files.files if known else None,
        more_bytes=newest.files.size_bytes - before.files.size_bytes if known else None,
    )


def due_run(
    planned: Planned,
    catalog: Catalog | None,
    configuration: Callable[[], str],
    now: datetime,
    remembered: Callable[[], TaskHistory] = TaskHistory,
) -> Due:
    """Return when `planned` runs next, by the history in the catalog and, called after that, `remembered`.

    `configuration` returns the digest of the current configuration. Raises CatalogUnavailable.
    """
    known = TaskHistory()
    if catalog is not None:
        known = catalog.task_history(planned.task, planned.source, now, planned.store, configuration)
    return _due(planned, _joined(known, remembered()), now)


def _due(planned: Planned, history: TaskHistory, now: datetime) -> Due:
    return plan_next_run(planned.schedule, replace(history, missing=_is_missing(planned.database)), now)


def _next_run(planned: Planned, history: TaskHistory, now: datetime) -> NextRun:
    due = _due(planned, history, now)
    at = max(due.at, now).astimezone(planned.schedule.timezone)
    return NextRun(planned.task, planned.source, at, due.reason, retry=due.retry, overdue=due.at <= now)


def _is_missing(database: Path | None) -> bool:
    """Return whether the database does not exist; one that cannot be looked up just now is not known to be missing."""
    with suppress(OSError):
        try:
            if database is not None:
                responding_stat(database)
        except (FileNotFoundError, NotADirectoryError):
            return True
    return False


def _joined(known: TaskHistory, remembered: TaskHistory) -> TaskHistory:
    """Join the history in the catalog with the daemon's memory: on a full disk the catalog records nothing."""
    succeeded = [at for at in (known.succeeded_at, remembered.succeeded_at) if at is not None]
    failed_at = max(known.failed_at, remembered.failed_at, key=len)
    return TaskHistory(max(succeeded, default=None), failed_at, known.reconfigured)


def _tasks(
    planned: tuple[Planned, ...], context: TaskContext, now: datetime
) -> tuple[tuple[TaskFigures, ...], tuple[NextRun, ...], dict[str, Mapping[str, int]], bool]:
    """Return the figures of each task, when each runs next, the restores, and whether the catalog can be read."""
    restores: dict[str, Mapping[str, int]] = {one.source: {} for one in planned if one.task == "backup"}
    try:
        with read_catalog(context.catalog_path) as catalog:
            catalog.hold_one_state()
            counts = catalog.run_counts()
            restores.update({source: outcomes for (task, source), outcomes in counts.items() if task == "restore"})
            runs = _LastRuns.read(planned, catalog, now)
            tasks = tuple(_task(one, runs, counts) for one in planned)
            histories = [runs.history(one, catalog, context.configuration, now) for one in planned]
            due = zip(planned, histories, strict=True)
            return tasks, tuple(_next_run(one, history, now) for one, history in due), restores, True
    except CatalogUnavailable:
        unknown = tuple(TaskFigures(one.task, one.source, None, {}) for one in planned)
        unstarted = () if os.path.lexists(context.catalog_path) else planned  # there was no run yet
        return (
            unknown,
            tuple(_next_run(one, TaskHistory(), now) for one in unstarted),
            restores if unstarted else {},
            False,
        )


@dataclass(frozen=True, slots=True)
class _LastRuns:
    """The last successes (by store of a drill, task and source) and the last finished runs (by task and source)."""

    successes: Mapping[str, Mapping[tuple[str, str], RunRecord]]
    finished: Mapping[tuple[str, str], RunRecord]

    @classmethod
    def read(cls, planned: Iterable[Planned], catalog: Catalog, now: datetime) -> "_LastRuns":
        """Read them, with few questions for any number of sources."""
        stores = {one.store for one in planned}
        finished = {(last.run.task, last.run.source): last.run for last in catalog.last_runs(now)}
        return cls({store: catalog.last_successes(now, store) for store in stores}, finished)

    def success(self, planned: Planned) -> RunRecord | None:
        """Return the last successful run."""
        return self.successes[planned.store].get((planned.task, planned.source))

    def failure(self, planned: Planned) -> RunRecord | None:
        """Return the last finished run, if it failed and was not postponed."""
        run = self.finished.get((planned.task, planned.source))
        return run if run is not None and run.outcome == "failed" and not run.postponed else None

    def history(
        self, planned: Planned, catalog: Catalog, configuration: Callable[[], str], now: datetime
    ) -> TaskHistory:
        """Return the last success and the failures since; the catalog is asked only where there may be some."""
        last, finished = self.success(planned), self.finished.get((planned.task, planned.source))
        if finished is None and last is None:
            return TaskHistory()
        if finished is not None and last is not None and finished.id == last.id:
            return TaskHistory(last.started_at)
        return catalog.task_history(planned.task, planned.source, now, planned.store, configuration)


def _task(planned: Planned, runs: _LastRuns, counts: Mapping[tuple[str, str], Mapping[str, int]]) -> TaskFigures:
    last, failed = runs.success(planned), runs.failure(planned)
    report = last.report if last else None
    drill = drill_of(report)
    return TaskFigures(
        planned.task,
        planned.source,
        last.started_at if last else None,
        counts.get((planned.task, planned.source), {}),
        duration_s=last.duration_s if last else None,
        stages=(report.stages if report else {}) if last else None,
        failed_at=failed.finished_at if failed else None,
        error=(failed.error or "") if failed else "",
        generation=last.generation if last and drill else None,
        drill=drill,
        hint=(failed.report.hint or "") if failed and failed.report else "",
        warnings=report.warnings if report else (),
    )


def _messages(limits: tuple[Limit, ...], context: TaskContext) -> MessageFigures:
    """Return the figures of the daemon that is responsible for these sources."""
    scope = next((limit.subject for limit in limits if limit.task == "backup"), "")
    state = context.ask_catalog(lambda catalog: catalog.read_notification_state(scope), NotificationState())
    times = (notice.notified_at if (notice := state.notices.get(key)) else None for key in (ACCEPTED, REFUSED))
    return MessageFigures(len(state.outbox), *times)


def _source(source: str, inventory: Inventory, context: TaskContext) -> SourceFigures:
    generations = inventory.of(source)
    newest = inventory.last_verified(source)
    return SourceFigures(
        source=source,
        generations=len(generations),
        verified=sum(generation.verified for generation in generations),
        snapshot_bytes=newest.content_bytes if newest else None,
        archive_bytes=newest.archive.size_bytes if newest else None,
        newest_at=newest.taken_at if newest else None,
        frozen=context.holds.get(source) is not None,
        files=files_figures(source, inventory),
    )
