"""How values become rows, and rows values."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, delete, func, select
from sqlalchemy.orm import Session

from backupd.catalog.models import CheckResult, Copy, CopyState, Generation, Outbox, Ping, Run
from backupd.catalog.models import Told as ToldRow
from backupd.catalog.records import (
    Book,
    CheckRecord,
    LastRun,
    OutboxMessage,
    PingRecord,
    RunRecord,
    Told,
)
from backupd.errors import Terminated
from backupd.model import CLOCK_TOLERANCE, Manifest, Outcome
from backupd.report import AnyReport, report_from_json, report_to_json

_TERMINATED = Terminated.exit_code
_MOST_FAILURES = 50  # of those in a row: a day of retries


@dataclass(frozen=True, slots=True)
class RunMark:
    """One run that ended: when it began, how it ended, how long it took, and the sizes that its report tells."""

    started_at: datetime
    outcome: Outcome
    exit_code: int | None = None
    duration_s: float | None = None
    snapshot_bytes: int | None = None
    archive_bytes: int | None = None


def generation_row(manifest: Manifest) -> Generation:
    """Return what the catalog keeps of `manifest`."""
    return Generation(
        id=manifest.id,
        source=manifest.source,
        taken_at=manifest.taken_at,
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )


def run_row(report: AnyReport, configuration: str) -> Run:
    """Return the row of a run that began as `report` says, not finished yet."""
    return Run(task=report.task, source=report.subject, started_at=report.started_at, configuration=configuration)


def finish(run: Run, report: AnyReport, finished_at: datetime) -> None:
    """Write into `run` how it ended."""
    run.finished_at = finished_at
    run.outcome = report.outcome
    run.generation = report.generation
    run.error = report.error
    run.exit_code = report.exit_code
    run.duration_s = report.duration_s
    run.report = report_to_json(report)


def set_state(session: Session, generation: str, store: str, state: CopyState, since: datetime) -> None:
    """Note the state of a copy; `since` counts only where that is a change."""
    copy = session.get(Copy, (generation, store))
    if copy is None:
        session.add(Copy(generation=generation, store=store, state=state, since=since))
    elif copy.state != state:
        copy.state, copy.since = state, since


def run_record(row: Run) -> RunRecord:
    """Return `row` as a value. Raises ValueError when its report cannot be read."""
    return RunRecord(
        id=row.id,
        task=row.task,
        source=row.source,
        started_at=row.started_at,
        finished_at=row.finished_at,
        outcome=row.outcome,
        generation=row.generation,
        error=row.error,
        exit_code=row.exit_code,
        duration_s=row.duration_s,
        report=None if row.report is None else report_from_json(row.report),
    )


def check_record(row: CheckResult) -> CheckRecord:
    """Return `row` as a value."""
    return CheckRecord(row.generation, row.store, row.checked_at, bool(row.sound), row.detail, row.duration_s)


def read_book(session: Session, scope: str) -> Book:
    """Return what the daemon of `scope` has said, and has to send."""
    told = session.scalars(select(ToldRow).where(ToldRow.scope == scope))
    queue = session.scalars(select(Outbox).where(Outbox.scope == scope).order_by(Outbox.made_at, Outbox.reference))
    return Book(
        {row.key: Told(row.value, row.since, row.told_at) for row in told},
        tuple(
            OutboxMessage(
                row.reference,
                row.made_at,
                row.mood,
                row.title,
                row.body,
                frozenset(row.channels.split()),
                row.attempts,
                row.next_at,
            )
            for row in queue
        ),
    )


def write_book(session: Session, scope: str, book: Book) -> None:
    """Put `book` in place of what was kept for `scope`."""
    session.execute(delete(ToldRow).where(ToldRow.scope == scope))
    session.execute(delete(Outbox).where(Outbox.scope == scope))
    for key, told in book.told.items():
        session.add(ToldRow(scope=scope, key=key, value=told.value, since=told.since, told_at=told.told_at))
    for queued in book.queue:
        session.add(
            Outbox(
                scope=scope,
                reference=queued.reference,
                made_at=queued.made_at,
                mood=queued.mood,
                title=queued.title,
                body=queued.body,
                channels=" ".join(sorted(queued.channels)),
                attempts=queued.attempts,
                next_at=queued.next_at,
            )
        )


def last_runs(session: Session, now: datetime) -> list[LastRun]:
    """Return how the last run of each task of each subject ended, and since when such runs fail.

    Runs that were told to stop say nothing, nor do those that a clock ran ahead for.
    """
    until = now + CLOCK_TOLERANCE
    ended = (Run.finished_at <= until, Run.started_at <= until, Run.exit_code.is_distinct_from(_TERMINATED))
    newest = select(Run.task, Run.source, func.max(Run.started_at).label("at")).where(*ended)
    last = newest.group_by(Run.task, Run.source).subquery()
    query = select(Run).join(
        last, (Run.task == last.c.task) & (Run.source == last.c.source) & (Run.started_at == last.c.at)
    )
    runs = session.scalars(query.where(*ended).order_by(Run.task, Run.source, Run.id))
    by_subject = {(run.task, run.source): run for run in runs}  # of two that began at once the later one
    return [_last_run(session, run, until) for run in by_subject.values()]


def _last_run(session: Session, run: Run, until: datetime) -> LastRun:
    """Return `run`, the last one of its task and subject that ended, with the runs in a row that failed up to it."""
    if run.outcome != "failed":
        return LastRun(run_record(run), None)
    mine = (Run.task == run.task, Run.source == run.source, Run.started_at <= until)
    succeeded = select(func.max(Run.started_at)).where(*mine, Run.outcome != "failed", Run.finished_at.is_not(None))
    last = session.scalar(succeeded)
    failed = [*mine, Run.outcome == "failed", Run.exit_code.is_distinct_from(_TERMINATED)]
    if last is not None:
        failed.append(Run.started_at > last)
    since, count = session.execute(select(func.min(Run.finished_at), func.count()).where(*failed)).one()
    newest = select(Run).where(*failed).order_by(Run.started_at.desc(), Run.id.desc()).limit(_MOST_FAILURES)
    records = tuple(run_record(one) for one in session.scalars(newest))
    return LastRun(run_record(run), since or run.finished_at, max(count, 1), records or (run_record(run),))


def note_ping(session: Session, task: str, source: str, at: datetime, reason: str) -> None:
    """Count one ping; `reason` is why it was not taken, empty where it was."""
    row = session.get(Ping, (task, source))
    if row is None:
        row = Ping(task=task, source=source, taken=0, failed=0, reason="")
        session.add(row)
    if reason:
        row.failed, row.failed_at, row.reason = row.failed + 1, at, reason
    else:
        row.taken, row.taken_at = row.taken + 1, at


def read_pings(session: Session) -> tuple[PingRecord, ...]:
    """Return the record of each task and source that ever pinged."""
    rows = session.scalars(select(Ping).order_by(Ping.task, Ping.source))
    return tuple(
        PingRecord(row.task, row.source, row.taken, row.failed, row.taken_at, row.failed_at, row.reason) for row in rows
    )


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
