"""Questions of the daemon to the catalog: results of a task, and how often it failed."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.catalog import CheckRecord, open_catalog
from backupd.catalog.catalog import Catalog
from backupd.errors import CatalogDamaged
from backupd.report import DrillDetails, DrillReport, RunDetails
from backupd.schedule import TaskHistory
from support.catalog_values import APP, NOON, OLDER, at, manifest, report


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return open_catalog(tmp_path / "catalog.sqlite3")


def test_task_that_never_ran_has_no_history(catalog: Catalog) -> None:
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(None, ())
    assert catalog.last_success("backup", "app", NOON) is None


@pytest.mark.parametrize("outcome", ["published", "unchanged", "degraded", "done"])
def test_every_outcome_except_failure_is_success(catalog: Catalog, outcome: str) -> None:
    catalog.record_run(report(outcome=outcome, started_at=at(1)), at(2))
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(at(1), ())


def test_failures_under_another_configuration_are_not_counted(catalog: Catalog) -> None:
    catalog.record_run(report(started_at=at(1)), at(2), "aaaa")
    catalog.record_run(report(outcome="failed", started_at=at(3)), at(4), "aaaa")
    run = catalog.start_run("backup", "app", at(5), "aaaa")
    catalog.mark_interrupted(run, at(6))

    def history(configuration: str) -> TaskHistory:
        return catalog.task_history("backup", "app", NOON, configuration=lambda: configuration)

    assert history("aaaa") == TaskHistory(at(1), (at(4), at(6)))
    assert history("bbbb") == TaskHistory(at(1), (), reconfigured=True)
    catalog.record_run(report(outcome="failed", started_at=at(7)), at(8), "bbbb")
    assert history("bbbb") == TaskHistory(at(1), (at(8),))
    catalog.record_run(report(started_at=at(9)), at(10), "bbbb")
    assert history("cccc") == TaskHistory(at(9), ()), "what succeeded since is not tried again"


def test_failures_are_counted_from_last_success(catalog: Catalog) -> None:
    catalog.record_run(report(outcome="failed", started_at=at(1)), at(2))
    catalog.record_run(report(started_at=at(3)), at(4))
    catalog.record_run(report(outcome="failed", started_at=at(5)), at(6))
    catalog.record_run(report(outcome="failed", started_at=at(7)), at(8))
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(at(3), (at(6), at(8)))
    last = catalog.last_success("backup", "app", NOON)
    assert last is not None
    assert last.started_at == at(3)


def test_running_or_interrupted_run_is_neither_success_nor_failure(catalog: Catalog) -> None:
    run_id = catalog.start_run("backup", "app", at(1))
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(None, ())
    catalog.mark_interrupted(run_id, at(5))
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(None, (at(5),))


def test_stopped_run_is_no_failure(catalog: Catalog) -> None:
    catalog.record_run(report(outcome="failed", started_at=at(1), exit_code=143), at(2))
    catalog.record_run(report(outcome="failed", started_at=at(3), exit_code=1), at(4))
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(None, (at(4),))


def test_each_task_and_source_has_own_history(catalog: Catalog) -> None:
    catalog.record_run(report(task="prune", outcome="done", started_at=at(1)), at(1))
    catalog.record_run(report(subject="other", started_at=at(2)), at(2))
    assert catalog.task_history("backup", "app", NOON) == TaskHistory(None, ())
    assert catalog.run_counts() == {("prune", "app"): {"done": 1}, ("backup", "other"): {"published": 1}}


def test_run_dated_in_future_is_ignored(catalog: Catalog) -> None:
    ahead = NOON + timedelta(days=365)
    catalog.record_run(report(started_at=ahead), ahead)
    catalog.record_run(report(started_at=at(1)), at(1))
    assert catalog.task_history("backup", "app", NOON).succeeded_at == at(1)
    last = catalog.last_success("backup", "app", NOON)
    assert last is not None
    assert last.started_at == at(1)


def test_last_check_of_each_copy_is_returned(catalog: Catalog) -> None:
    catalog.add_generation(manifest(), "local")
    for minute in (1, 3, 2):
        catalog.record_check(CheckRecord(APP, "local", at(minute), True, "sound", 0.1))
    catalog.record_check(CheckRecord(OLDER, "nas", at(9), False, "short", 0.1))
    assert catalog.last_checks("local") == {APP: at(3)}
    assert catalog.last_checks("nas") == {OLDER: at(9)}


def test_last_success_of_drill_is_of_requested_store(catalog: Catalog, tmp_path: Path) -> None:
    facts = DrillReport("nas", 60.0, NOON, 5.0, 1.5, ("a",))
    done = report(task="drill", outcome="done", started_at=at(1), details=DrillDetails(generation=APP, drill=facts))
    catalog.record_run(done, at(2))
    catalog.record_run(replace(done, started_at=at(3), details=RunDetails()), at(4))
    other = DrillDetails(drill=DrillReport("other", 60.0))
    catalog.record_run(replace(done, started_at=at(5), outcome="failed", details=other), at(6))
    last = catalog.last_success("drill", "app", at(9), "nas")
    assert last is not None
    assert last.report == done
    assert catalog.last_success("drill", "app", at(9), "other") is None
    assert catalog.task_history("drill", "app", at(9), "nas") == TaskHistory(at(1), (at(6),))
    assert catalog.task_history("drill", "app", at(9), "other") == TaskHistory(None, (at(6),))
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite3")) as connection:
        connection.execute("UPDATE run SET report = 'no JSON'")
        connection.commit()
    assert catalog.task_history("drill", "app", at(9), "nas").succeeded_at is None


def test_damaged_catalog_differs_from_busy_or_unreachable_one(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(CatalogDamaged, match="cannot use the catalog"):
        open_catalog(path)
    with pytest.raises(Exception, match="cannot use the catalog") as unreachable:
        open_catalog(tmp_path / "nowhere" / "catalog.sqlite3")
    assert not isinstance(unreachable.value, CatalogDamaged)
