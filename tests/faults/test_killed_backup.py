"""A backup killed at each step and anywhere: nothing is lost, and the next run cleans up.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import os
import random
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from states import SeenStates
from workspaces import (
    InitialState,
    Workspace,
    assert_all_verified,
    assert_checksums,
    assert_next_backup_recovers,
    assert_no_processes,
    assert_nothing_lost,
    assert_tidy,
    changing_calls,
)

from support.bank import make_bank, running_bank
from support.command import Backupd
from support.faults import (
    BackupdRunner,
    Call,
    at_every_step,
    on_both_cores,
    processes_below,
    stopped,
    traced,
)
from support.fork_server import CommandResult

KILLS = 8
ROWS = 50_000
BY_SQLITE = "fdatasync,ftruncate,pwrite64,unlink"


def test_backup_killed_before_any_step_loses_nothing_and_next_one_recovers(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states, recovered = InitialState.of(template), SeenStates(template), SeenStates(template, "backup.log")

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(["backup", "--json"], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_nothing_lost(workspace, before)
        assert_no_processes(workspace)
        if states.is_new(workspace):
            assert_next_backup_recovers(workspace, runner)
            if recovered.is_new(workspace):
                assert_all_verified(workspace, runner)
        shutil.rmtree(workspace.root)
        return ended

    steps = at_every_step(kill, choose=states.kill_points)
    assert any("rename" in step and "manifest.json" in step for step in steps)
    assert any("remove" in step and "sqlite3.gz" in step for step in steps)


def test_checksums_after_killed_backup_are_correct_after_any_next_run(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template)
    steps = runner.run(["backup"], template.copy_to(tmp_path / "whole").environ, counted=True).steps
    published = next(n for n, step in enumerate(steps) if step.startswith("os.rename") and "manifest.json" in step)
    told = next(n for n, step in enumerate(steps) if step.startswith("os.rename") and "SHA256SUMS" in step)
    assert published < told

    def kill(at: int, send: signal.Signals) -> None:
        workspace = template.copy_to(tmp_path / f"{send.name}-{at}")
        assert runner.run(["backup"], workspace.environ, at=at, send=send).code != 0
        workspace.database.unlink()
        assert runner.run(["backup"], workspace.environ).code == 1
        assert_nothing_lost(workspace, InitialState(before.generations, {}))
        assert_checksums(workspace, exact=True)

    cases = [(at, send) for at in range(published, told + 1, 3) for send in (signal.SIGKILL, signal.SIGTERM)]
    on_both_cores(lambda case: kill(*case), cases)


def test_backup_killed_at_any_instant_beside_writing_app_loses_nothing_and_next_one_recovers(
    runner: BackupdRunner, tmp_path: Path
) -> None:
    seed = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"FAULTS_SEED={seed}")
    chance = random.Random(seed)
    workspace = Workspace(tmp_path / "workspace", rows=ROWS)
    workspace.database.parent.mkdir(parents=True)
    with running_bank(workspace.database, pause_s=0.001, rows=ROWS) as bank:
        for _ in range(workspace.kept):
            bank.wait_for_commits(1)
            usual = runner.run(["backup", "--json"], workspace.environ).json
        assert usual["snapshot_bytes"] > 8 << 20
        killed, ever, longest_s = 0, workspace.generations(), usual["duration_s"]
        while killed < KILLS:
            before = InitialState.of(workspace, app_runs=True)
            ended = runner.run(["backup", "--json"], workspace.environ, after_s=chance.uniform(0, longest_s))
            if ended.code == 0:  # quicker than those before
                longest_s = ended.json["duration_s"]
                continue
            assert ended.code == -9, ended
            killed += 1
            assert all(ever.setdefault(key, files) == files for key, files in workspace.generations().items())
            assert_nothing_lost(workspace, before)
            assert_no_processes(workspace)
            bank.wait_for_commits(1)
            assert_next_backup_recovers(workspace, runner)
        assert_all_verified(workspace, runner)


def test_backup_killed_in_system_call_of_catalog_loses_nothing_and_next_one_recovers(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)
    surveyed = template.copy_to(tmp_path / "workspace")
    _, calls = traced(Backupd(surveyed.environ, tmp_path).environment(), tmp_path, BY_SQLITE)

    def kill(call: Call) -> None:
        place = tmp_path / f"{call.name}-{call.number}"
        place.mkdir()
        workspace = template.copy_to(place / "workspace")
        inject = f"{call.name}:signal=SIGKILL:when={call.number}"
        ended, _ = traced(Backupd(workspace.environ, place).environment(), place, call.name, inject, follow=False)
        assert ended.code == -9, (call, ended)
        assert_nothing_lost(workspace, before)
        assert_no_processes(workspace)
        if states.is_new(workspace):
            assert_next_backup_recovers(workspace, runner)

    chosen = [call for call in changing_calls(calls, surveyed) if re.search(r"catalog\.sqlite3(-wal)?$", call.path)]
    assert {call.name for call in chosen} == {*BY_SQLITE.split(",")}
    on_both_cores(kill, chosen)


def test_backup_with_killed_child_fails_with_hint_and_store_is_unchanged(
    large: Workspace,
) -> None:
    before = large.generations()
    with large.stopped("copy/snapshot.sqlite3", "backup") as run:
        (child,) = processes_below(large.hidden)
        os.kill(child, signal.SIGKILL)
    assert run.returncode == 1
    told = (large.root / "err").read_text()
    assert "killed by signal 9" in told
    assert "what to do: " in told
    assert large.generations() == before
    assert_tidy(large)


def test_waiting_child_of_killed_backup_ends(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.database.parent.mkdir(parents=True)
    make_bank(workspace.database, "delete")
    with closing(sqlite3.connect(workspace.database, isolation_level=None)) as app:
        app.execute("BEGIN EXCLUSIVE")
        environ = Backupd(workspace.environ, workspace.root).environment()
        with stopped(environ, workspace.root, lambda: bool(processes_below(workspace.hidden)), "backup") as run:
            assert len(processes_below(workspace.hidden)) == 1
            run.send_signal(signal.SIGKILL)
        assert_no_processes(workspace, timeout_s=5)
        app.execute("ROLLBACK")
    workspace.app_writes()
