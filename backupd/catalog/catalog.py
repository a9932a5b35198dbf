"""The index of runs, generations, copies and checks; each method is one unit of work."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import ColumnElement, Select, case, delete, func, or_, select, update
from sqlalchemy.orm import Session

from backupd.catalog import (
    CheckRecord,
    GenerationHistory,
    LastRun,
    NoticeRecord,
    NotificationState,
    OutboxMessage,
    PingRecord,
    RunRecord,
    RunSummary,
)
from backupd.catalog.database import read_copies
from backupd.catalog.models import (
    CheckRow,
    CopyRow,
    CopyState,
    GenerationRow,
    NoticeRow,
    OutboxRow,
    PingRow,
    RunRow,
    generation_row,
    record_of,
    run_record,
)
from backupd.catalog.session import UnitOfWork
from backupd.errors import Postponed, Terminated
from backupd.model import CLOCK_TOLERANCE, AnyManifest, is_generation_id
from backupd.report import AnyReport, report_facts
from backupd.schedule import TaskHistory

_SUCCESSES: Final = ("published", "unchanged", "degraded", "done")
_NEWEST: Final = (RunRow.started_at.desc(), RunRow.id.desc())
_NOT_STOPPED: Final = RunRow.exit_code.is_distinct_from(Terminated.exit_code)  # what was told to stop did not fail
_MOST_SENT: Final = 5000  # copies in a store; the app may have added any number
_MAX_FAILURES: Final = 50  # of failures in a row: a day of retries


class Catalog:
    """The catalog at one path; every method raises CatalogUnavailable when the file cannot be used.

    Between two calls nothing is open and nothing is locked, so that the file may be rebuilt. Threads may share the
    object. Times must be aware.

    Methods that take `now` ignore runs dated after it (CLOCK_TOLERANCE allowed), which come from a clock that was
    ahead; none that asks for failures counts runs with the exit code of Terminated, which were told to stop.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unit = UnitOfWork(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._unit.close()

    def hold_one_state(self) -> None:
        """Read one state until the end: many queries then cost a fraction. Raises CatalogUnavailable."""
        self._unit.hold()

    def start_run(self, task: str, source: str, started_at: datetime, configuration: str = "") -> int:
        """Record that a run began with this configuration (a digest); returns its id for `record_run`."""
        with self._unit.writing() as session:
            run = RunRow(task=task, source=source, started_at=started_at, configuration=configuration)
            session.add(run)
            session.flush()
            return run.id

    def record_run(
        self, report: AnyReport, finished_at: datetime, configuration: str = "", run_id: int | None = None
    ) -> int:
        """Record the end of a run, also of one that was marked interrupted; adds an unknown one. Returns its id."""
        with self._unit.writing() as session:
            run = None if run_id is None else session.get(RunRow, run_id)
            if run is None:
                run = RunRow(task=report.task, source=report.subject, started_at=report.started_at)
                run.configuration = configuration
                session.add(run)
            run.finished_at = finished_at
            run.outcome = report.outcome
            run.generation = report.generation
            run.error = report.error
            run.exit_code = report.exit_code
            run.duration_s = report.duration_s
            run.report = json.dumps(report_facts(report))
            session.flush()
            return run.id

    def interrupted_runs(self, task: str | None = None) -> list[RunRecord]:
        """Return the runs that began and did not end, oldest first; runs in progress are among them."""
        unfinished = select(RunRow).where(RunRow.finished_at.is_(None), *_where(task=task))
        return self._runs(unfinished.order_by(RunRow.started_at, RunRow.id))

    def mark_interrupted(self, run_id: int, finished_at: datetime) -> None:
        """Record that a run was killed, unless it has ended."""
        unfinished = update(RunRow).where(RunRow.id == run_id, RunRow.finished_at.is_(None))
        with self._unit.writing() as session:
            session.execute(unfinished.values(finished_at=finished_at, outcome="failed", error="interrupted"))

    def runs(self, source: str | None = None, task: str | None = None, limit: int | None = 20) -> list[RunRecord]:
        """Return at most `limit` runs (None: all) of a source and a task (None: any), newest first."""
        return self._runs(select(RunRow).where(*_where(task, source)).order_by(*_NEWEST).limit(limit))

    def task_history(
        self, task: str, source: str, now: datetime, store: str = "", configuration: Callable[[], str] = str
    ) -> TaskHistory:
        """Return when the last successful run of a task began, and when the runs since then failed.

        With `store`, only drills from that store count as successful. Failures under another configuration are left
        out; `configuration` returns the digest of the current one, and is called only where runs failed.
        """
        until = now + CLOCK_TOLERANCE
        begun = (*_where(task, source), RunRow.started_at <= until)
        failures = select(RunRow.finished_at, RunRow.configuration).where(
            *begun, RunRow.outcome == "failed", RunRow.finished_at <= until, _NOT_STOPPED
        )
        with self._unit.reading() as session:
            last = session.scalar(select(func.max(RunRow.started_at)).where(*begun, *_succeeded(store)))
            if last is not None:
                failures = failures.where(RunRow.started_at > last)
            failed = session.execute(failures).all()
            digest = configuration() if failed else ""
            comparable = tuple(at for at, run_digest in failed if at is not None and (run_digest or "") == digest)
            return TaskHistory(last, comparable, reconfigured=bool(failed) and not comparable)

    def last_success(self, task: str, source: str, now: datetime, store: str = "") -> RunRecord | None:
        """Return the last successful run of a task of a source; with `store`, the last drill from there."""
        begun = (*_where(task, source), RunRow.started_at <= now + CLOCK_TOLERANCE)
        query = select(RunRow).where(*begun, *_succeeded(store)).order_by(*_NEWEST).limit(1)
        return next(iter(self._runs(query)), None)

    def last_successes(self, now: datetime, store: str = "") -> dict[tuple[str, str], RunRecord]:
        """Return the last successful run of each task and source; with `store`, the last drills from there."""
        drills = _where(task="drill" if store else None)
        begun = (*drills, RunRow.started_at <= now + CLOCK_TOLERANCE, *_succeeded(store))
        newest = select(RunRow.task, RunRow.source, func.max(RunRow.started_at).label("at")).where(*begun)
        query = _of_newest(newest, begun)
        return {(run.task, run.source): run for run in self._runs(query)}  # of two with one start, the later row

    def last_failure(self, task: str, source: str, now: datetime) -> RunRecord | None:
        """Return the last finished run of a task of a source if it failed."""
        finished = select(RunRow).where(*_where(task, source), *_finished(now + CLOCK_TOLERANCE))
        with self._unit.reading() as session:
            run = session.scalar(finished.order_by(*_NEWEST).limit(1))
            return run_record(run) if run is not None and run.outcome == "failed" else None

    def run_summaries(
        self, task: str, source: str, since: datetime, until: datetime, limit: int
    ) -> tuple[RunSummary, ...]:
        """Return the newest `limit` runs that began from `since` to `until` and ended by themselves, oldest first.

        Those that were postponed are left out.
        """
        columns = (RunRow.started_at, RunRow.outcome, RunRow.exit_code, RunRow.duration_s)
        query = (
            select(*columns, _report_integer("$.snapshot_bytes"), _report_integer("$.archive_bytes"))
            .where(*_where(task, source), RunRow.started_at.between(since, until))
            .where(RunRow.outcome.is_not(None), _NOT_STOPPED, _not_postponed())
            .order_by(*_NEWEST)
            .limit(limit)
        )
        with self._unit.reading() as session:
            return tuple(RunSummary(*row) for row in session.execute(query))[::-1]

    def first_run_at(self, task: str, source: str) -> datetime | None:
        """Return when the first known run of a task began."""
        with self._unit.reading() as session:
            return session.scalar(select(func.min(RunRow.started_at)).where(*_where(task, source)))

    def run_counts(self) -> dict[tuple[str, str], dict[str, int]]:
        """Return the number of finished runs by task and source, then by outcome."""
        columns = (RunRow.task, RunRow.source, RunRow.outcome)
        query = select(*columns, func.count()).where(RunRow.outcome.is_not(None)).group_by(*columns)
        counts: dict[tuple[str, str], dict[str, int]] = {}
        with self._unit.reading() as session:
            for task, source, outcome, count in session.execute(query):
                counts.setdefault((task, source), {})[str(outcome)] = count
        return counts

    def last_runs(self, now: datetime) -> list[LastRun]:
        """Return the last finished run of each task and source, with the failures in a row that it ends."""
        until = now + CLOCK_TOLERANCE
        newest = select(RunRow.task, RunRow.source, func.max(RunRow.started_at).label("at")).where(*_finished(until))
        with self._unit.reading() as session:
            runs = session.scalars(_of_newest(newest, _finished(until)))
            by_subject = {(run.task, run.source): run for run in runs}  # of two with one start, the later row
            return [_last_run(session, run, until) for run in by_subject.values()]

    def read_notification_state(self, scope: str) -> NotificationState:
        """Return the notices and undelivered messages of the daemon of `scope`."""
        messages = select(OutboxRow).where(OutboxRow.scope == scope).order_by(OutboxRow.made_at, OutboxRow.reference)
        with self._unit.reading() as session:
            notices = session.scalars(select(NoticeRow).where(NoticeRow.scope == scope))
            return NotificationState(
                {row.key: record_of(NoticeRecord, row) for row in notices},
                tuple(
                    record_of(OutboxMessage, row, channels=frozenset(row.channels.split()))
                    for row in session.scalars(messages)
                ),
            )

    def write_notification_state(self, scope: str, state: NotificationState) -> None:
        """Replace the notices and undelivered messages of the daemon of `scope`, all in one transaction."""
        with self._unit.writing() as session:
            session.execute(delete(NoticeRow).where(NoticeRow.scope == scope))
            session.execute(delete(OutboxRow).where(OutboxRow.scope == scope))
            session.add_all(NoticeRow(scope=scope, key=key, **asdict(notice)) for key, notice in state.notices.items())
            for message in state.outbox:
                channels = " ".join(sorted(message.channels))
                session.add(OutboxRow(scope=scope, **asdict(message) | {"channels": channels}))

    def notification_scopes(self) -> tuple[str, ...]:
        """Return the scopes that have notices or messages, the one that was in use last first."""
        with self._unit.reading() as session:
            found = [
                *session.execute(select(NoticeRow.scope, func.max(NoticeRow.since)).group_by(NoticeRow.scope)),
                *session.execute(select(OutboxRow.scope, func.max(OutboxRow.made_at)).group_by(OutboxRow.scope)),
            ]
        return tuple(dict.fromkeys(scope for scope, _at in sorted(found, key=lambda row: row[1], reverse=True)))

    def move_notification_state(self, scope: str, to: str) -> None:
        """Give the notices and messages of `scope` to the daemon of another one, which has none."""
        with self._unit.writing() as session:
            for rows in (NoticeRow, OutboxRow):
                session.execute(update(rows).where(rows.scope == scope).values(scope=to))

    def record_ping(self, task: str, source: str, at: datetime, error: str = "") -> None:
        """Count a ping of a task of a source: failed with `error`, accepted where that is empty."""
        with self._unit.writing() as session:
            row = session.get(PingRow, (task, source))
            if row is None:
                row = PingRow(task=task, source=source, accepted=0, failed=0, reason="")
                session.add(row)
            if error:
                row.failed, row.failed_at, row.reason = row.failed + 1, at, error
            else:
                row.accepted, row.accepted_at = row.accepted + 1, at

    def pings(self) -> tuple[PingRecord, ...]:
        """Return the counts of pings of each task and source."""
        query = select(PingRow).order_by(PingRow.task, PingRow.source)
        with self._unit.reading() as session:
            return tuple(record_of(PingRecord, row) for row in session.scalars(query))

    def last_checks(self, store: str) -> dict[str, datetime]:
        """Return when each generation's copy in `store` was last checked."""
        query = select(CheckRow.generation, func.max(CheckRow.checked_at)).where(CheckRow.store == store)
        with self._unit.reading() as session:
            return dict(session.execute(query.group_by(CheckRow.generation)).all())

    def history(self, generation_id: str) -> GenerationHistory:
        """Return the runs whose report names the generation (published, sent, removed it) and its checks."""
        named = or_(RunRow.generation == generation_id, func.instr(RunRow.report, f'"{generation_id}"') > 0)
        runs = select(RunRow).where(named).order_by(*_NEWEST)
        checks = select(CheckRow).where(CheckRow.generation == generation_id)
        checks = checks.order_by(CheckRow.checked_at.desc(), CheckRow.id.desc())
        with self._unit.reading() as session:
            found = (record_of(CheckRecord, row, sound=bool(row.sound)) for row in session.scalars(checks))
            return GenerationHistory(tuple(map(run_record, session.scalars(runs))), tuple(found))

    def add_generation(self, manifest: AnyManifest, store: str, *, since: datetime | None = None) -> None:
        """Record a generation and that `store` has an undamaged copy of it `since` then (None: now).

        Call it when a copy was published: it clears the mark of a damaged older copy.
        """
        with self._unit.writing() as session:
            session.merge(generation_row(manifest))
            _set_state(session, manifest.id, store, "present", since or datetime.now(UTC))

    def remove_copy(self, generation_id: str, store: str) -> None:
        """Delete a copy with its checks, and the generation with its last copy; both may be unknown."""
        others = select(CopyRow).where(CopyRow.generation == generation_id)
        with self._unit.writing() as session:
            session.execute(delete(CopyRow).where(CopyRow.generation == generation_id, CopyRow.store == store))
            session.execute(delete(GenerationRow).where(GenerationRow.id == generation_id, ~others.exists()))

    def record_check(self, check: CheckRecord) -> None:
        """Record the result of a check, and mark the copy present or damaged.

        The generation may be unknown: that its copy is damaged is recorded, and the manifest may follow by
        `add_generation` or a rebuild.
        """
        state: CopyState = "present" if check.sound else "damaged"
        with self._unit.writing() as session:
            _set_state(session, check.generation, check.store, state, check.checked_at)
            session.flush()
            session.add(CheckRow(**asdict(check)))

    def damaged(self, store: str) -> frozenset[str]:
        """Return the ids of the generations whose copy in `store` failed its last check."""
        query = select(CopyRow.generation).where(CopyRow.store == store, CopyRow.state == "damaged")
        with self._unit.reading() as session:
            return frozenset(session.scalars(query))

    def sent(self, store: str) -> frozenset[str]:
        """Return the ids of the generations that were sent to `store`, and that no command has removed there."""
        known = CopyRow.generation == GenerationRow.id  # a copy of another store may have been checked
        query = select(CopyRow.generation).join(GenerationRow, known).where(CopyRow.store == store)
        query = query.order_by(CopyRow.since.desc()).limit(_MOST_SENT)
        with self._unit.reading() as session:
            return frozenset(filter(is_generation_id, session.scalars(query)))

    def archive_digests(self, ids: Collection[str]) -> dict[str, str]:
        """Return the SHA-256 of the archives of these `ids`, also of those that only the report of a run remembers."""
        sha256 = func.json_extract(_readable_report(), "$.archive_sha256")
        made = select(RunRow.generation, sha256).where(
            RunRow.task == "backup", RunRow.generation.in_(ids), RunRow.outcome.in_(_SUCCESSES), sha256.is_not(None)
        )
        listed = select(GenerationRow.id, GenerationRow.archive_sha256).where(GenerationRow.id.in_(ids))
        with self._unit.reading() as session:
            return {**dict(session.execute(made).all()), **dict(session.execute(listed).all())}

    def copies(self) -> dict[str, tuple[str, ...]]:
        """Return the stores that hold each generation, see `read_copies`."""
        return read_copies(self._path)

    def _runs(self, query: Select[RunRow]) -> list[RunRecord]:
        with self._unit.reading() as session:
            return [run_record(run) for run in session.scalars(query)]


def _of_newest(newest: Select[str, str, datetime], conditions: tuple[ColumnElement[bool], ...]) -> Select[RunRow]:
    """Return the query of the runs that `newest` names by task, source and the time `at` of their beginning."""
    last = newest.group_by(RunRow.task, RunRow.source).subquery()
    is_last = (RunRow.task == last.c.task) & (RunRow.source == last.c.source) & (RunRow.started_at == last.c.at)
    found = select(RunRow).join(last, is_last).where(*conditions)
    return found.order_by(RunRow.task, RunRow.source, RunRow.id)


def _where(task: str | None = None, source: str | None = None) -> list[ColumnElement[bool]]:
    """Return the conditions of runs of this task and source; None: of any."""
    wanted = ((RunRow.task, task), (RunRow.source, source))
    return [column == value for column, value in wanted if value is not None]


def _finished(until: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of runs that ended by themselves until a time."""
    return (RunRow.finished_at <= until, RunRow.started_at <= until, _NOT_STOPPED)


def _succeeded(store: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a successful run; with `store`, of a drill from there."""
    succeeded = RunRow.outcome.in_(_SUCCESSES)
    if not store:
        return (succeeded,)
    return (succeeded, func.json_extract(_readable_report(), "$.drill.store") == store)


def _readable_report() -> ColumnElement[Any]:
    return case((func.json_valid(RunRow.report) == 1, RunRow.report))


def _not_postponed() -> ColumnElement[bool]:
    return func.json_extract(_readable_report(), "$.error_kind").is_distinct_from(Postponed.kind)


def _report_integer(path: str) -> ColumnElement[Any]:
    """Return the integer at `path` of a run's report; null where it is missing, or the report cannot be read."""
    report = _readable_report()
    return case((func.json_type(report, path) == "integer", func.json_extract(report, path)))


def _last_run(session: Session, run: RunRow, until: datetime) -> LastRun:
    record = run_record(run)
    if run.outcome != "failed":
        return LastRun(record, None)
    same_task = (*_where(run.task, run.source), RunRow.started_at <= until)
    succeeded = (RunRow.outcome != "failed", RunRow.finished_at.is_not(None))
    last_success = session.scalar(select(func.max(RunRow.started_at)).where(*same_task, *succeeded))
    failed = [*same_task, RunRow.outcome == "failed", _NOT_STOPPED]
    if last_success is not None:
        failed.append(RunRow.started_at > last_success)
    since, count = session.execute(select(func.min(RunRow.finished_at), func.count()).where(*failed)).one()
    newest = select(RunRow).where(*failed).order_by(*_NEWEST).limit(_MAX_FAILURES)
    failures = tuple(map(run_record, session.scalars(newest)))
    return LastRun(record, since or run.finished_at, max(count, 1), failures or (record,))


def _set_state(session: Session, generation: str, store: str, state: CopyState, since: datetime) -> None:
    """Set the state of a copy; a state that it already has keeps its `since`."""
    copy = session.get(CopyRow, (generation, store))
    if copy is None:
        session.add(CopyRow(generation=generation, store=store, state=state, since=since))
    elif copy.state != state:
        copy.state, copy.since = state, since
