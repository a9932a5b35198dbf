"""The history: a year of days, the generations and their copies, drills, disk and log; each part is bounded."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from backupd.catalog import CatalogUnavailable, RunRecord, RunSummary, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.health import Limit
from backupd.log import LOG_NAME
from backupd.log_reader import last_lines
from backupd.model import CLOCK_TOLERANCE, Generation, Pin
from backupd.pings import Monitor
from backupd.report import drill_of
from backupd.schedule import Planned, Schedule
from backupd.status.calendar import SourceRecords, first_day, judge_days, runs_by_day
from backupd.status.current import readable_inventory, status_of
from backupd.status.model import (
    DiskUse,
    DrillFigures,
    GenerationFigures,
    History,
    LogEntry,
    Point,
    ReplicaFigures,
    SourceHistory,
    Unread,
)
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.prune import pins_in_force, plan_pruning
from backupd.tasks.requests import RetentionRule

MOST_MARKS: Final = 10_000  # a year of hourly backups
MOST_GENERATIONS: Final = 100
MOST_FOREIGN_SOURCES: Final = 10
MOST_DRILLS: Final = 5
MOST_LINES: Final = 20
_MAX_LEVEL: Final = 20
_MAX_MESSAGE: Final = 2000
NOT_CONFIGURED: Final = "source not configured"
HOLDS_UNREADABLE: Final = "not known: whether pruning is on hold cannot be read"


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalog has; empty when it cannot be read."""

    records: Mapping[str, SourceRecords]
    drills: tuple[DrillFigures, ...] = ()
    copies: Mapping[str, tuple[str, ...]] | None = None


def read_history(
    planned: tuple[Planned, ...],
    limits: tuple[Limit, ...],
    retention: RetentionRule,
    context: TaskContext,
    started_at: datetime,
    monitors: Mapping[str, Monitor],
) -> History:
    """Read the status and its history; each manifest is read once. Changes nothing, and raises nothing."""
    inventory = readable_inventory(context)
    status = status_of(inventory, planned, limits, context, started_at, monitors)
    unread: list[Unread] = [] if inventory else ["store"]
    held = inventory or Inventory((), {}, {}, status.taken_at)
    known = _known(planned, status.taken_at, context)
    if known is None:
        if held.generations or not inventory:  # before the first run there is no catalog
            unread.append("catalog")
        known = _Known({})
    log = _log(context)
    if log is None:
        unread.append("log")
    return History(
        status=status,
        timezone=str(retention.timezone),
        histories=_histories(held, known, planned, retention, context),
        drills=known.drills,
        replicas=_replicas(planned, known),
        disk=_disk(held, context) if inventory else None,
        log=log or (),
        unread=tuple(unread),
    )


def _known(planned: Iterable[Planned], now: datetime, context: TaskContext) -> _Known | None:
    try:
        with read_catalog(context.catalog_path) as catalog:
            records = {one.source: _records(one, catalog, now) for one in planned if one.task == "backup"}
            drills = tuple(_drill(run) for run in catalog.runs(task="drill", limit=MOST_DRILLS))
            return _Known(records, drills, catalog.copies())
    except CatalogUnavailable:
        return None


def _records(planned: Planned, catalog: Catalog, now: datetime) -> SourceRecords:
    zone = planned.schedule.timezone
    since = datetime.combine(first_day(now.astimezone(zone).date()), time(), zone) - timedelta(days=1)
    marks = catalog.run_summaries(planned.task, planned.source, since, now + CLOCK_TOLERANCE, MOST_MARKS)
    if len(marks) == MOST_MARKS:
        return SourceRecords(marks, begin_at=marks[0].started_at)
    return SourceRecords(marks, begin_at=catalog.first_run_at(planned.task, planned.source))


def _drill(run: RunRecord) -> DrillFigures:
    stages = run.report.stages if run.report else {}
    numbers = {name: float(took) for name, took in stages.items() if isinstance(took, int | float)}
    drill = drill_of(run.report)
    store = drill.store if drill else None
    return DrillFigures(run.source, store, run.started_at, run.outcome, run.duration_s, numbers, run.error or "")


