"""What was said and what is still to be sent, as rows; and what the runs so far give reason to say."""

from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backupd.catalog.models import Outbox, Run
from backupd.catalog.models import Told as ToldRow
from backupd.catalog.records import Book, LastRun, Queued, Told
from backupd.catalog.rows import run_record
from backupd.errors import Terminated
from backupd.model import CLOCK_TOLERANCE

_TERMINATED = Terminated.exit_code
_MOST_FAILURES = 50  # of those in a row: a day of retries


def read_book(session: Session, scope: str) -> Book:
    """Return what the daemon of `scope` has said, and has to send."""
    told = session.scalars(select(ToldRow).where(ToldRow.scope == scope))
    queue = session.scalars(select(Outbox).where(Outbox.scope == scope).order_by(Outbox.made_at, Outbox.reference))
    return Book(
        {row.key: Told(row.value, row.since, row.told_at) for row in told},
        tuple(
            Queued(
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
