"""Notification state is kept by scope, through a migration and through a rebuild."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.catalog import NoticeRecord, NotificationState, OutboxMessage, PingRecord, open_catalog
from backupd.catalog.catalog import Catalog
from backupd.catalog.database import LATEST, migrate, user_version
from backupd.catalog.rebuild import rebuild
from support.catalog_values import NOON, at, report

STATE = NotificationState(
    {
        "trouble failed app backup": NoticeRecord("it is over", at(1), at(2)),
        "news drill": NoticeRecord("", at(1), None),
    },
    (
        OutboxMessage("a1", at(1), "failure", "title", "body\nof \udcff", frozenset({"x", "y"}), 0, at(1)),
        OutboxMessage("b2", at(2), "info", "", "", frozenset({"y"}), 3, at(9)),
    ),
)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return open_catalog(tmp_path / "catalog.sqlite3")


def kept(state: NotificationState) -> NotificationState:
    """Return `state` as text that is no UTF-8 comes back."""
    text = state.outbox[0].body.encode("utf-8", "backslashreplace").decode()
    first = OutboxMessage(
        *(text if name == "body" else getattr(state.outbox[0], name) for name in OutboxMessage.__slots__)
    )
    return NotificationState(state.notices, (first, *state.outbox[1:]))


def test_each_scope_has_own_notification_state(catalog: Catalog) -> None:
    assert catalog.read_notification_state("app") == NotificationState()
    catalog.write_notification_state("app", STATE)
    catalog.write_notification_state("other", NotificationState({"x": NoticeRecord("", at(1))}))
    assert catalog.read_notification_state("app") == kept(STATE)
    catalog.write_notification_state("app", NotificationState())
    assert catalog.read_notification_state("app") == NotificationState()
    assert catalog.read_notification_state("other") == NotificationState({"x": NoticeRecord("", at(1))})


def test_rebuild_keeps_notification_state(catalog: Catalog, tmp_path: Path) -> None:
    catalog.write_notification_state("app", STATE)
    catalog.record_ping("backup", "app", at(1))
    catalog.record_ping("backup", "app", at(2), "it answered 404")
    rebuild(tmp_path / "catalog.sqlite3", [])
    assert catalog.read_notification_state("app") == kept(STATE)
    assert catalog.pings() == (PingRecord("backup", "app", 1, 1, at(1), at(2), "it answered 404"),)


def test_rebuild_keeps_catalog_of_previous_version(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, 1)
        row = "INSERT INTO run (task, source, started_at) VALUES ('backup', 'app', '2026-11-20T00:00:00+00:00')"
        connection.execute(row)
    with open_catalog(path) as catalog:
        assert len(catalog.runs()) == 1
        assert catalog.read_notification_state("app") == NotificationState()
    with closing(sqlite3.connect(path)) as connection:
        assert user_version(connection) == LATEST


def test_last_run_of_each_task_has_start_of_failures(catalog: Catalog) -> None:
    catalog.record_run(report(outcome="failed", started_at=at(1), exit_code=1), at(2))
    catalog.record_run(report(started_at=at(3)), at(4))
    for hour in (5, 7):
        catalog.record_run(report(outcome="failed", started_at=at(hour), exit_code=1), at(hour + 1))
    catalog.record_run(report(outcome="failed", started_at=at(9), exit_code=143), at(10))
    catalog.record_run(report(task="drill", subject="other", outcome="done", started_at=at(3)), at(4))
    catalog.start_run("backup", "app", at(11))
    catalog.record_run(report(started_at=NOON + timedelta(days=400)), NOON + timedelta(days=400))
    found = {(last.run.task, last.run.source): last for last in catalog.last_runs(NOON)}
    assert set(found) == {("backup", "app"), ("drill", "other")}
    failing = found["backup", "app"]
    assert (failing.run.started_at, failing.failing_since, failing.failures) == (at(7), at(6), 2)
    assert [run.started_at for run in failing.failed] == [at(7), at(5)], "newest first"
    assert found["drill", "other"].failing_since is None
