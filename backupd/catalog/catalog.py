"""The index of runs, generations, copies and checks; each method is one unit of work."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sqlalchemy import ColumnElement, case, delete, func, or_, select, update

from backupd.catalog.database import read_copies
from backupd.catalog.models import CheckRow, CopyRow, GenerationRow, RunRow
from backupd.catalog.queries import (
    NEWEST_RUN,
    NOT_STOPPED,
    check_record,
    finish,
    generation_row,
    last_runs,
    read_notification_state,
    read_pings,
    record_ping,
    run_record,
    run_row,
    run_summaries,
    run_summaries_query,
    set_state,
    write_notification_state,
)
from backupd.catalog.records import GenerationHistory, LastRun, NotificationState, PingRecord, RunRecord, RunSummary
from backupd.catalog.session import UnitOfWork
from backupd.model import CLOCK_TOLERANCE, Manifest
from backupd.report import AnyReport
from backupd.schedule import TaskHistory

_SUCCESSES: Final = ("published", "unchanged", "degraded", "done")


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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine, which holds no connection."""
        self._unit.close()

    def start_run(self, task: str, source: str, started_at: datetime, configuration: str = "") -> int:
        """Record that a run began with this configuration (a digest); returns its id for `finish_run`."""
        with self._unit.writing() as session:
            run = RunRow(task=task, source=source, started_at=started_at, configuration=configuration)
            session.add(run)
            session.flush()
            return run.id

    def finish_run(self, run_id: int, report: AnyReport, finished_at: datetime, configuration: str = "") -> None:
        """Record the end of a run, also of one that was marked interrupted; adds one that is unknown."""
        with self._unit.writing() as session:
            run = session.get(RunRow, run_id)
            if run is None:
                run = run_row(report, configuration)
                session.add(run)
            finish(run, report, finished_at)

    def record_run(self, report: AnyReport, finished_at: datetime, configuration: str = "") -> int:
        """Record a run that has ended and return its id."""
        with self._unit.writing() as session:
            run = run_row(report, configuration)
            finish(run, report, finished_at)
            session.add(run)
            session.flush()
            return run.id

    def interrupted_runs(self, task: str | None = None) -> list[RunRecord]:
        """Return the runs that began and did not end, oldest first; runs in progress are among them."""
        query = select(RunRow).where(RunRow.finished_at.is_(None)).order_by(RunRow.started_at, RunRow.id)
        if task is not None:
            query = query.where(RunRow.task == task)
        with self._unit.reading() as session:
            return [run_record(run) for run in session.scalars(query)]

    def mark_interrupted(self, run_id: int, finished_at: datetime) -> None:
        """Record that a run was killed, unless it has ended."""
        unfinished = update(RunRow).where(RunRow.id == run_id, RunRow.finished_at.is_(None))
        with self._unit.writing() as session:
            session.execute(unfinished.values(finished_at=finished_at, outcome="failed", error="interrupted"))

    def runs(self, source: str | None = None, task: str | None = None, limit: int | None = 20) -> list[RunRecord]:
        """Return at most `limit` runs (None: all) of a source and a task (None: any), newest first."""
        query = select(RunRow).order_by(*NEWEST_RUN).limit(limit)
        if source is not None:
            query = query.where(RunRow.source == source)
        if task is not None:
            query = query.where(RunRow.task == task)
        with self._unit.reading() as session:
            return [run_record(run) for run in session.scalars(query)]

    def task_history(
        self, task: str, source: str, now: datetime, store: str = "", configuration: Callable[[], str] = str
    ) -> TaskHistory:
        """Return when the last successful run of a task began, and when the runs since then failed.

        With `store`, only drills from that store count as successful. Failures under another configuration are left
        out; `configuration` returns the digest of the current one, and is called only where runs failed.
        """
        until = now + CLOCK_TOLERANCE
        same_task = (RunRow.task == task, RunRow.source == source, RunRow.started_at <= until)
        failures = select(RunRow.finished_at, RunRow.configuration).where(
            *same_task, RunRow.outcome == "failed", RunRow.finished_at <= until, NOT_STOPPED
        )
        with self._unit.reading() as session:
            last = session.scalar(select(func.max(RunRow.started_at)).where(*same_task, *_succeeded(store)))
            if last is not None:
                failures = failures.where(RunRow.started_at > last)
            failed = session.execute(failures).all()
            digest = configuration() if failed else ""
            comparable = tuple(at for at, run_digest in failed if at is not None and (run_digest or "") == digest)
            return TaskHistory(last, comparable, reconfigured=bool(failed) and not comparable)

    def last_success(self, task: str, source: str, now: datetime, store: str = "") -> RunRecord | None:
        """Return the last successful run of a task of a source; with `store`, the last drill from there."""
        query = select(RunRow).where(RunRow.task == task, RunRow.source == source, *_succeeded(store))
        query = query.where(RunRow.started_at <= now + CLOCK_TOLERANCE).order_by(*NEWEST_RUN).limit(1)
        with self._unit.reading() as session:
            run = session.scalar(query)
            return None if run is None else run_record(run)

    def last_failure(self, task: str, source: str, now: datetime) -> RunRecord | None:
        """Return the last finished run of a task of a source if it failed."""
        until = now + CLOCK_TOLERANCE
        query = select(RunRow).where(RunRow.task == task, RunRow.source == source, NOT_STOPPED)
        query = query.where(RunRow.started_at <= until, RunRow.finished_at <= until).order_by(*NEWEST_RUN).limit(1)
        with self._unit.reading() as session:
            run = session.scalar(query)
            return run_record(run) if run is not None and run.outcome == "failed" else None

    def run_summaries(
        self, task: str, source: str, since: datetime, until: datetime, limit: int
    ) -> tuple[RunSummary, ...]:
        """Return the newest `limit` finished runs that began from `since` to `until`, oldest first.

        Runs that were told to stop are left out.
        """
        with self._unit.reading() as session:
            return run_summaries(session.execute(run_summaries_query(task, source, since, until, limit)))

    def first_run_at(self, task: str, source: str) -> datetime | None:
        """Return when the first known run of a task began."""
        with self._unit.reading() as session:
            same_task = (RunRow.task == task, RunRow.source == source)
            return session.scalar(select(func.min(RunRow.started_at)).where(*same_task))

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
        with self._unit.reading() as session:
            return last_runs(session, now)

    def read_notification_state(self, scope: str) -> NotificationState:
        """Return the notices and undelivered messages of the daemon of `scope`."""
        with self._unit.reading() as session:
            return read_notification_state(session, scope)

    def write_notification_state(self, scope: str, state: NotificationState) -> None:
        """Replace the notices and undelivered messages of the daemon of `scope`, all in one transaction."""
        with self._unit.writing() as session:
            write_notification_state(session, scope, state)

    def record_ping(self, task: str, source: str, at: datetime, error: str = "") -> None:
        """Count a ping of a task of a source: failed with `error`, accepted where that is empty."""
        with self._unit.writing() as session:
            record_ping(session, task, source, at, error)

    def pings(self) -> tuple[PingRecord, ...]:
        """Return the counts of pings of each task and source."""
        with self._unit.reading() as session:
            return read_pings(session)

    def last_checks(self, store: str) -> dict[str, datetime]:
        """Return when each generation's copy in `store` was last checked."""
        query = select(CheckRow.generation, func.max(CheckRow.checked_at)).where(CheckRow.store == store)
        with self._unit.reading() as session:
            return dict(session.execute(query.group_by(CheckRow.generation)).all())

    def history(self, generation_id: str) -> GenerationHistory:
        """Return the runs whose report names the generation (published, sent, removed it) and its checks."""
        named = or_(RunRow.generation == generation_id, func.instr(RunRow.report, f'"{generation_id}"') > 0)
        runs = select(RunRow).where(named).order_by(*NEWEST_RUN)
        checks = select(CheckRow).where(CheckRow.generation == generation_id)
        checks = checks.order_by(CheckRow.checked_at.desc(), CheckRow.id.desc())
        with self._unit.reading() as session:
            return GenerationHistory(
                runs=tuple(run_record(run) for run in session.scalars(runs)),
                checks=tuple(check_record(check) for check in session.scalars(checks)),
            )

    def add_generation(self, manifest: Manifest, store: str, *, since: datetime | None = None) -> None:
        """Record a generation and that `store` has an undamaged copy of it `since` then (None: now).

        Call it when a copy was published: it clears the mark of a damaged older copy.
        """
        with self._unit.writing() as session:
            session.merge(generation_row(manifest))
            set_state(session, manifest.id, store, "present", since or datetime.now(UTC))

    def remove_copy(self, generation_id: str, store: str) -> None:
        """Delete a copy with its checks, and the generation with its last copy; both may be unknown."""
        others = select(CopyRow).where(CopyRow.generation == generation_id)
        with self._unit.writing() as session:
            session.execute(delete(CopyRow).where(CopyRow.generation == generation_id, CopyRow.store == store))
            session.execute(delete(GenerationRow).where(GenerationRow.id == generation_id, ~others.exists()))

    def record_check(
        self,
        generation_id: str,
        store: str,
        checked_at: datetime,
        sound: bool,  # noqa: FBT001 - a result, not a switch
        detail: str,
        duration_s: float,
    ) -> None:
        """Record the result of a check, and mark the copy present or damaged.

        The generation may be unknown: that its copy is damaged is recorded, and the manifest may follow by
        `add_generation` or a rebuild.
        """
        check = CheckRow(
            generation=generation_id,
            store=store,
            checked_at=checked_at,
            sound=sound,
            detail=detail,
            duration_s=duration_s,
        )
        with self._unit.writing() as session:
            set_state(session, generation_id, store, "present" if sound else "damaged", checked_at)
            session.flush()
            session.add(check)

    def damaged(self, store: str) -> frozenset[str]:
        """Return the ids of the generations whose copy in `store` failed its last check."""
        query = select(CopyRow.generation).where(CopyRow.store == store, CopyRow.state == "damaged")
        with self._unit.reading() as session:
            return frozenset(session.scalars(query))

    def copies(self) -> dict[str, tuple[str, ...]]:
        """Return the stores that hold each generation, see `read_copies`."""
        return read_copies(self._path)


def _succeeded(store: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a successful run; with `store`, of a drill from there."""
    succeeded = RunRow.outcome.in_(_SUCCESSES)
    if not store:
        return (succeeded,)
    drilled = case((func.json_valid(RunRow.report) == 1, func.json_extract(RunRow.report, "$.drill.store")), else_=None)
    return (succeeded, drilled == store)
