"""Status, /health, page, JSON, metrics, messages and the daily ping report the same problems."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from backupd.catalog import open_catalog
from backupd.daemon.notifier import observe
from backupd.errors import ErrorKind
from backupd.health import Health, Limit
from backupd.model import Task
from backupd.notifications.planner import facts_of
from backupd.problems import ProblemSeverity
from backupd.report import RunDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.schedule import Planned
from backupd.status.current import StatusScope
from backupd.status.history import read_history
from backupd.status.text import status_lines
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, RetentionRule, ShrinkGuard
from backupd.tasks.verify import record_verification
from backupd.web import responses
from backupd.web.localizer import Localizer
from backupd.web.metrics import metrics_response
from backupd.web.page_view import SEVERITIES
from backupd.web.responses import status_facts
from backupd.web.verdict import to_dos
from support.bank import make_bank
from support.generations import backdated
from support.page_states import NIGHTLY, ZONE

DAY_S = 86_400.0
LIMITS = (Limit("backup", "tasks", DAY_S), Limit("replicate", "offsite", 8 * DAY_S))
PLANNED = (Planned("backup", "tasks", NIGHTLY), Planned("replicate", "offsite", NIGHTLY))
EXPIRY = RetentionRule(RetentionPolicy(), ZONE)
GUARD = ShrinkGuard(enabled=True, max_row_loss=0.5, max_size_loss=0.9, min_rows=10)
OURS = frozenset({"tasks", "offsite"})


def record(context: TaskContext, task: Task, subject: str, kind: ErrorKind | None, *minutes_ago: float) -> None:
    """Let runs end in the catalog: failed ones of that kind, successful ones where it is None."""
    for ago in minutes_ago:
        at = context.clock() - timedelta(minutes=ago)
        outcome = "failed" if kind else "done"
        report = RunReport(task, subject, at, RunDetails(), outcome, error_kind=kind, exit_code=1 if kind else 0)
        if kind:
            report = replace(report, error="no answer from /secret/path", hint="look at /secret/path")
        with open_catalog(context.catalog_path) as catalog:
            catalog.record_run(report, at)


def missing(context: TaskContext, order: BackupRequest) -> None:
    order.path.unlink()
    assert backup(order, context).error_kind == "missing"


def refused(context: TaskContext, order: BackupRequest) -> None:
    order.path.write_bytes(b"")
    assert backup(order, context).error_kind == "unusable"


def damaged(context: TaskContext, order: BackupRequest) -> None:
    pages = order.path.read_bytes()
    order.path.write_bytes(pages[:8192] + bytes(len(pages) - 8192))
    assert backup(order, context).error_kind == "corrupt"


def shrunk(context: TaskContext, order: BackupRequest) -> None:
    order.path.unlink()
    make_bank(order.path, rows=20)
    assert backup(order, context).outcome == "degraded"


def missing_and_then_locked(context: TaskContext, order: BackupRequest) -> None:
    missing(context, order)
    record(context, "backup", "tasks", "busy", 0)


def restored(context: TaskContext, order: BackupRequest) -> None:
    away = order.path.rename(order.path.with_name("away.db"))
    backup(order, context)
    away.rename(order.path)
    assert backup(order, context).error_kind is None


def busy_twice(context: TaskContext, _order: BackupRequest) -> None:
    record(context, "backup", "tasks", "busy", 2, 0)


def replica_refused_once(context: TaskContext, _order: BackupRequest) -> None:
    record(context, "replicate", "offsite", "denied", 1)


def replica_refused_again_and_again(context: TaskContext, _order: BackupRequest) -> None:
    record(context, "replicate", "offsite", "denied", 16, 14, 10)


def rotten(context: TaskContext, order: BackupRequest) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    older = backdated(context.store.directory, newest, days=2)
    record_verification(older, context, sound=False, detail="rot")


def manifest_damaged(context: TaskContext, order: BackupRequest) -> None:
    key = older_generation(context, order)
    (context.store.directory / f"{key}.manifest.json").write_text("not JSON")


def archive_deleted(context: TaskContext, order: BackupRequest) -> None:
    context.store.archive_path(older_generation(context, order)).unlink()


def older_generation(context: TaskContext, order: BackupRequest) -> str:
    newest = backup(order, context).generation
    assert newest is not None
    return backdated(context.store.directory, newest, days=2)


def catalog_damaged(context: TaskContext, _order: BackupRequest) -> None:
    context.catalog_path.write_bytes(b"rubbish" * 1000)


def store_gone(context: TaskContext, _order: BackupRequest) -> None:
    shutil.rmtree(context.store.directory)


@pytest.mark.parametrize(
    ("arrange", "expected"),
    [
        (restored, {}),
        (missing, {"missing": "unhealthy"}),
        (missing_and_then_locked, {"missing": "unhealthy"}),
        (refused, {"unusable": "unhealthy"}),
        (damaged, {"damaged": "unhealthy"}),
        (shrunk, {"shrunk": "unhealthy"}),
        (busy_twice, {"failed": "warning"}),
        (replica_refused_once, {"failed": "warning"}),
        (replica_refused_again_and_again, {"failed": "unhealthy"}),
        (rotten, {"generation": "warning"}),
        (manifest_damaged, {"manifest": "warning"}),
        (archive_deleted, {"archive": "warning"}),
        (catalog_damaged, {"catalog": "unhealthy"}),
        (store_gone, {"store": "unhealthy"}),
    ],
)
def test_all_surfaces_show_same_problems(
    order: BackupRequest,
    context: TaskContext,
    arrange: Callable[[TaskContext, BackupRequest], None],
    expected: dict[str, ProblemSeverity],
) -> None:
    order = replace(order, guard=GUARD)
    assert backup(order, context).outcome == "published"
    record(context, "replicate", "offsite", None, 30)
    arrange(context, order)
    history = read_history(StatusScope(PLANNED, LIMITS, EXPIRY, {}, context, context.clock()))
    health, unhealthy = history.status.health, "unhealthy" in expected.values()
    assert {problem.kind: problem.severity for problem in health.problems} == expected
    headlines = {str(problem) for problem in health.problems}

    lines = status_lines(history.status)
    assert lines[0] == ("NOT HEALTHY" if unhealthy else "healthy")
    assert {line.partition(": ")[2] for line in lines if line.startswith(("  reason: ", "  warning: "))} == headlines
    assert len([line for line in lines if line.startswith("  what to do: ")]) == len(headlines)

    answer = responses.health_response(health)
    assert answer.status == (503 if unhealthy else 200)
    assert b"/secret" not in answer.body
    assert str(order.path).encode() not in answer.body

    facts = status_facts(history)
    assert (facts["healthy"], {one["headline"] for one in facts["problems"]}) == (not unhealthy, headlines)
    assert SEVERITIES[history.stage] == (
        "failure" if unhealthy else "warning" if expected or history.stage == "degraded" else "success"
    )
    assert len(to_dos(history, Localizer("en", ZONE))) >= len(headlines)

    told = metrics_response(history.status).body.decode()
    assert f"\nbackupd_healthy {float(not unhealthy)}\n" in told
    assert told.count("\nbackupd_problem{") == len(expected)
    for kind, severity in expected.items():
        labels = f'kind="{kind}",subject='
        assert f"backupd_problem{{{labels}" in told
        assert f'unhealthy="{str(severity == "unhealthy").lower()}"}}' in told

    look = observe(LIMITS, OURS, context)
    assert Health.of(look.health, context.clock()).healthy is not unhealthy, "the daily ping goes by this"
    severities = {one.notice.headline: one.notice.severity for one in facts_of(look, context.clock()).alerts}
    assert set(severities) == {headline for headline in headlines if expected != {"failed": "warning"}}
    assert all((severity == "failure") == unhealthy for severity in severities.values())
