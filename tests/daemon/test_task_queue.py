"""Task queues and source claims: one run after the other, whatever its result."""

import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.bootstrap.tasks import backup_request, build_context
from backupd.catalog import read_catalog
from backupd.config import Config, load_config
from backupd.daemon.daemon import SourceClaims
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
def queue(config: Config, backups: Path) -> Iterator[TaskQueue]:
    log = open_log(backups / "backup.log")
    queue = TaskQueue(config, log, lambda: datetime.now(UTC))
    yield queue
    queue.stop()
    log.close()


def test_request_is_queued_once_and_its_result_is_kept(queue: TaskQueue) -> None:
    assert queue.submit(BACKUP)
    assert not queue.submit(BACKUP)
    heard: list[bool] = []
    queue.start(lambda: heard.append(bool(queue.results(BACKUP))))
    wait_until(lambda: heard, "the end of the backup")
    assert heard == [True]
    (ended,) = queue.results(BACKUP)
    assert ended.succeeded
    assert ended.began_at < ended.ended_at < ended.began_at + timedelta(minutes=2)
    assert queue.submit(BACKUP)


def test_failures_are_kept_until_a_success(queue: TaskQueue, database: Path) -> None:
    aside = database.rename(database.with_suffix(".aside"))
    queue.start()
    for count in (1, 2):
        assert queue.submit(BACKUP)
        wait_until(lambda count=count: len(queue.results(BACKUP)) == count, "another failure")
    assert [run.exit_code for run in queue.results(BACKUP)] == [1, 1]
    aside.rename(database)
    queue.submit(BACKUP)
    wait_until(lambda: queue.results(BACKUP)[-1].succeeded, "a success")
    assert len(queue.results(BACKUP)) == 1


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
        wait_until(lambda: queue.results(BACKUP), "the end of the run")
    queue.stop()
    context.log.close()
    assert [run.exit_code for run in queue.results(BACKUP)] == [1]
    with read_catalog(context.catalog_path) as catalog:
        (last,) = catalog.last_runs(context.clock())
    assert (last.failures, last.run.outcome) == (1, "failed")
    assert last.run.report is not None
    assert last.run.report.error_kind == "timeout"


def test_queue_without_a_free_process_logs_and_goes_on(queue: TaskQueue, backups: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 1, hard))
    try:
        queue.start()
        queue.submit(BACKUP)
        wait_until(lambda: queue.results(BACKUP), "the failure")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [run.exit_code for run in queue.results(BACKUP)] == [75]
    assert queue.alive()
    assert log_lines(backups)[-1]["event.action"] == "run.failed"
    queue.submit(BACKUP)
    wait_until(lambda: queue.results(BACKUP)[-1].succeeded, "a success")


def test_stopped_queue_starts_nothing(queue: TaskQueue) -> None:
    queue.start()
    queue.stop()
    assert not queue.submit(TaskRequest(DOCTOR))
    wait_until(lambda: not queue.alive(), "its end")


def test_daemons_of_different_sources_share_a_store_and_one_source_has_one_daemon(tmp_path: Path) -> None:
    first, second = SourceClaims(["tasks", "notes"], tmp_path), SourceClaims(["notes", "blog"], tmp_path)
    assert first.acquire() == {"tasks", "notes"}
    assert second.acquire() == {"blog"}
    assert second.held_by_others() == ("notes",)
    first.release_all()
    assert second.acquire() == {"notes", "blog"}
    second.release_all()


def test_claim_whose_file_was_removed_is_made_again(tmp_path: Path) -> None:
    claims = SourceClaims(["tasks"], tmp_path)
    assert claims.acquire() == {"tasks"}
    (tmp_path / "daemon-tasks.lock").unlink()
    assert claims.acquire() == {"tasks"}
    assert SourceClaims(["tasks"], tmp_path).acquire() == frozenset()
    claims.release_all()
