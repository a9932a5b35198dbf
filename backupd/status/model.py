"""The status as values, which HTTP, metrics and the command line show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from backupd.catalog import PingRecord
from backupd.health import Health
from backupd.model import Kind, Task
from backupd.report import DrillReport
from backupd.runbook import DOCS_URL
from backupd.status.calendar import Day, DayState

Stage = Literal["first-day", "empty", "failing", "degraded", "healthy"]
Unread = Literal["store", "catalog", "log"]


@dataclass(frozen=True, slots=True)
class Point:
    """The last successful backup of one day; a size is None where its report lacks it."""

    date: date
    duration_s: float | None
    snapshot_bytes: int | None
    archive_bytes: int | None


@dataclass(frozen=True, slots=True)
class GenerationFigures:
    """One generation in the local store."""

    id: str
    taken_at: datetime
    archive_bytes: int
    snapshot_bytes: int
    verification: str
    kept_for: tuple[str, ...]  # why it is kept; the next prune removes one without a reason
    stores: tuple[str, ...]
    pinned: bool = False
    pinned_until: datetime | None = None  # None for a pin: until it is released
    label: str = ""  # what an operator called it
    kind: Kind = "database"


@dataclass(frozen=True, slots=True)
class FilesFigures:
    """The newest verified generation of a set of files, and how much more it holds than the one before (None: none)."""

    files: int
    size_bytes: int
    changed_at: datetime  # when that generation was taken: nothing has changed in later backups
    more_files: int | None = None
    more_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PointFigures:
    """One restore point in the local store; `stores` are those that have all its parts."""

    id: str
    taken_at: datetime
    spread_ms: int
    parts: tuple[str, ...]  # ids of generations
    sound: bool  # whether all of them are there, undamaged
    stores: tuple[str, ...]
    kept_for: tuple[str, ...] = ()
    current: bool = False  # no source has a newer verified one; a run without changes makes no point


@dataclass(frozen=True, slots=True)
class SourceHistory:
    """The backups of one source: its days, sizes and durations, and the newest of its generations."""

    source: str
    days: tuple[Day, ...]
    points: tuple[Point, ...]
    generations: tuple[GenerationFigures, ...]
    generation_count: int  # how many generations of it the local store holds, and (`stored_bytes`) their size
    stored_bytes: int
    files: FilesFigures | None = None  # of a set of files

    @property
    def last_state(self) -> DayState:
        """The state of the last day that is known."""
        return next((day.state for day in reversed(self.days) if day.state != "none"), "none")


@dataclass(frozen=True, slots=True)
class DrillFigures:
    """One restore drill of source `subject` from `store` (None: not known)."""

    subject: str
    store: str | None
    started_at: datetime
    outcome: str | None
    duration_s: float | None  # the time of recovery
    stages: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One replica, and how many generations it holds according to the catalog."""

    replica: str
    generations: int


@dataclass(frozen=True, slots=True)
class DiskUse:
    """The file system of the local store, and the size of the archives in it."""

    stored_bytes: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of `backup.log`; one that backupd did not write has neither time nor level."""

    at: datetime | None
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class MessageFigures:
    """How many messages wait for delivery, and when a channel last accepted and last refused one."""

    waiting: int = 0
    accepted_at: datetime | None = None
    refused_at: datetime | None = None

    @property
    def failing(self) -> bool:
        """Whether a message waits that a channel refused at the last attempt."""
        last_refused = self.refused_at is not None and (self.accepted_at is None or self.accepted_at <= self.refused_at)
        return self.waiting > 0 and last_refused


@dataclass(frozen=True, slots=True)
class NextRun:
    """When a task runs next, in the zone of its schedule, and why."""

    task: Task
    source: str
    at: datetime
    reason: str = "by schedule"
    retry: bool = False  # whether its last run failed
    overdue: bool = False  # whether it is due already and waits for the daemon; `at` is now


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
    files: FilesFigures | None = None  # of a set of files


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """The runs of one task of one source in the catalog; error, hint and warnings may name paths."""

    task: Task
    source: str
    last_success_at: datetime | None
    runs: Mapping[str, int]
    duration_s: float | None = None  # of the last successful run, as are `stages` and `warnings`
    stages: Mapping[str, float] | None = None
    failed_at: datetime | None = None  # set where the last run that ended failed, with its `error` and `hint`
    error: str = ""
    generation: str | None = None  # what the last successful drill restored; `drill` has what it measured
    drill: DrillReport | None = None
    hint: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """Everything at one moment."""

    taken_at: datetime
    started_at: datetime
    health: Health
    migrations_ok: bool  # whether the catalog has its newest schema and can be read; otherwise there are no `next_runs`
    tasks: tuple[TaskFigures, ...]
    sources: tuple[SourceFigures, ...]
    free_bytes: Mapping[str, int]
    sqlite_version: str
    messages: MessageFigures = MessageFigures()
    pings: tuple[PingRecord, ...] = ()
    next_runs: tuple[NextRun, ...] = ()
    restores: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by source, then by outcome
    point: PointFigures | None = None  # the newest sound restore point; None where there is none
    points: int = 0  # how many restore points the local store holds

    @property
    def runs_known(self) -> bool:
        """Whether the catalog could be read, or there was none yet: a count of 0 is then true."""
        return self.migrations_ok or bool(self.next_runs)


@dataclass(frozen=True, slots=True)
class Instance:
    """This backupd itself; `exec_prefix` goes before a command to run it in its container."""

    name: str = "backupd"
    docs_url: str = DOCS_URL
    exec_prefix: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """The status, and how it came about."""

    status: Status
    timezone: str
    histories: tuple[SourceHistory, ...]
    drills: tuple[DrillFigures, ...]
    replicas: tuple[ReplicaFigures, ...]
    disk: DiskUse | None
    log: tuple[LogEntry, ...]
    unread: tuple[Unread, ...] = ()  # what could not be read; its part is empty
    points: tuple[PointFigures, ...] = ()  # the newest restore points
    exposed: bool = False  # whether an app can delete the backups along with its database, and no replica has copies
    instance: Instance = Instance()

    @property
    def unheard(self) -> bool:
        """Whether messages or pings are not delivered."""
        return self.status.messages.failing or any(ping.failing for ping in self.status.pings)

    @property
    def stage(self) -> Stage:
        """The state of the whole, which the page begins with: the worst that applies."""
        health = self.status.health
        backed_up = any(freshness.task == "backup" and freshness.last_at for freshness in health.freshness)
        ran = any(sum(task.runs.values()) for task in self.status.tasks if task.task == "backup")
        if not backed_up and "store" not in self.unread:
            return "empty" if ran or any(history.generation_count for history in self.histories) else "first-day"
        if not health.healthy:
            return "failing"
        days = {history.last_state for history in self.histories}
        warned = health.warnings or self.unread or self.unheard or days - {"verified", "none"}
        return "degraded" if warned else "healthy"
