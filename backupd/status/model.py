"""What the daemon can tell of itself: values that HTTP, metrics and the command line show, each in its own way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, Protocol

from backupd.catalog import PingRecord
from backupd.health import Health
from backupd.model import Task
from backupd.report import DrillReport
from backupd.status.calendar import Day, DayState

Stage = Literal["first-day", "empty", "failing", "degraded", "healthy"]
Unread = Literal["store", "catalog", "log"]


@dataclass(frozen=True, slots=True)
class Point:
    """The last good backup of one day; a size is None where its report does not tell it."""

    date: date
    duration_s: float | None
    snapshot_bytes: int | None
    archive_bytes: int | None


@dataclass(frozen=True, slots=True)
class GenerationFigures:
    """One generation in the local store; without a reason to be kept it goes with the next prune.

    One that is `pinned` without `pinned_until` stays until it is released; `label` is what an operator called it.
    """

    id: str
    taken_at: datetime
    archive_bytes: int
    snapshot_bytes: int
    verification: str
    kept_for: tuple[str, ...]
    stores: tuple[str, ...]
    pinned: bool = False
    pinned_until: datetime | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class SourceHistory:
    """How the backups of one source went: its days, its sizes and durations, and the newest of its generations.

    `generation_count` and `stored_bytes` are of all that the local store holds of it.
    """

    source: str
    days: tuple[Day, ...]
    points: tuple[Point, ...]
    generations: tuple[GenerationFigures, ...]
    generation_count: int
    stored_bytes: int

    @property
    def last_state(self) -> DayState:
        """What became of the last day of which anything is known."""
        return next((day.state for day in reversed(self.days) if day.state != "none"), "none")


@dataclass(frozen=True, slots=True)
class DrillFigures:
    """One restore drill of source `subject` from `store` (None: not known); `duration_s` is the time of recovery."""

    subject: str
    store: str | None
    started_at: datetime
    outcome: str | None
    duration_s: float | None
    stages: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One replica, and how many generations it holds as far as the catalog knows."""

    replica: str
    generations: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    """The file system of the local store: what its archives take, what is free, and how large it is."""

    stored_bytes: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of `backup.log`; without time and level where it is none of ours."""

    at: datetime | None
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class MessageFigures:
    """How messages fare: how many wait for a channel to take them, when one last did, and when one last did not."""

    waiting: int = 0
    accepted_at: datetime | None = None
    refused_at: datetime | None = None

    @property
    def failing(self) -> bool:
        """Whether a message waits that a channel did not take at the last try."""
        last_refused = self.refused_at is not None and (self.accepted_at is None or self.accepted_at <= self.refused_at)
        return self.waiting > 0 and last_refused


@dataclass(frozen=True, slots=True)
class NextRun:
    """When a task runs next, in the zone of its schedule, and why; now where it is `overdue` and waits for the daemon.

    `retry` tells that its last run has failed.
    """

    task: Task
    source: str
    at: datetime
    reason: str = "by schedule"
    retry: bool = False
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """What the local store holds of one source; sizes are of the newest verified generation."""

    source: str
    generations: int
    verified: int
    snapshot_bytes: int | None
    archive_bytes: int | None
    newest_at: datetime | None
    frozen: bool


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What became of one task of one source so far, by the catalog; durations are of the last successful run.

    `failed_at`, `error` and `hint` are of the last run that ended, where it failed, `warnings` of the last successful
    one; their words may name paths. `generation` and `drill` tell what the last successful drill restored, and its
    measured recovery point and time.
    """

    task: Task
    source: str
    last_success_at: datetime | None
    runs: Mapping[str, int]
    duration_s: float | None = None
    stages: Mapping[str, float] | None = None
    failed_at: datetime | None = None
    error: str = ""
    generation: str | None = None
    drill: DrillReport | None = None
    hint: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """One look at everything; `migrations_ok` says that the catalog has its newest schema and answers.

    `pings` tells of the monitors that are configured; `next_runs` is empty where the catalog does not answer.
    """

    taken_at: datetime
    started_at: datetime
    health: Health
    migrations_ok: bool
    tasks: tuple[TaskFigures, ...]
    sources: tuple[SourceFigures, ...]
    free_bytes: Mapping[str, int]
    sqlite_version: str
    messages: MessageFigures = MessageFigures()
    pings: tuple[PingRecord, ...] = ()
    next_runs: tuple[NextRun, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """One thorough look; `unread` names what could not be read, of which nothing else is told."""

    status: Status
    timezone: str
    histories: tuple[SourceHistory, ...]
    drills: tuple[DrillFigures, ...]
    replicas: tuple[ReplicaFigures, ...]
    disk: DiskUse | None
    log: tuple[LogEntry, ...]
    unread: tuple[Unread, ...] = ()

    @property
    def unheard(self) -> bool:
        """Whether messages or pings do not get through."""
        return self.status.messages.failing or any(ping.failing for ping in self.status.pings)

    @property
    def stage(self) -> Stage:
        """In which of five states all is, the worst first: what the page begins with."""
        health = self.status.health
        backed_up = any(standing.task == "backup" and standing.last_at for standing in health.freshness)
        ran = any(sum(task.runs.values()) for task in self.status.tasks if task.task == "backup")
        if not backed_up and "store" not in self.unread:
            return "empty" if ran or any(history.generation_count for history in self.histories) else "first-day"
        if not health.healthy:
            return "failing"
        days = {history.last_state for history in self.histories}
        warned = health.warnings or self.unread or self.unheard or days - {"verified", "none"}
        return "degraded" if warned else "healthy"


class StatusService(Protocol):
    """The running daemon, as its HTTP side sees it; each call may be made from any thread."""

    def alive(self) -> tuple[str, ...]:
        """Return why process, scheduler or catalog do not work, in words without paths; empty when all do."""

    def health(self) -> Health:
        """Judge how old the last proofs are."""

    def status(self) -> Status:
        """Look at everything."""

    def history(self) -> History:
        """Look at everything, and at how it came to be."""
