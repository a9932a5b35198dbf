"""What the catalog answers: frozen values, and how a whole report becomes text and back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from backupd.model import Outcome, RunReport

_REPORT_FIELDS: Final = tuple(field.name for field in fields(RunReport))


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
    raise TypeError(f"a report cannot hold {value!r}")


def report_from_json(text: str) -> RunReport:
    """Read a report, also another version's: without unknown fields, with defaults for missing ones.

    Raises ValueError when it is none.
    """
    try:
        found = json.loads(text)
        values: dict[str, Any] = {name: found[name] for name in _REPORT_FIELDS if name in found}
        for name, value in values.items():
            values[name] = tuple(value) if isinstance(value, list) else value
        values["started_at"] = utc_from_text(values["started_at"])
        return RunReport(**values)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"a run's report cannot be read: {error}") from error
