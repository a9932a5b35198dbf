"""SIGTERM, as sent by `docker stop`: a backup ends soon, reports it, and leaves nothing to clean up."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from workspaces import (
    RECOVERY_EVENTS,
    InitialState,
    Workspace,
    assert_no_processes,
    assert_nothing_lost,
    assert_swept,
    assert_tidy,
    events,
    leftovers,
)

from backupd.log import Event
from support.bank import transfers
from support.command import Backupd, log_lines
from support.daemon import wait_until
from support.directories import kept_databases
from support.faults import BackupdRunner, at_every_step, on_both_cores
from support.fork_server import CommandResult
from support.network_faults import UP, NetworkFaults, running_proxy
from support.replicas import incompressible_database
from support.sshd import Sshd

TERMINATED = 128 + signal.SIGTERM
SOON_S = 3
_LOCKS = "open lock "
_LET_GO = "ftruncate in file_lock"


def test_backup_terminated_before_any_step_cleans_up_and_reports_it(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template)
    template = replace(template, kept=len(before.generations))

    def terminate(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"terminated-{at}")
        known = len(log_lines(workspace.backups))
        ended = runner.run(["backup", "--json"], workspace.environ, at=at, send=signal.SIGTERM, counted=True)
        assert ended.code == (0 if at is None else TERMINATED), ended
        assert_nothing_lost(workspace, before)
        assert_no_processes(workspace)
        told = [line for line in log_lines(workspace.backups)[known:] if line["event.action"] == "run.finished"]
        until = ended.steps[: len(ended.steps) if at is None else at + 1]
        if _LET_GO in until:  # the work was done: what it said, or was about to say, stands
            assert len(told) <= 1
        else:
            assert_swept(workspace)
            assert leftovers(workspace) <= {Event.REMOVAL_RECOVERED}  # what was on its way out goes with the next run
            begun = any(_LOCKS in step for step in until)
            assert [line["backupd.outcome"] for line in told] == ["failed"] * begun
        shutil.rmtree(workspace.root)
        return ended

    at_every_step(terminate)


@pytest.mark.parametrize("send", [signal.SIGTERM, signal.SIGINT])
def test_backup_signalled_again_during_cleanup_finishes_cleanup(
    send: signal.Signals, template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before = InitialState.of(template)
    template = replace(template, kept=len(before.generations))
    whole = runner.run(["backup"], template.copy_to(tmp_path / "whole").environ, counted=True).steps
    locked = next(number for number, step in enumerate(whole) if _LOCKS in step)
    released = whole.index(_LET_GO)

    def terminate(at: int) -> None:
        workspace = template.copy_to(tmp_path / f"terminated-{at}")
        ended = runner.run(["backup"], workspace.environ, at=at, send=send, again=True)
        assert ended.code == 128 + send, ended
        assert len(ended.steps) > at + 1, "there was no cleanup to break off"
        assert_nothing_lost(workspace, before)
        assert_swept(workspace)
        assert_no_processes(workspace)
        last = log_lines(workspace.backups)[-1]
        assert (last["event.action"], last["backupd.outcome"]) == ("run.finished", "failed")

    on_both_cores(terminate, range(locked + 1, released, 4))


@pytest.mark.parametrize("staged", ["snapshot.sqlite3", "archive.part"])
def test_terminated_backup_ends_its_children(staged: str, large: Workspace, runner: BackupdRunner) -> None:
    before, known = large.generations(), len(events(large))
    with large.stopped(f"copy/{staged}", "backup") as run:
        run.send_signal(signal.SIGTERM)
        told = time.monotonic()
    assert time.monotonic() - told < SOON_S
    assert run.returncode == TERMINATED
    assert_no_processes(large, timeout_s=1)
    assert_tidy(large)
    last = log_lines(large.backups)[-1]
    assert (last["event.action"], last["backupd.outcome"]) == ("run.finished", "failed")
    assert large.generations() == before
    assert runner.run(["backup"], large.environ).code == 0
    assert not RECOVERY_EVENTS.intersection(events(large)[known:])


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "faults", [NetworkFaults(stall_up=6_000_000), NetworkFaults(rate=2_000_000, delay_s=0.02)], ids=["still", "slow"]
)
def test_terminated_replication_over_bad_line_ends_at_once(
    faults: NetworkFaults, runner: BackupdRunner, sshd: Sshd, tmp_path: Path
) -> None:
    here = {"BACKUPD_DATABASE": str(tmp_path / "tasks.db"), "BACKUPD_BACKUPS_DIR": str(tmp_path / "backups")}
    incompressible_database(tmp_path / "tasks.db", 30_000_000)
    assert runner.run(["backup"], here).code == 0
    with running_proxy(sshd.port, faults) as proxy:
        there = f"sftp://{sshd.user}@127.0.0.1:{proxy.port}{tmp_path / 'there'}"
        offsite = {"URL": there, "HOST_KEY": sshd.host_key(), "PRIVATE_KEY_FILE": str(sshd.key)}
        environ = here | {f"BACKUPD_REPLICAS__OFFSITE__{key}": value for key, value in offsite.items()}
        command = [sys.executable, "-m", "backupd", "replicate"]
        with subprocess.Popen(command, env=Backupd(environ, tmp_path).environment()) as run:
            wait_until(lambda: proxy.passed[UP] > 4_000_000, "much is on its way")
            run.terminate()
            assert run.wait(10) == TERMINATED
    assert not list((tmp_path / "there").glob("tasks-*"))


@pytest.mark.parametrize(("send", "every_other"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_interrupted_restore_reports_actual_state(
    send: signal.Signals, every_other: int, template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    """One signal at each step: both are exceptions on their way out, and no cleanup asks which."""

    def stop(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"stopped-{at}")
        ended = runner.run(["restore"], workspace.environ, at=at, send=send, counted=True)
        done = ended.code == 0
        assert done or ended.code == 128 + send
        assert ("backupd restore --undo" in ended.out) == done
        assert ("partial work was removed" in ended.err) != done
        assert len(kept_databases(workspace.database)) == done
        assert transfers(workspace.database) == (3 if done else 4)
        assert not list(workspace.database.parent.glob(".*"))
        return ended

    steps = stop(None).steps
    ends = on_both_cores(stop, range(steps.index("fsync in apply_ownership") + every_other, len(steps), 2))
    codes = [ended.code for ended in ends]
    assert codes == sorted(codes, reverse=True), "from some step on it is too late"
    assert {*codes} == {128 + send, 0}
