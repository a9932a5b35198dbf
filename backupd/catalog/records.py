"""What the catalog answers, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from backupd.model import Mood, Outcome
from backupd.report import AnyReport


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as the catalog remembers it; all that comes with the end is `None` while it is not finished.

    An interrupted run has outcome `failed` and error `interrupted`, but no duration, exit code or report.
    """

    id: int
    task: str
    source: str
    started_at: datetime
    finished_at: datetime | None
    outcome: Outcome | None
    generation: str | None
    error: str | None
    exit_code: int | None
    duration_s: float | None
    report: AnyReport | None


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """What one check of a generation's copy in one store said."""

    generation: str
    store: str
    checked_at: datetime
    sound: bool
    detail: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class History:
    """What concerns one generation, newest first."""

    runs: tuple[RunRecord, ...]
    checks: tuple[CheckRecord, ...]


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a task of a subject that ended.

    As many runs in a row as `failures` says failed, of which the first ended at `failing_since`; `failed` are the last
    ones of these, newest first.
    """

    run: RunRecord
    failing_since: datetime | None
    failures: int = 0
    failed: tuple[RunRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """Something that was noticed `since` then, with what is worth remembering of it; `told_at` None: not said yet."""

    value: str
    since: datetime
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that not all `channels` have taken yet, to be tried again at `next_at`.

    `reference` is the same for the same message: who gets it twice, after a crash between sending and noting that,
    can tell.
    """

    reference: str
    made_at: datetime
    mood: Mood
    title: str
    body: str
    channels: frozenset[str]
    attempts: int
    next_at: datetime


@dataclass(frozen=True, slots=True)
class PingRecord:
    """How often the monitor of a task of a source took a ping and how often not, when it last did, and why not.

    `source` is empty for the daily ping.
    """

    task: str
    source: str
    taken: int
    failed: int
    taken_at: datetime | None
    failed_at: datetime | None
    reason: str

    def __str__(self) -> str:
        """Return `backup of tasks`, `daily`."""
        return f"{self.task} of {self.source}" if self.source else self.task

    @property
    def failing(self) -> bool:
        """Whether the last ping was not taken."""
        return self.failed_at is not None and (self.taken_at is None or self.taken_at < self.failed_at)


@dataclass(frozen=True, slots=True)
class Book:
    """All that a daemon has said, by key, and what it has yet to send, oldest first."""

    told: Mapping[str, Told] = field(default_factory=dict)
    queue: tuple[OutboxMessage, ...] = ()
