"""A backup killed or stopped during a hook: all processes of the hook end, and the app is told of it where that can be.

What is killed calls nothing more; the next run calls both hooks again.
"""

import shlex
import signal
import subprocess
import sys

import pytest
from workspaces import InitialState, Workspace, assert_no_processes, assert_nothing_lost

from support.command import Backupd, log_lines
from support.daemon import wait_until
from support.faults import BackupdRunner

# Notes that it was called, and then hangs where $2 is empty; a second call of the same hook returns at once.
HANGING = (
    'cd "$0"; echo "$1 $BACKUPD_OUTCOME" >>told; [ -n "$2" ] || [ -f "$1" ] || { touch "$1"; sleep 3600 & sleep 3600; }'
)


def environ_of(workspace: Workspace, hanging: str = "") -> dict[str, str]:
    """Return the environment of a backup whose hooks note that they were called; the one named `hanging` hangs once."""
    directory = workspace.root / "hooks"
    directory.mkdir(exist_ok=True)
    words = {event: [str(directory), event, "" if event == hanging else "go"] for event in ("before", "after")}
    hooks = {event: shlex.join(["sh", "-c", HANGING, *words[event]]) for event in words}
    return workspace.environ | {f"BACKUPD_HOOKS__{event.upper()}": hook for event, hook in hooks.items()}


def told(workspace: Workspace) -> list[str]:
    return (workspace.root / "hooks" / "told").read_text().splitlines()


def signalled(workspace: Workspace, event: str, send: signal.Signals) -> int:
    """Send a backup the signal while that hook runs; returns its exit code."""
    environ = Backupd(environ_of(workspace, event), workspace.root).environment()
    command = [sys.executable, "-m", "backupd", "backup"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        wait_until((workspace.root / "hooks" / event).exists, f"the hook {event}")
        run.send_signal(send)
        return run.wait(30)


@pytest.mark.parametrize("event", ["before", "after"])
def test_hook_ends_with_killed_backup_and_next_one_calls_both_again(
    event: str, workspace: Workspace, runner: BackupdRunner
) -> None:
    initial = InitialState.of(workspace)
    assert signalled(workspace, event, signal.SIGKILL) == -signal.SIGKILL
    assert_no_processes(workspace)
    assert_nothing_lost(workspace, initial)
    calls = len(told(workspace))
    assert told(workspace)[-1].startswith(event)
    again = runner.run(["backup", "--json"], environ_of(workspace))
    assert again.code == 0, again
    outcome = "published" if event == "before" else "unchanged"
    assert told(workspace)[calls:] == ["before ", f"after {outcome}"]


@pytest.mark.parametrize("send", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("event", ["before", "after"])
def test_stopped_backup_ends_hook_and_calls_after(event: str, send: signal.Signals, workspace: Workspace) -> None:
    initial = InitialState.of(workspace)
    assert signalled(workspace, event, send) == 128 + send
    assert_no_processes(workspace)
    assert_nothing_lost(workspace, initial)
    published = ["after published"] if event == "after" else []
    assert told(workspace) == ["before ", *published, "after failed"]
    (finished,) = [line for line in log_lines(workspace.backups)[-8:] if line["event.action"] == "run.finished"][-1:]
    assert finished["backupd.outcome"] == "failed"


def test_after_that_hangs_is_cut_off_in_stopped_backup(workspace: Workspace) -> None:
    environ = environ_of(workspace, "after")
    environ["BACKUPD_HOOKS__BEFORE"] = f"sh -c 'cd {workspace.root}/hooks; touch before; sleep 3600'"
    command = [sys.executable, "-m", "backupd", "backup"]
    with subprocess.Popen(
        command, env=Backupd(environ, workspace.root).environment(), stderr=subprocess.DEVNULL
    ) as run:
        wait_until((workspace.root / "hooks" / "before").exists, "the hook before")
        run.send_signal(signal.SIGTERM)
        wait_until((workspace.root / "hooks" / "after").exists, "the hook after")
        assert run.wait(30) == 128 + signal.SIGTERM
    assert_no_processes(workspace)
    (warning,) = log_lines(workspace.backups)[-1]["backupd.warnings"]
    assert "hooks.after: the command sh did not end within 3 s" in warning
