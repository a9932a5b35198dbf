"""Several processes on one store: which of them wait, give up, or continue undisturbed."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from workspaces import RECOVERY_EVENTS, Workspace, assert_listed, assert_tidy, events, verify_generation, write

from backupd.log import Event, null_log
from backupd.retention import RetentionPolicy
from backupd.system.file_lock import file_lock
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.prune import prune
from backupd.tasks.requests import BackupRequest, RetentionRule
from support.command import Backupd, log_lines
from support.faults import BackupdRunner

NO_PATIENCE = {"BACKUPD_LOCK__TIMEOUT_S": "0"}
BUSY = 75
VERIFIED = Event.GENERATION_VERIFIED
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(512),
    "noise": os.urandom(100_000),
    "other-json": b'["backup", 17]',
    "deep-json": b"[" * 4000,
    "wrong-types": b'{"task": [], "pid": {}, "host": null, "since": "noon"}',
    "no-such-numbers": b'{"task": "backup", "pid": 1e999, "host": "here", "since": 0}',
    "cut-off": b'{"task": "backup", "pid": 17, "ho',
}


def test_two_simultaneous_backups_publish_one_generation_each(large: Workspace, runner: BackupdRunner) -> None:
    workspace = replace(large, kept=len(large.generations()) + 2)
    old = workspace.generations().keys()
    with workspace.stopped("copy/archive.part", "backup") as first:
        write(workspace.database)
        second = subprocess.Popen(
            [sys.executable, "-m", "backupd", "backup"], env=Backupd(workspace.environ, workspace.root).environment()
        )
        while Event.LOCK_WAITING not in events(workspace):
            assert second.poll() is None
            time.sleep(0.01)
    assert (first.returncode, second.wait()) == (0, 0)
    assert events(workspace).count(Event.LOCK_WAITING) == 1
    (waiting,) = (line for line in log_lines(workspace.backups) if line["event.action"] == Event.LOCK_WAITING)
    assert f"waiting for a backup (process {first.pid} on " in waiting["message"]
    new = workspace.generations().keys() - old
    assert len(new) == 2
    for generation in new:
        verify_generation(workspace, generation)
    assert_tidy(workspace)
    assert_listed(workspace, runner)


def test_verify_all_during_prune_continues_and_names_removed_generations(
    large: Workspace, runner: BackupdRunner
) -> None:
    assert runner.run(["backup"], large.environ).code == 0
    newest, gone = sorted(large.generations(), key=large.taken_at, reverse=True)
    with large.stopped("unpacked", "verify", "--all") as run:
        assert runner.run(["prune"], {**large.environ, "BACKUPD_RETENTION__LAST": "1"}).code == 0
        assert [*large.generations()] == [newest]
    assert run.returncode == 0
    assert (large.root / "err").read_text() == f"warning: {gone} was pruned since the listing: skipped\n"
    assert [line["backupd.generation"] for line in log_lines(large.backups) if line["event.action"] == VERIFIED] == [
        newest
    ]


def test_two_generations_in_one_minute_get_different_names_and_pruned_names_are_not_reused(
    template: Workspace, tmp_path: Path
) -> None:
    workspace = template.copy_to(tmp_path / "workspace")
    noon = datetime.now(UTC).replace(microsecond=0)
    context = TaskContext(workspace.store, null_log(), clock=lambda: noon)
    order = BackupRequest(
        "tasks", workspace.database, retention=RetentionRule(RetentionPolicy(last=9)), reserve_bytes=0
    )
    made = []
    for _ in range(2):
        write(workspace.database)
        made.append(backup(order, context).generation)
    first = f"tasks-{noon:%Y%m%d-%H%M}"
    assert made == [first, f"{first}-2"]
    prune("tasks", RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0)), context)
    assert [*workspace.generations()] == [f"{first}-2"]
    write(workspace.database)
    assert backup(order, context).generation == f"{first}-3"


@pytest.mark.parametrize("arguments", [["backup"], ["prune"], ["catalog", "rebuild"]], ids=" ".join)
def test_run_that_cannot_wait_for_lock_names_holder_and_exits_75(
    arguments: list[str], workspace: Workspace, runner: BackupdRunner
) -> None:
    before = workspace.generations()
    with file_lock(workspace.hidden / "lock", "backup"):
        ended = runner.run(arguments, {**workspace.environ, **NO_PATIENCE})
    assert ended.code == BUSY, ended
    assert re.search(rf"in use by a backup started [\d.]+ s ago \(process {os.getpid()}", ended.err)
    assert "what to do: wait" in ended.err
    assert workspace.generations() == before
    assert runner.run(arguments, {**workspace.environ, **NO_PATIENCE}).code == 0
    assert_tidy(workspace)


def test_list_verify_and_restore_during_backup_succeed(large: Workspace, runner: BackupdRunner, tmp_path: Path) -> None:
    with large.stopped("copy/snapshot.sqlite3", "backup") as run:
        assert runner.run(["backup"], {**large.environ, **NO_PATIENCE}).code == BUSY
        assert [facts["id"] for facts in runner.run(["list", "--json"], large.environ).json] == sorted(
            large.generations(), reverse=True
        )
        assert runner.run(["verify", "--all"], large.environ).code == 0
        assert runner.run(["restore", "--to", tmp_path / "restored.db"], large.environ).code == 0
        assert (tmp_path / "restored.db").stat().st_size > 0
    assert run.returncode == 0
    assert_tidy(large)


def test_backup_during_verify_keeps_its_staged_files(large: Workspace, runner: BackupdRunner) -> None:
    assert runner.run(["backup"], large.environ).code == 0
    with large.stopped("unpacked", "verify") as run:
        write(large.database)
        assert runner.run(["backup"], large.environ).code == 0
        assert large.staged("unpacked")
    assert run.returncode == 0
    assert Event.STAGING_SWEPT not in events(large)
    assert_tidy(large)


def test_lock_of_dead_process_is_taken_over_and_logged(workspace: Workspace, runner: BackupdRunner) -> None:
    died = json.dumps({"task": "prune", "pid": 17, "host": "elsewhere", "since": 0})
    (workspace.hidden / "lock").write_text(died)
    assert runner.run(["backup"], {**workspace.environ, **NO_PATIENCE}).code == 0
    (said,) = (line for line in log_lines(workspace.backups) if line["event.action"] == Event.LOCK_TAKEN_OVER)
    assert "a prune (process 17 on elsewhere) died" in said["message"]
    assert_tidy(workspace)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_lock_file_with_garbage_works_as_lock(garbage: bytes, workspace: Workspace, runner: BackupdRunner) -> None:
    (workspace.hidden / "lock").write_bytes(garbage)
    assert runner.run(["backup"], {**workspace.environ, **NO_PATIENCE}).code == 0
    assert not RECOVERY_EVENTS.intersection(events(workspace))
    assert_tidy(workspace)


def test_held_lock_with_garbage_is_reported_as_held(workspace: Workspace, runner: BackupdRunner) -> None:
    path = workspace.hidden / "lock"
    with file_lock(path, "backup"):
        path.write_bytes(GARBAGE["deep-json"])
        ended = runner.run(["backup"], {**workspace.environ, **NO_PATIENCE})
    assert ended.code == BUSY
    assert "in use by another run" in ended.err
