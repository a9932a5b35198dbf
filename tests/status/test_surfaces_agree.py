"""Every surface says the same of the same site: status, /health, page, JSON, metrics, messages, and the daily ping."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from backupd.catalog import open_catalog
from backupd.errors import ErrorKind
from backupd.health import Health, Limit
from backupd.model import RetentionPolicy, RunReport, Task
from backupd.notifications.collector import observe
from backupd.notifications.problems import facts_of
from backupd.problems import Severity
from backupd.schedule import Planned
from backupd.status.current import take_survey
from backupd.status.text import status_lines
from backupd.tasks.backup import backup
from backupd.tasks.check_results import record_verification
from backupd.tasks.context import TaskContext
from backupd.tasks.options import BackupRequest, Expiry, ShrinkGuard
from backupd.web import responses
from backupd.web.api import status_facts
from backupd.web.localizer import Localizer
from backupd.web.metrics import metrics_answer
from backupd.web.summary_cards import mood_of, to_dos
from support.bank import make_bank
from support.generations import backdated
from support.surveys import NIGHTLY, ZONE

DAY_S = 86_400.0
LIMITS = (Limit("backup", "tasks", DAY_S), Limit("replicate", "offsite", 8 * DAY_S))
PLANNED = (Planned("backup", "tasks", NIGHTLY), Planned("replicate", "offsite", NIGHTLY))
EXPIRY = Expiry(RetentionPolicy(), ZONE)
GUARD = ShrinkGuard(enabled=True, max_row_loss=0.5, max_size_loss=0.9, min_rows=10)
OURS = frozenset({"tasks", "offsite"})


def record(site: TaskContext, task: Task, subject: str, kind: ErrorKind | None, *minutes_ago: float) -> None:
    """Let runs end in the catalog: failed ones of that kind, successful ones where it is None."""
    for ago in minutes_ago:
        at = site.clock() - timedelta(minutes=ago)
        report = RunReport(task, subject, at, "failed" if kind else "done", error_kind=kind, exit_code=1 if kind else 0)
        if kind:
            report = replace(report, error="no answer from /secret/path", hint="look at /secret/path")
        with open_catalog(site.catalog_path) as catalog:
            catalog.record_run(report, at)


def missing(site: TaskContext, order: BackupRequest) -> None:
    order.path.unlink()
    assert backup(order, site).error_kind == "missing"


def refused(site: TaskContext, order: BackupRequest) -> None:
    order.path.unlink()
    order.path.mkdir()
    assert backup(order, site).error_kind == "unusable"


def damaged(site: TaskContext, order: BackupRequest) -> None:
    pages = order.path.read_bytes()
    order.path.write_bytes(pages[:8192] + bytes(len(pages) - 8192))
    assert backup(order, site).error_kind == "corrupt"


def shrunk(site: TaskContext, order: BackupRequest) -> None:
    order.path.unlink()
    make_bank(order.path, rows=20)
    assert backup(order, site).outcome == "degraded"


def missing_and_then_locked(site: TaskContext, order: BackupRequest) -> None:
    missing(site, order)
    record(site, "backup", "tasks", "busy", 0)


def restored(site: TaskContext, order: BackupRequest) -> None:
    away = order.path.rename(order.path.with_name("away.db"))
    backup(order, site)
    away.rename(order.path)
    assert backup(order, site).error_kind is None


def busy_twice(site: TaskContext, _order: BackupRequest) -> None:
    record(site, "backup", "tasks", "busy", 2, 0)


def replica_refused_once(site: TaskContext, _order: BackupRequest) -> None:
    record(site, "replicate", "offsite", "denied", 1)


def replica_refused_again_and_again(site: TaskContext, _order: BackupRequest) -> None:
    record(site, "replicate", "offsite", "denied", 16, 14, 10)


def rotten(site: TaskContext, order: BackupRequest) -> None:
    newest = backup(order, site).generation
    assert newest is not None
    older = backdated(site.store.directory, newest, days=2)
    record_verification(older, site, sound=False, detail="rot")


def catalog_damaged(site: TaskContext, _order: BackupRequest) -> None:
    site.catalog_path.write_bytes(b"rubbish" * 1000)


def store_gone(site: TaskContext, _order: BackupRequest) -> None:
    shutil.rmtree(site.store.directory)


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
        (catalog_damaged, {"catalog": "unhealthy"}),
        (store_gone, {"store": "unhealthy"}),
    ],
)
def test_every_surface_tells_the_same_problems_and_none_more(
    order: BackupRequest,
    site: TaskContext,
    arrange: Callable[[TaskContext, BackupRequest], None],
    expected: dict[str, Severity],
) -> None:
    order = replace(order, guard=GUARD)
    assert backup(order, site).outcome == "published"
    record(site, "replicate", "offsite", None, 30)
    arrange(site, order)
    survey = take_survey(PLANNED, LIMITS, EXPIRY, site, site.clock(), {})
    health, unhealthy = survey.status.health, "unhealthy" in expected.values()
    assert {problem.kind: problem.severity for problem in health.problems} == expected
    headlines = {str(problem) for problem in health.problems}

    lines = status_lines(survey.status)
    assert lines[0] == ("NOT HEALTHY" if unhealthy else "healthy")
    assert {line.partition(": ")[2] for line in lines if line.startswith(("  reason: ", "  warning: "))} == headlines
    assert len([line for line in lines if line.startswith("  what to do: ")]) == len(headlines)

    answer = responses.health(health)
    assert answer.status == (503 if unhealthy else 200)
    assert b"/secret" not in answer.body
    assert str(order.path).encode() not in answer.body

    facts = status_facts(survey)
    assert (facts["healthy"], {one["headline"] for one in facts["problems"]}) == (not unhealthy, headlines)
    assert mood_of(survey) == ("bad" if unhealthy else "warn" if expected or survey.stage == "degraded" else "good")
    assert len(to_dos(survey, Localizer("en", ZONE))) >= len(headlines)

    told = metrics_answer(survey.status).body.decode()
    assert f"\nbackupd_healthy {float(not unhealthy)}\n" in told
    assert told.count("\nbackupd_problem{") == len(expected)
    for kind, severity in expected.items():
        labels = f'kind="{kind}",subject='
        assert f"backupd_problem{{{labels}" in told
        assert f'unhealthy="{str(severity == "unhealthy").lower()}"}}' in told

    look = observe(LIMITS, OURS, site)
    assert Health.of(look.health, site.clock()).healthy is not unhealthy, "the daily ping goes by this"
    moods = {trouble.headline: trouble.mood for trouble in facts_of(look, site.clock()).troubles}
    assert set(moods) == {headline for headline in headlines if expected != {"failed": "warning"}}
    assert all((mood == "failure") == unhealthy for mood in moods.values())
