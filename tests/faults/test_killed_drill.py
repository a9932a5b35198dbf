"""A drill killed or stopped midway: the place of the app is cleared by it or by the next drill.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from states import SeenStates
from workspaces import InitialState, Workspace, assert_no_processes, assert_nothing_lost

from support.command import Backupd
from support.daemon import wait_until
from support.faults import BackupdRunner, on_both_cores
from support.fork_server import CommandResult

_RUN = "run-"
_COMMAND = "backupd.system.process"


def environ_of(workspace: Workspace) -> dict[str, str]:
    """Return the environment of a drill in `workspace` that places the copy, and runs a command on it."""
    place = workspace.root / "drill" / "tasks.db"
    asked = {"PLACE_AT": str(place), "COMMAND": f"test -f {place}", "MAX_AGE_S": "999999"}
    return {**workspace.environ, **{f"BACKUPD_DRILL__{name}": value for name, value in asked.items()}}


def workspace_for(template: Workspace, root: Path) -> Workspace:
    workspace = template.copy_to(root)
    (workspace.root / "drill").mkdir()
    return workspace


def debris(workspace: Workspace) -> list[Path]:
    """Return what lies at the place and in staging."""
    return [*(workspace.root / "drill").iterdir(), *(workspace.hidden / "staging").iterdir()]


def from_unpacking_to_the_end(
    template: Workspace,
    runner: BackupdRunner,
    root: Path,
    send: signal.Signals,
    states: SeenStates,
    choose: Callable[[range], Sequence[int]],
    check: Callable[[Workspace, CommandResult], None],
) -> None:
    """Send a drill the signal before steps from the unpacked copy to the last trace, and `check` what it left.

    Before those that `choose` returns. `states` surveys a drill that runs to its end.
    """
    whole = workspace_for(template, root / "whole")
    ended = runner.run(["drill"], environ_of(whole), watch=states.survey(whole))
    assert (ended.code, debris(whole)) == (0, []), ended
    first = next(number for number, step in enumerate(ended.steps) if "restored.sqlite3" in step)
    last = max(number for number, step in enumerate(ended.steps) if _RUN in step)
    assert any(_COMMAND in step for step in ended.steps[first:last])

    def one(at: int) -> None:
        workspace = workspace_for(template, root / str(at))
        check(workspace, runner.run(["drill"], environ_of(workspace), at=at, send=send))

    on_both_cores(one, choose(range(first, last + 1)))


def test_drill_killed_before_any_step_is_cleaned_up_by_next_drill(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)

    def check(workspace: Workspace, ended: CommandResult) -> None:
        assert ended.code == -signal.SIGKILL
        assert_nothing_lost(workspace, before)
        assert_no_processes(workspace)
        if states.is_new(workspace):
            again = runner.run(["drill", "--json"], environ_of(workspace))
            assert (again.code, debris(workspace)) == (0, []), again

    from_unpacking_to_the_end(template, runner, tmp_path, signal.SIGKILL, states, states.kill_points, check)


def test_drill_terminated_before_any_step_cleans_up(template: Workspace, runner: BackupdRunner, tmp_path: Path) -> None:
    before, states = InitialState.of(template), SeenStates(template)

    def check(workspace: Workspace, ended: CommandResult) -> None:
        assert (ended.code, debris(workspace)) == (128 + signal.SIGTERM, []), ended
        assert_nothing_lost(workspace, before)
        assert_no_processes(workspace)

    from_unpacking_to_the_end(template, runner, tmp_path, signal.SIGTERM, states, lambda steps: steps[::3], check)


@pytest.mark.parametrize("send", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_endless_command_ends_with_its_drill(
    send: signal.Signals, template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    workspace = workspace_for(template, tmp_path / "workspace")
    environ = environ_of(workspace)
    begun = workspace.root / "begun"
    environ["BACKUPD_DRILL__COMMAND"] = f"sh -c 'sleep 3600 & echo > {begun}; sleep 3600'"
    command = [sys.executable, "-m", "backupd", "drill"]
    with subprocess.Popen(
        command, env=Backupd(environ, workspace.root).environment(), stderr=subprocess.DEVNULL
    ) as drill:
        wait_until(begun.exists, "the command")
        drill.send_signal(send)
        code = drill.wait(30)
    assert code == (-signal.SIGKILL if send == signal.SIGKILL else 128 + send)
    assert_no_processes(workspace)
    if send == signal.SIGKILL:
        assert runner.run(["drill"], environ_of(workspace)).code == 0
    assert debris(workspace) == []
