"""Rows to values, values to rows, and the queries that take more than one statement."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, case, delete, func, select
from sqlalchemy.orm import Session

from backupd.catalog.models import CheckRow, CopyRow, CopyState, GenerationRow, NoticeRow, OutboxRow, PingRow, RunRow
from backupd.catalog.records import (
    CheckRecord,
    LastRun,
    NoticeRecord,
    NotificationState,
    OutboxMessage,
    PingRecord,
    RunRecord,
    RunSummary,
)
from backupd.errors import Terminated
from backupd.model import CLOCK_TOLERANCE, Manifest
from backupd.report import AnyReport, report_from_json, report_to_json

NEWEST_RUN: Final = (RunRow.started_at.desc(), RunRow.id.desc())
NOT_STOPPED: Final = RunRow.exit_code.is_distinct_from(Terminated.exit_code)  # a run that was told to stop did not fail
_MAX_FAILURES: Final = 50  # of failures in a row: a day of retries


def generation_row(manifest: Manifest) -> GenerationRow:
    """Return the row of a manifest."""
    return GenerationRow(
        id=manifest.id,
        source=manifest.source,
        taken_at=manifest.taken_at,
        snapshot_bytes=manifest.snapshot.size_bytes,
        archive_bytes=manifest.archive.size_bytes,
        snapshot_sha256=manifest.snapshot.sha256,
        archive_sha256=manifest.archive.sha256,
        verification=manifest.verdict.level,
    )


def run_row(report: AnyReport, configuration: str) -> RunRow:
    """Return the row of a run that began as `report` says and is not finished yet."""
    return RunRow(task=report.task, source=report.subject, started_at=report.started_at, configuration=configuration)


def finish(run: RunRow, report: AnyReport, finished_at: datetime) -> None:
    """Write the end of a run into its row."""
    run.finished_at = finished_at
    run.outcome = report.outcome
    run.generation = report.generation
    run.error = report.error
    run.exit_code = report.exit_code
    run.duration_s = report.duration_s
    run.report = report_to_json(report)


def set_state(session: Session, generation: str, store: str, state: CopyState, since: datetime) -> None:
    """Set the state of a copy; a state that it already has keeps its `since`."""
    copy = session.get(CopyRow, (generation, store))
    if copy is None:
        session.add(CopyRow(generation=generation, store=store, state=state, since=since))
    elif copy.state != state:
        copy.state, copy.since = state, since


def run_record(row: RunRow) -> RunRecord:
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


def check_record(row: CheckRow) -> CheckRecord:
    """Return `row` as a value."""
    return CheckRecord(row.generation, row.store, row.checked_at, bool(row.sound), row.detail, row.duration_s)


def read_notification_state(session: Session, scope: str) -> NotificationState:
    """Return the notices and undelivered messages of `scope`."""
    notices = session.scalars(select(NoticeRow).where(NoticeRow.scope == scope))
    oldest_first = (OutboxRow.made_at, OutboxRow.reference)
    messages = session.scalars(select(OutboxRow).where(OutboxRow.scope == scope).order_by(*oldest_first))
    return NotificationState(
        {row.key: NoticeRecord(row.value, row.since, row.notified_at) for row in notices},
        tuple(
            OutboxMessage(
                row.reference,
                row.made_at,
                row.severity,
                row.title,
                row.body,
                frozenset(row.channels.split()),
                row.attempts,
                row.next_at,
            )
            for row in messages
        ),
    )


def write_notification_state(session: Session, scope: str, state: NotificationState) -> None:
    """Replace the notices and undelivered messages of `scope`."""
    session.execute(delete(NoticeRow).where(NoticeRow.scope == scope))
    session.execute(delete(OutboxRow).where(OutboxRow.scope == scope))
    for key, notice in state.notices.items():
        row = NoticeRow(scope=scope, key=key, value=notice.value, since=notice.since, notified_at=notice.notified_at)
        session.add(row)
    for message in state.outbox:
        session.add(
            OutboxRow(
                scope=scope,
                reference=message.reference,
                made_at=message.made_at,
                severity=message.severity,
                title=message.title,
                body=message.body,
                channels=" ".join(sorted(message.channels)),
                attempts=message.attempts,
                next_at=message.next_at,
            )
        )


def record_ping(session: Session, task: str, source: str, at: datetime, error: str) -> None:
    """Count one ping: failed with `error`, accepted where that is empty."""
    row = session.get(PingRow, (task, source))
    if row is None:
        row = PingRow(task=task, source=source, accepted=0, failed=0, reason="")
        session.add(row)
    if error:
        row.failed, row.failed_at, row.reason = row.failed + 1, at, error
    else:
        row.accepted, row.accepted_at = row.accepted + 1, at


def read_pings(session: Session) -> tuple[PingRecord, ...]:
    """Return the record of each task and source."""
    rows = session.scalars(select(PingRow).order_by(PingRow.task, PingRow.source))
    return tuple(
        PingRecord(row.task, row.source, row.accepted, row.failed, row.accepted_at, row.failed_at, row.reason)
        for row in rows
    )


def last_runs(session: Session, now: datetime) -> list[LastRun]:
    """Return the last finished run of each task and source, with the failures in a row that it ends.

    Leaves out runs that were told to stop and runs dated after `now`, see `Catalog.task_history`.
    """
    until = now + CLOCK_TOLERANCE
    finished = (RunRow.finished_at <= until, RunRow.started_at <= until, NOT_STOPPED)
    newest = select(RunRow.task, RunRow.source, func.max(RunRow.started_at).label("at")).where(*finished)
    last = newest.group_by(RunRow.task, RunRow.source).subquery()
    is_last = (RunRow.task == last.c.task) & (RunRow.source == last.c.source) & (RunRow.started_at == last.c.at)
    query = select(RunRow).join(last, is_last).where(*finished).order_by(RunRow.task, RunRow.source, RunRow.id)
    by_subject = {(run.task, run.source): run for run in session.scalars(query)}  # of two with one start, the later row
    return [_last_run(session, run, until) for run in by_subject.values()]


def _last_run(session: Session, run: RunRow, until: datetime) -> LastRun:
    record = run_record(run)
    if run.outcome != "failed":
        return LastRun(record, None)
    same_task = (RunRow.task == run.task, RunRow.source == run.source, RunRow.started_at <= until)
    succeeded = (RunRow.outcome != "failed", RunRow.finished_at.is_not(None))
    last_success = session.scalar(select(func.max(RunRow.started_at)).where(*same_task, *succeeded))
    failed = [*same_task, RunRow.outcome == "failed", NOT_STOPPED]
    if last_success is not None:
        failed.append(RunRow.started_at > last_success)
    since, count = session.execute(select(func.min(RunRow.finished_at), func.count()).where(*failed)).one()
    newest = select(RunRow).where(*failed).order_by(*NEWEST_RUN).limit(_MAX_FAILURES)
    failures = tuple(map(run_record, session.scalars(newest)))
    return LastRun(record, since or run.finished_at, max(count, 1), failures or (record,))


def run_summaries_query(task: str, source: str, since: datetime, until: datetime, limit: int) -> Select[Any]:
    """Return the query for `run_summaries`: the newest `limit` runs that began from `since` to `until` and ended."""
    columns = (RunRow.started_at, RunRow.outcome, RunRow.exit_code, RunRow.duration_s)
    return (
        select(*columns, _report_integer("$.snapshot_bytes"), _report_integer("$.archive_bytes"))
        .where(RunRow.task == task, RunRow.source == source, RunRow.started_at.between(since, until))
        .where(RunRow.outcome.is_not(None), NOT_STOPPED)
        .order_by(*NEWEST_RUN)
        .limit(limit)
    )


def run_summaries(rows: Iterable[Any]) -> tuple[RunSummary, ...]:
    """Return the rows of `run_summaries_query` as values, oldest first."""
    return tuple(RunSummary(*row) for row in rows)[::-1]


def _report_integer(path: str) -> ColumnElement[Any]:
    """Return the integer at `path` of a run's report; null where it is missing, or the report cannot be read."""
    readable = case((func.json_valid(RunRow.report) == 1, RunRow.report))
    return case((func.json_type(readable, path) == "integer", func.json_extract(readable, path)))
