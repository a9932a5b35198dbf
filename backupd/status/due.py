"""When each task runs next: one function for the daemon, which goes by it, and for everything that shows it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from backupd.catalog.catalog import Catalog
from backupd.schedule import Due, Planned, TaskHistory, plan_next_run
from backupd.status.model import NextRun


def due(
    planned: Planned,
    catalog: Catalog | None,
    configuration: Callable[[], str],
    now: datetime,
    remembered: Callable[[], TaskHistory] = TaskHistory,
) -> Due:
    """Return when `planned` has to run next, by what the catalog knows and, after that was asked, what is remembered.

    `configuration` returns the digest of the configuration of now. Raises CatalogUnavailable.
    """
    known = TaskHistory()
    if catalog is not None:
        known = catalog.task_history(planned.task, planned.source, now, planned.store, configuration)
    history = replace(_together(known, remembered()), missing=_is_missing(planned.database))
    return plan_next_run(planned.schedule, history, now)


def next_run(planned: Planned, catalog: Catalog | None, configuration: Callable[[], str], now: datetime) -> NextRun:
    """Return the same to be shown: in the zone of its schedule, and now where it is overdue."""
    found = due(planned, catalog, configuration, now)
    at = max(found.at, now).astimezone(planned.schedule.timezone)
    return NextRun(planned.task, planned.source, at, found.reason, retry=found.retry, overdue=found.at <= now)


def _is_missing(database: Path | None) -> bool:
    """Tell whether the database is not there; what cannot be seen just now is not known to be missing."""
    try:
        if database is not None:
            database.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _together(known: TaskHistory, remembered: TaskHistory) -> TaskHistory:
    """Join what the catalog knows with what the daemon remembers: a full disk lets the catalog forget."""
    succeeded = [at for at in (known.succeeded_at, remembered.succeeded_at) if at is not None]
    failed_at = max(known.failed_at, remembered.failed_at, key=len)
    return TaskHistory(max(succeeded, default=None), failed_at, known.reconfigured)
