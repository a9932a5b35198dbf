"""What the catalog answers: frozen values, and how a whole report becomes text and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from backupd.model import DrillReport, Mood, Outcome, RunReport

_REPORT_FIELDS: Final = tuple(one.name for one in fields(RunReport))
_DRILL_FIELDS: Final = tuple(one.name for one in fields(DrillReport))


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
    report: RunReport | None


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


def utc_from_text(text: str) -> datetime:
    """Read an aware UTC time. Raises ValueError when `text` is no ISO 8601 time with a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.astimezone(UTC)


def report_to_json(report: RunReport) -> str:
    """Write the whole report as ASCII JSON, times as ISO 8601."""
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
    """Read a report, also another version's: without unknown fields, with defaults for missing ones.

    Raises ValueError when it is none.
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