def _histories(
    inventory: Inventory,
    known: _Known,
    planned: Iterable[Planned],
    retention: RetentionRule,
    context: TaskContext,
) -> tuple[SourceHistory, ...]:
    schedules = {one.source: one.schedule for one in planned if one.task == "backup"}
    foreign = sorted({generation.source for generation in inventory.generations} - schedules.keys())
    sources = (*schedules, *foreign[:MOST_FOREIGN_SOURCES])
    return tuple(_history(name, schedules.get(name), inventory, known, retention, context) for name in sources)


def _history(
    source: str,
    schedule: Schedule | None,
    inventory: Inventory,
    known: _Known,
    retention: RetentionRule,
    context: TaskContext,
) -> SourceHistory:
    generations = inventory.of(source)
    earlier = known.records.get(source, SourceRecords())
    taken_at = tuple(generation.taken_at for generation in generations if inventory.counts(generation))
    records = SourceRecords(earlier.marks, taken_at, earlier.begin_at)
    reasons = (
        _reasons(source, inventory, retention, context) if schedule else {g.id: (NOT_CONFIGURED,) for g in generations}
    )
    shown, pins = generations[:MOST_GENERATIONS], _pins(inventory, context)
    return SourceHistory(
        source=source,
        days=judge_days(records, schedule, inventory.now) if schedule else (),
        points=_points(earlier.marks, schedule) if schedule else (),
        generations=tuple(_generation(one, reasons, known, pins.get(one.id), context) for one in shown),
        generation_count=len(generations),
        stored_bytes=sum(generation.archive_bytes for generation in generations),
    )


def _reasons(
    source: str, inventory: Inventory, retention: RetentionRule, context: TaskContext
) -> Mapping[str, tuple[str, ...]]:
    try:
        return plan_pruning(source, retention, inventory, context).reasons()
    except OSError:
        return {generation.id: (HOLDS_UNREADABLE,) for generation in inventory.of(source)}


def _pins(inventory: Inventory, context: TaskContext) -> Mapping[str, Pin]:
    try:
        return pins_in_force(inventory, context)
    except OSError:  # the reasons say so
        return {}


def _points(marks: Iterable[RunSummary], schedule: Schedule) -> tuple[Point, ...]:
    succeeded = (mark for mark in marks if mark.outcome != "failed")
    last = {day: found[-1] for day, found in runs_by_day(succeeded, schedule.timezone).items()}
    return tuple(Point(day, mark.duration_s, mark.snapshot_bytes, mark.archive_bytes) for day, mark in last.items())


def _generation(
    generation: Generation,
    reasons: Mapping[str, tuple[str, ...]],
    known: _Known,
    pin: Pin | None,
    context: TaskContext,
) -> GenerationFigures:
    local = context.store.name
    copies = (known.copies or {}).get(generation.id, ())
    return GenerationFigures(
        id=generation.id,
        taken_at=generation.taken_at,
        archive_bytes=generation.archive_bytes,
        snapshot_bytes=generation.snapshot_bytes,
        verification="corrupt" if generation.damaged else generation.verification,
        kept_for=reasons.get(generation.id, ()),
        stores=(local, *(store for store in copies if store != local)),
        pinned=pin is not None,
        pinned_until=pin.until if pin else None,
        label=pin.label if pin else "",
    )


def _replicas(planned: Iterable[Planned], known: _Known) -> tuple[ReplicaFigures, ...]:
    if known.copies is None:
        return ()
    held = [store for stores in known.copies.values() for store in stores]
    return tuple(ReplicaFigures(one.source, held.count(one.source)) for one in planned if one.task == "replicate")


def _disk(inventory: Inventory, context: TaskContext) -> DiskUse | None:
    try:
        usage = shutil.disk_usage(context.store.directory)
    except OSError:
        return None
    return DiskUse(sum(g.archive_bytes for g in inventory.generations), usage.free, usage.total)


def _log(context: TaskContext) -> tuple[LogEntry, ...] | None:
    try:
        lines = last_lines(context.store.directory / LOG_NAME, MOST_LINES)
    except OSError:
        return None
    return tuple(LogEntry(line.at, line.level[:_MAX_LEVEL], line.message[:_MAX_MESSAGE]) for line in lines)
