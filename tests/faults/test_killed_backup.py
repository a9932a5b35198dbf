"""A backup that is killed, at each of its steps and anywhere: nothing is lost, and the next run cleans up."""

import os
import random
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from states import States
from workspaces import (
    BIG_ROWS,
    Before,
    Workspace,
    assert_checksums,
    assert_heals,
    assert_no_processes,
    assert_tidy,
    assert_unhurt,
    changing_calls,
)

from support.bank import make_bank, running_bank
from support.command import Backupd
from support.faults import BackupdRunner, Call, at_every_step, on_both_cores, processes_below, stopped, traced
from support.template import Ended

KILLS = 8
BY_SQLITE = "fdatasync,ftruncate,pwrite64,unlink"


def test_killed_before_any_of_its_steps_a_backup_loses_nothing_and_the_next_one_heals(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)

    def kill(at: int | None) -> Ended:
        yard = template.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["backup", "--json"], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before)
        assert_no_processes(yard)
        if states.is_new(yard):
            assert_heals(yard, forks, verify=at is None or at % 2 == 0)
        shutil.rmtree(yard.root)
        return ended

    steps = at_every_step(kill)
    assert any("rename" in step and "manifest.json" in step for step in steps)
    assert any("remove" in step and "sqlite3.gz" in step for step in steps)


def test_checksums_that_a_killed_backup_left_behind_are_right_again_after_any_run_even_one_that_fails(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before = Before.of(template)
    steps = forks.run(["backup"], template.copy_to(tmp_path / "whole").environ, counted=True).steps
    published = next(n for n, step in enumerate(steps) if step.startswith("os.rename") and "manifest.json" in step)
    told = next(n for n, step in enumerate(steps) if step.startswith("os.rename") and "SHA256SUMS" in step)
    assert published < told

    def kill(at: int, send: signal.Signals) -> None:
        yard = template.copy_to(tmp_path / f"{send.name}-{at}")
        assert forks.run(["backup"], yard.environ, at=at, send=send).code != 0
        yard.database.unlink()
        assert forks.run(["backup"], yard.environ).code == 1
        assert_unhurt(yard, Before(before.generations, {}))
        assert_checksums(yard, exact=True)

    cases = [(at, send) for at in range(published, told + 1, 3) for send in (signal.SIGKILL, signal.SIGTERM)]
    on_both_cores(lambda case: kill(*case), cases)


def test_killed_at_any_instant_beside_an_app_that_writes_a_backup_loses_nothing_and_the_next_one_heals(
    forks: BackupdRunner, tmp_path: Path
) -> None:
    seed = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"FAULTS_SEED={seed}")
    chance = random.Random(seed)
    yard = Workspace(tmp_path / "yard", rows=BIG_ROWS)
    yard.database.parent.mkdir(parents=True)
    with running_bank(yard.database, pause_s=0.001, rows=BIG_ROWS) as bank:
        for _ in range(yard.kept):
            bank.wait_for_commits(1)
            usual = forks.run(["backup", "--json"], yard.environ).json
        assert usual["snapshot_bytes"] > 25 << 20
        killed, ever = 0, yard.generations()
        while killed < KILLS:
            before = Before.of(yard, app_runs=True)
            ended = forks.run(["backup"], yard.environ, after_s=chance.uniform(0, usual["duration_s"]))
            assert ended.code in (0, -9), ended
            killed += ended.code == -9
            assert all(ever.setdefault(key, files) == files for key, files in yard.generations().items())
            assert_unhurt(yard, before)
            assert_no_processes(yard)
            bank.wait_for_commits(1)
            assert_heals(yard, forks, verify=killed == KILLS)


def test_killed_in_a_system_call_of_its_catalog_a_backup_loses_nothing_and_the_next_one_heals(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)
    surveyed = template.copy_to(tmp_path / "yard")
    _, calls = traced(Backupd(surveyed.environ, tmp_path).environment(), tmp_path, BY_SQLITE)

    def kill(call: Call) -> None:
        place = tmp_path / f"{call.name}-{call.number}"
        place.mkdir()
        yard = template.copy_to(place / "yard")
        inject = f"{call.name}:signal=SIGKILL:when={call.number}"
        ended, _ = traced(Backupd(yard.environ, place).environment(), place, call.name, inject, follow=False)
        assert ended.code == -9, (call, ended)
        assert_unhurt(yard, before)
        assert_no_processes(yard)
        if states.is_new(yard):
            assert_heals(yard, forks, verify=False)

    chosen = [call for call in changing_calls(calls, surveyed) if re.search(r"catalog\.sqlite3(-wal)?$", call.path)]
    assert {call.name for call in chosen} == {*BY_SQLITE.split(",")}
    on_both_cores(kill, chosen)


def test_a_child_that_is_killed_ends_the_backup_with_advice_and_leaves_the_store_as_it_was(
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


def test_a_child_that_waits_for_the_app_does_not_outlive_its_killed_backup(tmp_path: Path) -> None:
    yard = Workspace(tmp_path / "yard")
    yard.database.parent.mkdir(parents=True)
    make_bank(yard.database, "delete")
    with closing(sqlite3.connect(yard.database, isolation_level=None)) as app:
        app.execute("BEGIN EXCLUSIVE")
        environ = Backupd(yard.environ, yard.root).environment()
        with stopped(
            environ, yard.root, lambda: any(yard.hidden.glob("staging/*/copy/snapshot.sqlite3")), "backup"
        ) as run:
            assert len(processes_below(yard.hidden)) == 1
            run.kill()
        assert_no_processes(yard, timeout_s=5)
        app.execute("ROLLBACK")
    yard.app_writes()
