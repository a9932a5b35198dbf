"""The catalog: a SQLite database that indexes runs, generations, copies and checks; here are the values in it.

Manifests are the truth: a lost catalog is rebuilt from them (`rebuild.rebuild`). Only `catalog` and `rebuild` need
SQLAlchemy, which is slow to import: `open_catalog` and `read_catalog` import it when they are called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backupd.catalog.connection import catalog_errors as catalog_errors
from backupd.catalog.database import prepare, require_ready
from backupd.catalog.database import read_copies as read_copies
from backupd.errors import CatalogUnavailable as CatalogUnavailable
from backupd.model import Outcome, Severity
from backupd.report import AnyReport
from backupd.system.signals import delay_signals

if TYPE_CHECKING:
    from backupd.catalog.catalog import Catalog


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
    report: AnyReport | None

    @property
    def postponed(self) -> bool:
        """Whether a hook asked to try again later: such a run failed, and is nothing to look at."""
        return self.report is not None and self.report.postponed


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
    failing_since: datetime | None  # when the first of these failures ended; None when the last run did not fail
    failures: int = 0
    failed: tuple[RunRecord, ...] = ()  # the newest of these failures, newest first


@dataclass(frozen=True, slots=True)
class NoticeRecord:
    """One fact that the notifier keeps under a key, with the `value` that belongs to it."""

    value: str
    since: datetime  # when it was first observed
    notified_at: datetime | None = None  # when a message last reported it; None: not yet


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that still has to be delivered to `channels`, next tried at `next_at`."""

    reference: (
        str  # by which a receiver knows a message that it gets twice, after a crash between sending and recording
    )
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
    """Counts of accepted and failed pings of a task of a source (empty for the daily ping)."""

    task: str
    source: str
    accepted: int
    failed: int
    accepted_at: datetime | None
    failed_at: datetime | None
    reason: str  # the error of the last failed one

    def __str__(self) -> str:
        """Return `backup of tasks`, `daily`."""
        return f"{self.task} of {self.source}" if self.source else self.task

    @property
    def failing(self) -> bool:
        """Whether the last ping failed."""
        return self.failed_at is not None and (self.accepted_at is None or self.accepted_at < self.failed_at)


def open_catalog(path: Path) -> "Catalog":
    """Open the catalog at `path`; creates a missing one and migrates an old one.

    Raises CatalogUnavailable when it is damaged, newer, of another program, a link, not writable or locked for long.
    """
    with catalog_errors(path):
        prepare(path)
        return _catalog()(path)


def read_catalog(path: Path) -> "Catalog":
    """Open the catalog at `path` for reading; creates and migrates nothing.

    Raises CatalogUnavailable as `open_catalog` does, and when the catalog is missing or needs a migration.
    """
    with catalog_errors(path):
        require_ready(path)
        return _catalog()(path)


def _catalog() -> "type[Catalog]":
    with delay_signals():  # the failure of a run that is stopped here is recorded in the catalog
        from backupd.catalog.catalog import Catalog
    return Catalog
