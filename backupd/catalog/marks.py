"""Runs in little, for calendars and charts: a year of them is read at once, without their whole reports."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select

from backupd.catalog.models import Run
from backupd.model import Outcome


@dataclass(frozen=True, slots=True)
class RunMark:
    """One run that ended: when it began, how it ended, how long it took, and the sizes that its report tells."""

    started_at: datetime
    outcome: Outcome
    exit_code: int | None = None
    duration_s: float | None = None
    snapshot_bytes: int | None = None
    archive_bytes: int | None = None


def marks_query(task: str, source: str, since: datetime, until: datetime, most: int) -> Select[Any]:
    """Return the query for the newest `most` runs of a task that ended, and began from `since` to `until`."""
    return (
        select(
            Run.started_at,
            Run.outcome,
            Run.exit_code,
            Run.duration_s,
            _number("$.snapshot_bytes"),
            _number("$.archive_bytes"),
        )
        .where(Run.task == task, Run.source == source, Run.started_at.between(since, until), Run.outcome.is_not(None))
        .order_by(Run.started_at.desc(), Run.id.desc())
        .limit(most)
    )


def marks_of(rows: Iterable[Any]) -> tuple[RunMark, ...]:
    """Return the rows of `marks_query` as values, oldest first."""
    return tuple(RunMark(*row) for row in rows)[::-1]


def _number(path: str) -> ColumnElement[Any]:
    """Return an integer of the report at `path`, null where there is none, or no report that can be read."""
    legible = case((func.json_valid(Run.report) == 1, Run.report))
    return case((func.json_type(legible, path) == "integer", func.json_extract(legible, path)))
