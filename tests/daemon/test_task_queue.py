"""Task queues and source claims: one run after the other, whatever its result."""

import resource
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.bootstrap.tasks import backup_request, build_context
from backupd.catalog import read_catalog
from backupd.config import Config, load_config
from backupd.daemon.daemon import SourceClaims
from backupd.daemon.task_queue import DOCTOR, TaskQueue, TaskRequest
from backupd.log import null_log, open_log
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from support.bank import make_bank
from support.command import log_lines
from support.daemon import wait_until
from support.generations import flip_byte

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


@pytest.fixture
def several(tmp_path: Path, backups: Path) -> Iterator[TaskQueue]:
    """A queue for three databases."""
    backups.mkdir()
    (tmp_path / "data").mkdir()
    sources = ""
    for name in ("one", "two", "three"):
        make_bank(tmp_path / "data" / f"{name}.db", rows=10)
        sources += f'[sources.{name}]\npath = "{tmp_path}/data/{name}.db"\n'
    path = tmp_path / "config.toml"
    path.write_text(f'backups_dir = "{backups}"\n{sources}[space]\nreserve = 0\n')
    log = open_log(backups / "backup.log")
    queue = TaskQueue(load_config(path, {}), log, lambda: datetime.now(UTC))
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


def test_backups_that_wait_together_are_one_process_and_each_has_its_own_result(
    several: TaskQueue, backups: Path
) -> None:
    (backups.parent / "data" / "two.db").write_bytes(b"no database")
    requests = [TaskRequest("backup", name) for name in ("one", "two", "three")]
    prune = TaskRequest("prune", "one")
    assert several.submit(*requests[:2], prune) == (*requests[:2], prune)
    assert several.submit(*requests) == (requests[2],)
    several.start()
    wait_until(lambda: several.results(prune), "the end of the other task")
    assert [several.results(one)[0].exit_code for one in requests] == [0, 1, 0]
    assert [several.results(one)[0].succeeded for one in requests] == [True, False, True]
    runs = [line for line in log_lines(backups) if line["event.action"] == "run.finished"]
    assert [(line["backupd.task"], line["backupd.source"]) for line in runs] == [
        *(("backup", name) for name in ("one", "two", "three")),
        ("prune", "one"),
    ]
    actions = [line["event.action"] for line in log_lines(backups)]
    assert actions[:3] == ["run.started"] * 3, "all of them begin before the first ends"


def test_backups_of_different_clients_and_of_the_schedule_are_processes_of_their_own(several: TaskQueue) -> None:
    one, two = (TaskRequest("backup", name) for name in ("one", "two"))
    mine = replace(one, run_id="mine"), replace(two, run_id="mine")
    yours = replace(two, run_id="yours")
    several.submit(one, two)
    several.submit(*mine)
    several.submit(yours)
    together = list[tuple[TaskRequest, ...]]()
    while several._waiting:
        together.append(several._next())
    assert together == [mine, (yours,)]
    several.start()  # so that it can be stopped


def test_drills_that_wait_together_are_one_process_and_each_has_its_own_result(
    several: TaskQueue, backups: Path
) -> None:
    one, two, three = (TaskRequest("drill", name) for name in ("one", "two", "three"))
    several.submit(*(TaskRequest("backup", name) for name in ("one", "two", "three")))
    several.start()
    wait_until(lambda: several.results(TaskRequest("backup", "three")), "the backups")
    flip_byte(next(backups.glob("two-*.gz")))
    several.submit(one, two, three)
    wait_until(lambda: several.results(three), "the drills")
    assert [several.results(drill)[0].exit_code for drill in (one, two, three)] == [0, 1, 0]
    drills = [line for line in log_lines(backups) if line["event.action"] == "run.finished"][3:]
    assert [line["backupd.source"] for line in drills] == ["one", "two", "three"]
    assert len({line["backupd.drill"]["point"] for line in drills}) == 1, "one restore point"


def test_killed_process_of_several_backups_fails_each_of_them(several: TaskQueue, backups: Path) -> None:
    requests = [TaskRequest("backup", name) for name in ("one", "two")]
    context = TaskContext(DirectoryStore("local", backups), null_log())
    with context.exclusive_lock("test"):  # for which the run waits
        several.submit(*requests)
        several.start()
        wait_until(lambda: several._process is not None, "the process")
        assert several._process is not None
        several._process.kill()
        wait_until(lambda: all(several.results(one) for one in requests), "the results")
    assert [several.results(one)[0].exit_code for one in requests] == [-9, -9]
    failed = [line for line in log_lines(backups) if line["event.action"] == "run.failed"]
    assert [line["message"] for line in failed] == ["the backup of one and 1 more was killed by SIGKILL"]


def test_several_backups_without_a_free_process_fail_each_of_them(several: TaskQueue) -> None:
    requests = [TaskRequest("backup", name) for name in ("one", "two")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 1, hard))
    try:
        several.submit(*requests)
        several.start()
        wait_until(lambda: all(several.results(one) for one in requests), "the failure")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [several.results(one)[0].exit_code for one in requests] == [75, 75]


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
