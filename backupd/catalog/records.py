"""Values that the catalog returns, and run reports as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from backupd.model import DrillReport, Outcome, RunReport, Severity

_REPORT_FIELDS: Final = tuple(one.name for one in fields(RunReport))
_DRILL_FIELDS: Final = tuple(one.name for one in fields(DrillReport))


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run; the fields from `finished_at` on, `generation` excepted, are None until it ends.

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
    report: RunReport | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The facts of a finished run that a chart needs; sizes come from its report."""

    started_at: datetime
    outcome: Outcome
    exit_code: int | None = None
    duration_s: float | None = None
    snapshot_bytes: int | None = None
    archive_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """The result of one check of a generation's copy in one store."""

    generation: str
    store: str
    checked_at: datetime
    sound: bool
    detail: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class GenerationHistory:
    """Runs and checks of one generation, newest first."""

    runs: tuple[RunRecord, ...]
    checks: tuple[CheckRecord, ...]


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last finished run of a task and source, and the failures in a row that it ends."""

    run: RunRecord
    failing_since: datetime | None
    """When the first of these failures ended; None when the last run did not fail."""
    failures: int = 0
    failed: tuple[RunRecord, ...] = ()
    """The newest of these failures, newest first."""


@dataclass(frozen=True, slots=True)
class NoticeRecord:
    """One fact that the notifier keeps under a key, with the `value` that belongs to it."""

    value: str
    since: datetime
    """When it was first observed."""
    notified_at: datetime | None = None
    """When a message last reported it; None: not yet."""


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that still has to be delivered to `channels`, next tried at `next_at`."""

    reference: str
    """Identifies the message: a receiver that gets it twice, after a crash between sending and recording, can tell."""
    made_at: datetime
    severity: Severity
    title: str
    body: str
    channels: frozenset[str]
    attempts: int
    next_at: datetime


@dataclass(frozen=True, slots=True)
class NotificationState:
    """All notices of a daemon by key, and its undelivered messages, oldest first."""

    notices: Mapping[str, NoticeRecord] = field(default_factory=dict)
    outbox: tuple[OutboxMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class PingRecord:
    """Counts of accepted and failed pings of a task of a source (empty for the daily ping).

    `reason` is the error of the last failed one.
    """

    task: str
    source: str
    accepted: int
    failed: int
    accepted_at: datetime | None
    failed_at: datetime | None
    reason: str

    def __str__(self) -> str:
        """Return `backup of tasks`, `daily`."""
        return f"{self.task} of {self.source}" if self.source else self.task

    @property
    def failing(self) -> bool:
        """Whether the last ping failed."""
        return self.failed_at is not None and (self.accepted_at is None or self.accepted_at < self.failed_at)


def utc_from_text(text: str) -> datetime:
    """Read an aware UTC time. Raises ValueError when `text` is not an ISO 8601 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


def report_to_json(report: RunReport) -> str:
    """Return the report as ASCII JSON, times as ISO 8601."""
    return json.dumps({name: getattr(report, name) for name in _REPORT_FIELDS}, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):  # a read-only view is no dict
        return dict(value)
    if isinstance(value, DrillReport):
        return asdict(value)
    raise TypeError(f"a report cannot hold {value!r}")


def report_from_json(text: str) -> RunReport:
    """Read a report of any version: unknown fields are dropped, missing ones get their defaults.

    Raises ValueError when `text` is not a report.
    """
    try:
        values = _known(json.loads(text), _REPORT_FIELDS)
        values["started_at"] = utc_from_text(values["started_at"])
        if values.get("drill") is not None:
            values["drill"] = _drill(values["drill"])
        return RunReport(**values)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"a run's report cannot be read: {error}") from error


def _drill(found: Mapping[str, Any]) -> DrillReport:
    values = _known(found, _DRILL_FIELDS)
    if values.get("taken_at") is not None:
        values["taken_at"] = utc_from_text(values["taken_at"])
    return DrillReport(**values)


def _known(found: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: found[name] for name in names if name in found}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
