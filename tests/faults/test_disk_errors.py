"""A disk that fails in any single system call: an error with a hint, nothing lost, no partial files.

Of failures that leave the same state on disk, one is recovered from (states.py).
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from states import SeenStates
from workspaces import (
    InitialState,
    Workspace,
    assert_next_backup_recovers,
    assert_nothing_lost,
    assert_swept,
    assert_tidy,
    beneath,
    changing_calls,
)

from support.command import Backupd
from support.faults import BackupdRunner, Call, on_both_cores, traced
from support.fork_server import CommandResult

FULL = ("mkdirat", "openat", "pwrite64", "write")
BROKEN = ("fdatasync", "fsync", "ftruncate", "renameat", "unlink", "unlinkat")
_SWEPT = ("unlinkat", True)
# What a backup can do without, as long as it says so in the log or a warning.
DISPENSABLE = re.compile(r"backup\.log|catalog\.sqlite3|\.backupd$|/lock$")


def test_failed_system_call_is_reported_with_hint_and_store_stays_complete(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)
    template = replace(template, kept=len(before.generations))
    surveyed = template.copy_to(tmp_path / "workspace-of-survey")

    def environ(workspace: Workspace) -> dict[str, str]:
        return Backupd(workspace.environ, tmp_path).environment()

    _, calls = traced(environ(surveyed), tmp_path, ",".join(FULL + BROKEN))

    def fail(call: Call) -> int:
        place = tmp_path / f"{call.process}-{call.name}-{call.number}"
        error, wanted = "ENOSPC" if call.name in FULL else "EIO", beneath(surveyed, call)

        def run(*inject: str) -> tuple[Workspace, CommandResult, list[Call]]:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            workspace = template.copy_to(place / "workspace")
            ended, hits = traced(environ(workspace), place, call.name, *inject, follow=call.process > 0)
            return (
                workspace,
                ended,
                [hit for hit in hits if hit.process == call.process and beneath(workspace, hit) == wanted],
            )

        try:
            workspace, ended = met(call, error, run)
            assert ended.code in (0, 1, 3)
            assert_nothing_lost(workspace, before)
            assert_swept(workspace)
            published = workspace.generations().keys() - before.generations.keys()
            if ended.code == 0:
                assert DISPENSABLE.search(call.path) or (call.name in FULL and call.path.endswith("/SHA256SUMS.new"))
            else:
                assert {1: "what to do: ", 3: "warning: "}[ended.code] in ended.err
            assert published or ended.code == 1
            if is_of_pin(call):
                assert (ended.code, len(published), "could not be pinned" in ended.err) == (3, 1, True)
            if published and ended.code and states.is_new(workspace):
                assert_next_backup_recovers(workspace, runner)
            if not published:
                assert_tidy(workspace)
        except BaseException as problem:
            problem.add_note(f"{error} in {call}")
            raise
        shutil.rmtree(place)
        return ended.code

    # What stays in staging because its removal failed is swept by the next run, and is no failure of this one.
    chosen = [call for call in changing_calls(calls, surveyed) if (call.name, "staging" in call.path) != _SWEPT]
    assert {call.name for call in chosen} == {*FULL, *BROKEN}
    assert {call.name for call in chosen if is_of_pin(call)} >= {"mkdirat", "openat", "write", "fsync", "renameat"}
    assert {*on_both_cores(fail, chosen)} == {0, 1, 3}


def met(
    call: Call, error: str, run: Callable[..., tuple[Workspace, CommandResult, list[Call]]]
) -> tuple[Workspace, CommandResult]:
    """Return the run that met `error` in `call`: one that opens a file more than the survey meets it elsewhere."""
    number = call.number
    for _ in range(5):
        workspace, ended, hits = run(f"{call.name}:error={error}:when={number}")
        if any("(INJECTED)" in hit.text for hit in hits):
            return workspace, ended
        _, _, hits = run()
        number = min((hit.number for hit in hits), key=lambda found: abs(found - call.number), default=number)
    pytest.fail("no run met the error where it was to meet it")


def is_of_pin(call: Call) -> bool:
    """Tell whether `call` is about the pin of the generation, which was made by hand."""
    return any("/.backupd/pins" in path for path in call.paths)
