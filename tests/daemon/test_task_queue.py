"""The worker: one run after the other, whatever becomes of each."""

import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.bootstrap.tasks import backup_request, build_context
from backupd.catalog import read_catalog
from backupd.config import Config, load_config
from backupd.daemon.source_claims import SourceClaims
from backupd.daemon.task_queue import DOCTOR, TaskQueue, TaskRequest
from backupd.log import open_log
from backupd.tasks.backup import backup
from support.command import log_lines
from support.daemon import wait_until

BACKUP = TaskRequest("backup", "tasks")


@pytest.fixture
def config(database: Path, backups: Path) -> Config:
    backups.mkdir()
    environ = {"BACKUPD_DATABASE": str(database), "BACKUPD_BACKUPS_DIR": str(backups), "BACKUPD_SPACE__RESERVE": "0"}
    return load_config(None, environ)


@pytest.fixture
def worker(config: Config, backups: Path) -> Iterator[TaskQueue]:
    log = open_log(backups / "backup.log")
    worker = TaskQueue(config, log, lambda: datetime.now(UTC))
    yield worker
    worker.stop()
    log.close()


def test_a_job_waits_but_once_and_its_end_is_remembered(worker: TaskQueue) -> None:
    assert worker.submit(BACKUP)
    assert not worker.submit(BACKUP)
    heard: list[bool] = []
    worker.start(lambda: heard.append(bool(worker.ended(BACKUP))))
    wait_until(lambda: heard, "the end of the backup")
    assert heard == [True]
    (ended,) = worker.ended(BACKUP)
    assert ended.succeeded
    assert ended.began_at < ended.ended_at < ended.began_at + timedelta(minutes=2)
    assert worker.submit(BACKUP)


def test_failures_are_remembered_until_a_success(worker: TaskQueue, database: Path) -> None:
    aside = database.rename(database.with_suffix(".aside"))
    worker.start()
    for count in (1, 2):
        assert worker.submit(BACKUP)
        wait_until(lambda count=count: len(worker.ended(BACKUP)) == count, "another failure")
    assert [run.exit_code for run in worker.ended(BACKUP)] == [1, 1]
    aside.rename(database)
    worker.submit(BACKUP)
    wait_until(lambda: worker.ended(BACKUP)[-1].succeeded, "a success")
    assert len(worker.ended(BACKUP)) == 1


def test_run_that_exceeds_its_time_limit_is_recorded_as_failed(config: Config) -> None:
    schedule = config.schedule.model_copy(update={"run_timeout_s": 5})
    lock = config.lock.model_copy(update={"timeout_s": 600})
    context = build_context(config)
    assert backup(backup_request(config, "tasks"), context).outcome == "published"
    limited = config.model_copy(update={"schedule": schedule, "lock": lock})
    queue = TaskQueue(limited, context.log, context.clock)
    with context.exclusive_lock("test"):
        queue.start()
        queue.submit(BACKUP)
        wait_until(lambda: queue.ended(BACKUP), "the end of the run")
    queue.stop()
    context.log.close()
    assert [run.exit_code for run in queue.ended(BACKUP)] == [1]
    with read_catalog(context.catalog_path) as catalog:
        (last,) = catalog.last_runs(context.clock())
    assert (last.failures, last.run.outcome) == (1, "failed")
    assert last.run.report is not None
    assert last.run.report.error_kind == "timeout"


def test_when_no_process_is_to_be_had_it_says_so_and_goes_on(worker: TaskQueue, backups: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 1, hard))
    try:
        worker.start()
        worker.submit(BACKUP)
        wait_until(lambda: worker.ended(BACKUP), "the failure")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [run.exit_code for run in worker.ended(BACKUP)] == [75]
    assert worker.alive()
    assert log_lines(backups)[-1]["event.action"] == "run.failed"
    worker.submit(BACKUP)
    wait_until(lambda: worker.ended(BACKUP)[-1].succeeded, "a success")


def test_told_to_stop_it_begins_nothing_more(worker: TaskQueue) -> None:
    worker.start()
    worker.stop()
    assert not worker.submit(TaskRequest(DOCTOR))
    wait_until(lambda: not worker.alive(), "its end")


def test_daemons_of_different_sources_share_a_store_and_one_source_has_one(tmp_path: Path) -> None:
    first, second = SourceClaims(["tasks", "notes"], tmp_path), SourceClaims(["notes", "blog"], tmp_path)
    assert first.held() == {"tasks", "notes"}
    assert second.held() == {"blog"}
    assert second.others() == ("notes",)
    first.release_all()
    assert second.held() == {"notes", "blog"}
    second.release_all()


def test_a_claim_whose_file_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    claims = SourceClaims(["tasks"], tmp_path)
    assert claims.held() == {"tasks"}
    (tmp_path / "daemon-tasks.lock").unlink()
    assert claims.held() == {"tasks"}
    assert SourceClaims(["tasks"], tmp_path).held() == frozenset()
    claims.release_all()
