"""The answers of the daemon: one look at site, catalog and clock, as values."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version

from backupd.catalog import CatalogUnavailable, PingRecord, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.health import Health, Limit
from backupd.notifications.delivery import configured_pings
from backupd.notifications.outbox import ACCEPTED, REFUSED
from backupd.pings import Monitor
from backupd.report import drill_of
from backupd.schedule import Planned
from backupd.status.due import next_run
from backupd.status.history import survey_of
from backupd.status.model import History, MessageFigures, NextRun, SourceFigures, Status, TaskFigures
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import present_inventory, read_health_facts
from backupd.tasks.inventory import Inventory
from backupd.tasks.requests import RetentionRule


def read_history(
    planned: tuple[Planned, ...],
    limits: tuple[Limit, ...],
    retention: RetentionRule,
    context: TaskContext,
    started_at: datetime,
    monitors: Mapping[str, Monitor],
) -> History:
    """Look at everything, and at how it came to be; each manifest is read once. Changes nothing, and raises nothing."""
    inventory = _inventory(context)
    status = _status_of(inventory, planned, limits, context, started_at, monitors)
    return survey_of(status, inventory, planned, retention, context)


def read_status(
    planned: tuple[Planned, ...],
    limits: tuple[Limit, ...],
    context: TaskContext,
    started_at: datetime,
    monitors: Mapping[str, Monitor],
) -> Status:
    """Look at everything; `limits` says how old proofs may be. Changes nothing, and raises nothing.

    Of a store that cannot be read nothing is told but that.
    """
    return _status_of(_inventory(context), planned, limits, context, started_at, monitors)


def read_pings(monitors: Mapping[str, Monitor], context: TaskContext) -> tuple[PingRecord, ...]:
    """Return how `monitors` take pings; nothing where the catalog does not answer."""
    try:
        with read_catalog(context.catalog_path) as catalog:
            return configured_pings(catalog.pings(), monitors)
    except CatalogUnavailable:
        return ()


def _inventory(context: TaskContext) -> Inventory | None:
    """Return what the local store holds, None where it cannot be read."""
    try:
        return present_inventory(context)
    except OSError:
        return None


def _status_of(
    inventory: Inventory | None,
    planned: tuple[Planned, ...],
    limits: tuple[Limit, ...],
    context: TaskContext,
    started_at: datetime,
    monitors: Mapping[str, Monitor],
) -> Status:
    now = context.clock()
    tasks, next_runs, migrations_ok = _tasks(planned, context, now)
    facts, free, sources = read_health_facts(limits, context, inventory), dict[str, int](), tuple[SourceFigures, ...]()
    if inventory is not None:
        with suppress(OSError):
            free = {context.store.name: context.store.free_space()}
            sources = tuple(_source(limit.subject, inventory, context) for limit in limits if limit.task == "backup")
    return Status(
        taken_at=now,
        started_at=started_at,
        health=Health.of(facts, now),
        migrations_ok=migrations_ok,
        tasks=tasks,
        sources=sources,
        free_bytes=free,
        sqlite_version=version("apsw").rpartition(".")[0],  # apsw counts on behind SQLite's own version
        messages=_messages(limits, context),
        pings=read_pings(monitors, context),
        next_runs=next_runs,
    )


def _tasks(
    planned: tuple[Planned, ...], context: TaskContext, now: datetime
) -> tuple[tuple[TaskFigures, ...], tuple[NextRun, ...], bool]:
    """Return what became of each task, when each runs next, and whether the catalog answers."""
    try:
        with read_catalog(context.catalog_path) as catalog:
            counts = catalog.run_counts()
            tasks = tuple(_task(one, catalog, counts, now) for one in planned)
            return tasks, tuple(next_run(one, catalog, context.configuration, now) for one in planned), True
    except CatalogUnavailable:
        nothing = tuple(TaskFigures(one.task, one.source, None, {}) for one in planned)
        new = () if os.path.lexists(context.catalog_path) else planned  # there was no run yet
        return nothing, tuple(next_run(one, None, context.configuration, now) for one in new), False


def _task(
    planned: Planned, catalog: Catalog, counts: Mapping[tuple[str, str], Mapping[str, int]], now: datetime
) -> TaskFigures:
    last = catalog.last_success(planned.task, planned.source, now, planned.store)
    failed = catalog.last_failure(planned.task, planned.source, now)
    figures = TaskFigures(
        planned.task,
        planned.source,
        last_success_at=last.started_at if last else None,
        runs=counts.get((planned.task, planned.source), {}),
        failed_at=failed.finished_at if failed else None,
        error=(failed.error or "") if failed else "",
        hint=(failed.report.hint or "") if failed and failed.report else "",
    )
    if last is None:
        return figures
    if last.report is None:
        return replace(figures, duration_s=last.duration_s, stages={})
    report, drill = last.report, drill_of(last.report)
    figures = replace(figures, duration_s=last.duration_s, stages=report.stages, warnings=report.warnings)
    return replace(figures, generation=last.generation, drill=drill) if drill else figures


def _messages(limits: tuple[Limit, ...], context: TaskContext) -> MessageFigures:
    """Tell what is known of messages from the daemon that looks after these sources."""
    scope = next((limit.subject for limit in limits if limit.task == "backup"), "")
    try:
        with read_catalog(context.catalog_path) as catalog:
            book = catalog.read_notification_state(scope)
    except CatalogUnavailable:
        return MessageFigures()
    accepted_at, refused_at = (
        book.notices[key].notified_at if key in book.notices else None for key in (ACCEPTED, REFUSED)
    )
    return MessageFigures(len(book.outbox), accepted_at, refused_at)


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
