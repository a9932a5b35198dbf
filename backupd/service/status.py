"""What the daemon can tell of itself: values that HTTP, metrics and the command line show, each in its own way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from backupd.catalog import PingRecord
from backupd.health import Health
from backupd.model import DrillReport, Task


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
class MessageFigures:
    """How messages fare: how many wait for a channel to take them, when one last did, and when one last did not."""

    waiting: int = 0
    taken_at: datetime | None = None
    refused_at: datetime | None = None

    @property
    def failing(self) -> bool:
        """Whether a message waits that a channel did not take at the last try."""
        last_refused = self.refused_at is not None and (self.taken_at is None or self.taken_at <= self.refused_at)
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
