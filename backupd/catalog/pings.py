"""How monitors take pings, as rows: counted, since each run is a process of its own."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backupd.catalog.models import Ping
from backupd.catalog.records import PingRecord


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
