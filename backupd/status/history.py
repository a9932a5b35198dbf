"""The history: a year of days, the generations and their copies, drills, disk and log; each part is bounded."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Final

from backupd.catalog import CatalogUnavailable, RunRecord, RunSummary, read_catalog
from backupd.catalog.catalog import Catalog
from backupd.health import Health
from backupd.log import LOG_NAME
from backupd.log_reader import last_lines
from backupd.model import CLOCK_TOLERANCE, Generation, Pin
from backupd.report import drill_of
from backupd.schedule import Planned, Schedule
from backupd.status import model
from backupd.status.calendar import SourceRecords, first_day, judge_days, runs_by_day
from backupd.status.current import (
    StatusScope,
    files_figures,
    points_of,
    read_status,
    readable_inventory,
    status_of,
)
from backupd.system.mounts import exposing_mount
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import read_health_facts
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import PruningPlans, pins_in_force

MOST_MARKS: Final = 10_000  # a year of hourly backups
MOST_GENERATIONS: Final = 100
MOST_FOREIGN_SOURCES: Final = 10
MOST_POINTS: Final = 10
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
    drills: tuple[model.DrillFigures, ...] = ()
    copies: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class StatusService:
    """The running daemon, as its HTTP side sees it; each call may be made from any thread."""

    scope: StatusScope
    alive: Callable[[], tuple[str, ...]]  # returns why the daemon does not work, without paths; empty when it works

    def health(self) -> Health:
        """Judge the age of the last successes."""
        context = self.scope.context
        return Health.of(read_health_facts(self.scope.limits, context), context.clock())

    def status(self) -> model.Status:
        """Read the status."""
        return read_status(self.scope)

    def history(self) -> model.History:
        """Read the status and the history."""
        return read_history(self.scope)


def read_history(scope: StatusScope) -> model.History:
    """Read the status and its history; each manifest is read once. Changes nothing, and raises nothing."""
    context, mask = scope.context, scope.context.log.mask
    inventory = readable_inventory(context)
    status = status_of(scope, inventory)
    unread: list[model.Unread] = [] if inventory else ["store"]
    held = inventory or Inventory((), {}, {}, status.taken_at)
    known = _known(scope.planned, status.taken_at, context)
    if known is None:
        if held.generations or not inventory:  # before the first run there is no catalog
            unread.append("catalog")
        known = _Known({})
    log = _log(context)
    if log is None:
        unread.append("log")
    return model.History(
        status=status,
        timezone=str(scope.retention.timezone),
        histories=_histories(held, known, scope),
        points=_restore_points(held, scope),
        drills=mask.of(known.drills),
        replicas=_replicas(scope.planned, known),
        disk=_disk(held, context) if inventory else None,
        log=mask.of(log or ()),
        unread=tuple(unread),
        exposed=_is_exposed(scope.planned, context),
        instance=scope.instance,
    )


def _known(planned: Iterable[Planned], now: datetime, context: TaskContext) -> _Known | None:
    try:
        with read_catalog(context.catalog_path) as catalog:
            catalog.hold_one_state()
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


def _drill(run: RunRecord) -> model.DrillFigures:
    stages = run.report.stages if run.report else {}
    numbers = {name: float(took) for name, took in stages.items() if isinstance(took, int | float)}
    drill = drill_of(run.report)
    store = drill.store if drill else None
    return model.DrillFigures(run.source, store, run.started_at, run.outcome, run.duration_s, numbers, run.error or "")


def _histories(inventory: Inventory, known: _Known, scope: StatusScope) -> tuple[model.SourceHistory, ...]:
    schedules = {one.source: one.schedule for one in scope.planned if one.task == "backup"}
    foreign = sorted({generation.source for generation in inventory.generations} - schedules.keys())
    sources, pins = (*schedules, *foreign[:MOST_FOREIGN_SOURCES]), _pins(inventory, scope.context)
    plans = PruningPlans(scope.retention, inventory, scope.context)
    return tuple(_history(name, schedules.get(name), inventory, known, pins, plans) for name in sources)


def _history(
    source: str,
    schedule: Schedule | None,
    inventory: Inventory,
    known: _Known,
    pins: Mapping[str, Pin],
    plans: PruningPlans,
) -> model.SourceHistory:
    generations = inventory.of(source)
    earlier = known.records.get(source, SourceRecords())
    taken_at = tuple(generation.taken_at for generation in generations if inventory.counts(generation))
    reasons = _reasons(source, inventory, plans) if schedule else {}
    otherwise = () if schedule else (NOT_CONFIGURED,)
    return model.SourceHistory(
        source=source,
        days=judge_days(replace(earlier, taken_at=taken_at), schedule, inventory.now) if schedule else (),
        points=_points(earlier.marks, schedule) if schedule else (),
        generations=tuple(
            _generation(one, reasons.get(one.id, otherwise), known, pins.get(one.id), inventory.store)
            for one in generations[:MOST_GENERATIONS]
        ),
        generation_count=len(generations),
        stored_bytes=sum(generation.archive_bytes for generation in generations),
        files=files_figures(source, inventory),
    )


def _restore_points(inventory: Inventory, scope: StatusScope) -> tuple[model.PointFigures, ...]:
    found = points_of(inventory, scope.context)[:MOST_POINTS]
    try:
        reasons = PruningPlans(scope.retention, inventory, scope.context).points.reasons() if found else {}
    except OSError:
        reasons = {point.id: (HOLDS_UNREADABLE,) for point in found}
    return tuple(replace(point, kept_for=reasons.get(point.id, ())) for point in found)


def _reasons(source: str, inventory: Inventory, plans: PruningPlans) -> Mapping[str, tuple[str, ...]]:
    try:
        return plans.of(source).reasons()
    except OSError:
        return {generation.id: (HOLDS_UNREADABLE,) for generation in inventory.of(source)}


def _pins(inventory: Inventory, context: TaskContext) -> Mapping[str, Pin]:
    try:
        return pins_in_force(inventory, context)
    except OSError:  # the reasons say so
        return {}


def _points(marks: Iterable[RunSummary], schedule: Schedule) -> tuple[model.Point, ...]:
    succeeded = (mark for mark in marks if mark.outcome != "failed")
    last = {day: found[-1] for day, found in runs_by_day(succeeded, schedule.timezone).items()}
    return tuple(
        model.Point(day, mark.duration_s, mark.snapshot_bytes, mark.archive_bytes) for day, mark in last.items()
    )


def _generation(
    generation: Generation, kept_for: tuple[str, ...], known: _Known, pin: Pin | None, local: str
) -> model.GenerationFigures:
    copies = (known.copies or {}).get(generation.id, ())
    return model.GenerationFigures(
        id=generation.id,
        taken_at=generation.taken_at,
        archive_bytes=generation.archive_bytes,
        snapshot_bytes=generation.snapshot_bytes,
        verification=generation.state,
        kept_for=kept_for,
        stores=(local, *(store for store in copies if store != local)),
        pinned=pin is not None,
        pinned_until=pin.until if pin else None,
        label=pin.label if pin else "",
        kind=generation.kind,
    )


def _replicas(planned: Iterable[Planned], known: _Known) -> tuple[model.ReplicaFigures, ...]:
    if known.copies is None:
        return ()
    held = [store for stores in known.copies.values() for store in stores]
    return tuple(model.ReplicaFigures(one.source, held.count(one.source)) for one in planned if one.task == "replicate")


def _is_exposed(planned: Iterable[Planned], context: TaskContext) -> bool:
    databases = [os.path.realpath(one.database) for one in planned if one.database is not None]
    directory = os.path.realpath(context.store.directory)
    if any(one.task == "replicate" for one in planned):
        return False
    return any(exposing_mount(database, directory) is not None for database in databases)


def _disk(inventory: Inventory, context: TaskContext) -> model.DiskUse | None:
    try:
        usage = shutil.disk_usage(context.store.directory)
    except OSError:
        return None
    return model.DiskUse(sum(g.archive_bytes for g in inventory.generations), usage.free, usage.total)


def _log(context: TaskContext) -> tuple[model.LogEntry, ...] | None:
    try:
        lines = last_lines(context.store.directory / LOG_NAME, MOST_LINES)
    except OSError:
        return None
    return tuple(model.LogEntry(line.at, line.level[:_MAX_LEVEL], line.message[:_MAX_MESSAGE]) for line in lines)
