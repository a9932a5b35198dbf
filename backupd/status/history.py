"""One thorough look at a site: the year behind, what is kept and where, drills, disk and log; each part is bounded."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from backupd.catalog import CatalogUnavailable, RunRecord, RunSummary, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.log import LOG_NAME
from backupd.model import CLOCK_TOLERANCE, Generation, Pin
from backupd.report import drill_of
from backupd.schedule import Planned, Schedule
from backupd.status.calendar import SourceRecords, first_day, judge_days, runs_by_day
from backupd.status.log_tail import last_lines
from backupd.status.model import (
    DiskUse,
    DrillFigures,
    GenerationFigures,
    History,
    LogLine,
    Point,
    ReplicaFigures,
    SourceHistory,
    Status,
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
NOT_CONFIGURED: Final = "source not configured"
HOLDS_UNREADABLE: Final = "not known: whether pruning is on hold cannot be read"


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What the catalog knows; nothing where it cannot be used."""

    records: Mapping[str, SourceRecords]
    drills: tuple[DrillFigures, ...] = ()
    copies: Mapping[str, tuple[str, ...]] | None = None


def survey_of(
    status: Status,
    inventory: Inventory | None,
    planned: tuple[Planned, ...],
    retention: RetentionRule,
    context: TaskContext,
) -> History:
    """Look at all that `status` does not tell; `inventory` is None where the store could not be read.

    Changes nothing, and raises nothing: what could not be read is named.
    """
    unread: list[Unread] = [] if inventory else ["store"]
    held = inventory or Inventory((), {}, {}, status.taken_at)
    remembered = _remembered(planned, status.taken_at, context)
    if remembered is None:
        if held.generations or not inventory:  # before the first run there is no catalog
            unread.append("catalog")
        remembered = _Remembered({})
    log = _log(context)
    if log is None:
        unread.append("log")
    return History(
        status=status,
        timezone=str(retention.timezone),
        histories=_histories(held, remembered, planned, retention, context),
        drills=remembered.drills,
        replicas=_replicas(planned, remembered),
        disk=_disk(held, context) if inventory else None,
        log=log or (),
        unread=tuple(unread),
    )


def _remembered(planned: Iterable[Planned], now: datetime, context: TaskContext) -> _Remembered | None:
    try:
        with read_catalog(context.catalog_path) as catalog:
            records = {one.source: _records(one, catalog, now) for one in planned if one.task == "backup"}
            drills = tuple(_drill(run) for run in catalog.runs(task="drill", limit=MOST_DRILLS))
            return _Remembered(records, drills, catalog.copies())
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
    told: object = run.report.stages if run.report else {}
    stages = (
        {name: float(took) for name, took in told.items() if isinstance(took, int | float)}
        if isinstance(told, dict)
        else {}
    )
    drill = drill_of(run.report)
    return DrillFigures(
        run.source, drill.store if drill else None, run.started_at, run.outcome, run.duration_s, stages, run.error or ""
    )


def _histories(
    inventory: Inventory,
    remembered: _Remembered,
    planned: Iterable[Planned],
    retention: RetentionRule,
    context: TaskContext,
) -> tuple[SourceHistory, ...]:
    schedules = {one.source: one.schedule for one in planned if one.task == "backup"}
    foreign = sorted({generation.source for generation in inventory.generations} - schedules.keys())
    sources = (*schedules, *foreign[:MOST_FOREIGN_SOURCES])
    return tuple(_history(name, schedules.get(name), inventory, remembered, retention, context) for name in sources)


def _history(
    source: str,
    schedule: Schedule | None,
    inventory: Inventory,
    remembered: _Remembered,
    retention: RetentionRule,
    context: TaskContext,
) -> SourceHistory:
    generations = inventory.of(source)
    known = remembered.records.get(source, SourceRecords())
    taken_at = tuple(generation.taken_at for generation in generations if inventory.counts(generation))
    records = SourceRecords(known.marks, taken_at, known.begin_at)
    reasons = (
        _reasons(source, inventory, retention, context) if schedule else {g.id: (NOT_CONFIGURED,) for g in generations}
    )
    shown, pins = generations[:MOST_GENERATIONS], _pins(inventory, context)
    return SourceHistory(
        source=source,
        days=judge_days(records, schedule, inventory.now) if schedule else (),
        points=_points(known.marks, schedule) if schedule else (),
        generations=tuple(_generation(one, reasons, remembered, pins.get(one.id), context) for one in shown),
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
    remembered: _Remembered,
    pin: Pin | None,
    context: TaskContext,
) -> GenerationFigures:
    local = context.store.name
    copies = (remembered.copies or {}).get(generation.id, ())
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


def _replicas(planned: Iterable[Planned], remembered: _Remembered) -> tuple[ReplicaFigures, ...]:
    if remembered.copies is None:
        return ()
    held = [store for stores in remembered.copies.values() for store in stores]
    return tuple(ReplicaFigures(one.source, held.count(one.source)) for one in planned if one.task == "replicate")


def _disk(inventory: Inventory, context: TaskContext) -> DiskUse | None:
    try:
        usage = shutil.disk_usage(context.store.directory)
    except OSError:
        return None
    return DiskUse(sum(g.archive_bytes for g in inventory.generations), usage.free, usage.total)


def _log(context: TaskContext) -> tuple[LogLine, ...] | None:
    try:
        return last_lines(context.store.directory / LOG_NAME, MOST_LINES)
    except OSError:
        return None
