"""What the status page has to show, in each of its five states: values as a daemon of some months would tell them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backupd.catalog import RunSummary
from backupd.health import Failure, Freshness, Health, HealthFacts
from backupd.model import Generation, Outcome, Task, generation_id
from backupd.retention import RetentionPolicy, plan_retention
from backupd.schedule import Schedule
from backupd.status.calendar import SourceRecords, judge_days, runs_by_day
from backupd.status.model import (
    DiskUse,
    DrillFigures,
    FilesFigures,
    GenerationFigures,
    History,
    Instance,
    LogEntry,
    NextRun,
    Point,
    PointFigures,
    ReplicaFigures,
    SourceFigures,
    SourceHistory,
    Status,
    TaskFigures,
)

ZONE: Final = ZoneInfo("America/Santiago")
NOW: Final = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
INSTANCE: Final = Instance("shop on server 3", exec_prefix="docker exec 0a1b2c3d4e5f ")
NIGHTLY: Final = Schedule.parse("04:00", ZONE)
DAY: Final = timedelta(days=1)
MIB: Final = 1 << 20

_LAST: Final = NIGHTLY.latest(NOW)
_FAILED_ON: Final = frozenset({41, 42, 143, 260})
_MISSED_ON: Final = frozenset({77, 78, 79, 201})
_DEGRADED_ON: Final = frozenset({12, 118, 190, 233, 301})
_FIRST: Final[tuple[tuple[Task, str], ...]] = (("backup", "tasks"), ("replicate", "offsite"))
_ERROR: Final = "no database at /app/data/tasks.db"
_HINT: Final = "check the path and that the right volume is mounted: an unmounted one is an empty directory"


def healthy() -> History:
    """A year of nights, a few of them bad, all of that long ago."""
    facts = HealthFacts(
        (
            Freshness("backup", "tasks", _LAST, 93_600),
            Freshness("backup", "notes", _LAST + timedelta(seconds=8), 93_600),
            Freshness("replicate", "offsite", NOW - 3 * DAY, 655_200),
            Freshness("drill", "offsite", NOW - 24 * DAY, 2_901_600),
        )
    )
    return History(
        status=_status(facts),
        timezone=str(ZONE),
        histories=(_history("tasks", 330), _history("notes", 4)),
        drills=_drills(),
        replicas=(ReplicaFigures("offsite", 19),),
        disk=DiskUse(1460 * MIB, 21_300 * MIB, 40_000 * MIB),
        log=_log(),
        instance=INSTANCE,
    )


def whole_app() -> History:
    """A set of files beside the databases, with restore points of all."""
    history = healthy()
    files = FilesFigures(12_345, 2100 * MIB, _LAST, 12, 3 * MIB)
    uploads = replace(_history("uploads", 40), files=files)
    generations = tuple(replace(one, kind="files") for one in uploads.generations)
    uploads = replace(uploads, generations=generations)
    points = tuple(
        PointFigures(
            id=generation_id("point", at),
            taken_at=at,
            spread_ms=12 + 1_300 * ago,
            parts=tuple(generation_id(source, at) for source in ("tasks", "notes", "uploads")),
            sound=ago != 2,
            stores=("local", "offsite") if ago else ("local",),
            current=ago == 0,
            kept_for=("within 48h",) if ago < 2 else (f"daily {at:%Y-%m-%d}",) if ago < 3 else (),
        )
        for ago in range(4)
        for at in [_LAST - ago * DAY]
    )
    figures = SourceFigures("uploads", 4, 4, files.size_bytes, 1 * MIB, _LAST, frozen=False, files=files)
    sources = (*history.status.sources, figures)
    status = replace(history.status, sources=sources, point=points[0], points=len(points))
    return replace(history, status=status, histories=(*history.histories, uploads), points=points)


def degraded() -> History:
    """All proofs are young enough, but a generation is damaged, and the last replication failed once."""
    history = healthy()
    error = "nas.example:22 does not answer: timed out"
    hint = "backupd tries again; if it keeps failing, check the host, its port, and the network between"
    failed_at = NOW - timedelta(minutes=2)
    facts = HealthFacts(
        history.status.health.freshness,
        failures=(Failure("replicate", "offsite", "unreachable", failed_at, 1, error, hint),),
        damaged=(("tasks-20261101-0700", "tasks"),),
    )
    runs = {"done": 40, "failed": 1}
    failed = TaskFigures("replicate", "offsite", NOW - 3 * DAY, runs, failed_at=failed_at, error=error, hint=hint)
    retry = NextRun("replicate", "offsite", NOW + timedelta(minutes=1), "the last run failed", retry=True)
    status = replace(history.status, health=Health.of(facts, NOW))
    tasks, next_runs = (*status.tasks[:2], failed, *status.tasks[3:]), status.next_runs
    return replace(history, status=replace(status, tasks=tasks, next_runs=(*next_runs[:2], retry, next_runs[3])))


def failing() -> History:
    """For two nights the database was not there, no restore was ever rehearsed, and there is no other place."""
    nights = (NOW - 2 * DAY).replace(hour=7)
    facts = HealthFacts(
        (
            Freshness("backup", "tasks", nights - DAY, 93_600),
            Freshness("drill", "local", None, 2_901_600),
        ),
        failures=(Failure("backup", "tasks", "missing", nights, 20, _ERROR, _HINT),),
    )
    failed = TaskFigures(
        "backup", "tasks", nights, {"published": 329, "failed": 20}, failed_at=NOW - timedelta(minutes=18), error=_ERROR
    )
    retry = NextRun("backup", "tasks", NOW + timedelta(minutes=42), "the last 20 runs failed", retry=True)
    status = replace(_status(facts), tasks=(replace(failed, hint=_HINT),), next_runs=(retry,))
    source_history = _history("tasks", 330, failed_on=_FAILED_ON | {0, 1})
    error = LogEntry(NOW - timedelta(minutes=18), "ERROR", f"backup of tasks: failed: {_ERROR}")
    return replace(
        healthy(),
        status=replace(status, sources=status.sources[:1]),
        histories=(source_history,),
        drills=(),
        replicas=(),
        log=(*_log()[:-1], error),
    )


def empty() -> History:
    """Runs there were, but nothing is left of what they made, and no replica or drill was ever set up."""
    facts = HealthFacts((Freshness("backup", "tasks", None, 93_600),))
    status = replace(_status(facts), sources=(SourceFigures("tasks", 0, 0, None, None, None, frozen=False),))
    source_history = _history("tasks", 9)
    gone = replace(source_history, generations=(), generation_count=0, stored_bytes=0)
    return replace(failing(), status=replace(status, tasks=status.tasks[:1]), histories=(gone,))


def first_day() -> History:
    """The daemon has just begun."""
    facts = HealthFacts((Freshness("backup", "tasks", None, 93_600), Freshness("replicate", "offsite", None, 655_200)))
    status = Status(
        taken_at=NOW,
        started_at=NOW - timedelta(seconds=5),
        health=Health.of(facts, NOW),
        migrations_ok=True,
        tasks=(TaskFigures("backup", "tasks", None, {}),),
        sources=(SourceFigures("tasks", 0, 0, None, None, None, frozen=False),),
        free_bytes={"local": 21_300 * MIB},
        sqlite_version="3.54.1",
        next_runs=tuple(NextRun(*one, NOW, "there was none yet", overdue=True) for one in _FIRST),
    )
    started = LogEntry(NOW - timedelta(seconds=5), "INFO", "backupd 0.1.0 backs up tasks as user 1000:1000")
    return History(
        status=status,
        timezone=str(ZONE),
        histories=(SourceHistory("tasks", judge_days(SourceRecords(), NIGHTLY, NOW), (), (), 0, 0),),
        drills=(),
        replicas=(ReplicaFigures("offsite", 0),),
        disk=DiskUse(0, 21_300 * MIB, 40_000 * MIB),
        log=(started,),
        instance=INSTANCE,
    )


STATES: Final = {
    "healthy": healthy,
    "whole-app": whole_app,
    "degraded": degraded,
    "failing": failing,
    "empty": empty,
    "first-day": first_day,
}


def _status(facts: HealthFacts) -> Status:
    runs = {"published": 318, "unchanged": 8, "degraded": 4, "failed": 6}
    stages = {"snapshot": 0.4, "check": 1.1, "pack": 1.3, "publish": 0.2}
    return Status(
        taken_at=NOW,
        started_at=NOW - 40 * DAY,
        health=Health.of(facts, NOW),
        migrations_ok=True,
        tasks=(
            TaskFigures("backup", "tasks", _LAST, runs, 2.2, stages),
            TaskFigures("backup", "notes", _LAST, {"published": 4}, 0.3, stages),
            TaskFigures("replicate", "offsite", NOW - 3 * DAY, {"done": 41}, 12.4, {"send": 11.9}),
            TaskFigures("prune", "tasks", _LAST, {"done": 320}, 0.1, {"prune": 0.1}),
        ),
        sources=(
            SourceFigures("tasks", 10, 10, 118 * MIB, 41 * MIB, _LAST, frozen=False),
            SourceFigures("notes", 4, 4, 6 * MIB, 2 * MIB, _LAST, frozen=False),
        ),
        free_bytes={"local": 21_300 * MIB},
        sqlite_version="3.54.1",
        next_runs=(
            NextRun("backup", "tasks", _LAST + DAY),
            NextRun("backup", "notes", _LAST + DAY),
            NextRun("replicate", "offsite", NOW + 4 * DAY),
            NextRun("drill", "offsite", NOW + 6 * DAY),
        ),
    )


def _history(source: str, nights: int, failed_on: frozenset[int] = _FAILED_ON) -> SourceHistory:
    marks = tuple(_marks(nights, 118 * MIB if source == "tasks" else 6 * MIB, failed_on))
    records = SourceRecords(marks, begin_at=marks[0].started_at)
    last = {day: found[-1] for day, found in runs_by_day((m for m in marks if m.outcome != "failed"), ZONE).items()}
    generations = _generations(source, marks)
    return SourceHistory(
        source=source,
        days=judge_days(records, NIGHTLY, NOW),
        points=tuple(Point(day, m.duration_s, m.snapshot_bytes, m.archive_bytes) for day, m in last.items()),
        generations=generations,
        generation_count=len(generations),
        stored_bytes=sum(generation.archive_bytes for generation in generations),
    )


def _marks(nights: int, size: int, failed_on: frozenset[int]) -> Iterator[RunSummary]:
    for ago in reversed(range(nights)):
        if ago in _MISSED_ON:
            continue
        at = _LAST - ago * DAY
        share = 0.35 + 0.65 * (1 - ago / 365) ** 2 + 0.02 * ((ago * 7) % 5 - 2) / 5
        outcome: Outcome = "failed" if ago in failed_on else "degraded" if ago in _DEGRADED_ON else "published"
        took = 2.2 * share * (1 + 0.1 * ((ago * 13) % 7) / 7) + (3 if ago % 97 == 0 else 0)
        if outcome == "failed":
            yield RunSummary(at, outcome, 1, 0.2)
        else:
            yield RunSummary(at, outcome, 0, round(took, 2), int(size * share), int(size * share * 0.35))


def _generations(source: str, marks: tuple[RunSummary, ...]) -> tuple[GenerationFigures, ...]:
    made = [
        Generation(
            generation_id(source, mark.started_at),
            source,
            mark.started_at,
            mark.archive_bytes or 0,
            mark.snapshot_bytes or 0,
            "full",
        )
        for mark in marks
        if mark.outcome != "failed"
    ]
    plan = plan_retention(made, RetentionPolicy(monthly=2), NOW, ZONE)
    return tuple(
        GenerationFigures(
            kept.generation.id,
            kept.generation.taken_at,
            kept.generation.archive_bytes,
            kept.generation.snapshot_bytes,
            "full",
            kept.reasons,
            ("local", "offsite") if kept.generation.taken_at < NOW - 3 * DAY else ("local",),
            *_pin_of(kept.generation.taken_at),
        )
        for kept in plan.keep
    )


def _pin_of(taken_at: datetime) -> tuple[bool, datetime | None, str]:
    """Pin the generation of two days ago until it is released, and that of three days ago for a month."""
    match (NOW - taken_at) // DAY:
        case 2:
            return True, None, "before the move to v2"
        case 3:
            return True, taken_at + 30 * DAY, ""
    return False, None, ""


def _drills() -> tuple[DrillFigures, ...]:
    stages = {"fetch": 18.2, "unpack": 0.9, "verify": 1.4, "app": 3.1}
    return (
        DrillFigures("tasks", "offsite", NOW - 24 * DAY, "done", 23.6, stages),
        DrillFigures("tasks", "offsite", NOW - 55 * DAY, "done", 21.9, stages),
        DrillFigures(
            "tasks", "offsite", NOW - 85 * DAY, "failed", 4.0, {"fetch": 4.0}, "nas.example:22 does not answer"
        ),
    )


def _log() -> tuple[LogEntry, ...]:
    return tuple(
        LogEntry(_LAST + timedelta(seconds=second), level, message)
        for second, level, message in (
            (0, "INFO", "backup of tasks is due: by schedule"),
            (1, "INFO", "backup of tasks begins"),
            (2, "WARNING", "waiting for a prune (process 41 on app-1) to end, 60 s at most"),
            (4, "INFO", "published tasks-20261125-0700, 118.0 MiB as 41.3 MiB"),
            (4, "INFO", "removed tasks-20261118-0700: a newer one of 2026-W47 stays"),
            (5, "INFO", "backup of tasks: published tasks-20261125-0700, verified full, 2.2 s, 14 kept, 1 removed"),
        )
    )
