"""The current status: what store, catalog and clock show at this moment, and when each task runs next."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from backupd.catalog import CatalogUnavailable, NotificationState, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.health import Health, Limit
from backupd.notifications.delivery import read_pings
from backupd.notifications.outbox import ACCEPTED, REFUSED
from backupd.report import drill_of
from backupd.schedule import Due, Planned, TaskHistory, plan_next_run
from backupd.status.model import MessageFigures, NextRun, SourceFigures, Status, TaskFigures
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import present_inventory, read_health_facts
from backupd.tasks.inventory import Inventory
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
    tasks, next_runs, migrations_ok = _tasks(scope.planned, context, now)
    facts, free, sources = read_health_facts(limits, context, inventory), dict[str, int](), tuple[SourceFigures, ...]()
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
    history = replace(_joined(known, remembered()), missing=_is_missing(planned.database))
    return plan_next_run(planned.schedule, history, now)


def _next_run(planned: Planned, catalog: Catalog | None, configuration: Callable[[], str], now: datetime) -> NextRun:
    due = due_run(planned, catalog, configuration, now)
    at = max(due.at, now).astimezone(planned.schedule.timezone)
    return NextRun(planned.task, planned.source, at, due.reason, retry=due.retry, overdue=due.at <= now)


def _is_missing(database: Path | None) -> bool:
    """Return whether the database does not exist; one that cannot be looked up just now is not known to be missing."""
    with suppress(OSError):
        try:
            if database is not None:
                database.stat()
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
) -> tuple[tuple[TaskFigures, ...], tuple[NextRun, ...], bool]:
    """Return the figures of each task, when each runs next, and whether the catalog can be read."""
    try:
        with read_catalog(context.catalog_path) as catalog:
            counts = catalog.run_counts()
            tasks = tuple(_task(one, catalog, counts, now) for one in planned)
            return tasks, tuple(_next_run(one, catalog, context.configuration, now) for one in planned), True
    except CatalogUnavailable:
        unknown = tuple(TaskFigures(one.task, one.source, None, {}) for one in planned)
        unstarted = () if os.path.lexists(context.catalog_path) else planned  # there was no run yet
        return unknown, tuple(_next_run(one, None, context.configuration, now) for one in unstarted), False


def _task(
    planned: Planned, catalog: Catalog, counts: Mapping[tuple[str, str], Mapping[str, int]], now: datetime
) -> TaskFigures:
    last = catalog.last_success(planned.task, planned.source, now, planned.store)
    failed = catalog.last_failure(planned.task, planned.source, now)
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
        snapshot_bytes=newest.snapshot.size_bytes if newest else None,
        archive_bytes=newest.archive.size_bytes if newest else None,
        newest_at=newest.taken_at if newest else None,
        frozen=context.holds.get(source) is not None,
    )
