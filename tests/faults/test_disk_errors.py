"""A disk that fails in any single system call: an error with advice, nothing lost, nothing lying about."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from states import States
from workspaces import (
    Before,
    Workspace,
    assert_heals,
    assert_swept,
    assert_tidy,
    assert_unhurt,
    beneath,
    changing_calls,
)

from support.command import Backupd
from support.faults import BackupdRunner, Call, on_both_cores, traced
from support.template import Ended

FULL = ("mkdir", "openat", "pwrite64", "write")
BROKEN = ("fdatasync", "fsync", "ftruncate", "rename", "unlink")
# What a backup can do without, as long as it says so in the log or a warning.
DISPENSABLE = re.compile(r"backup\.log|catalog\.sqlite3|\.backupd$|/lock$")


def test_any_system_call_that_fails_is_told_with_advice_and_leaves_the_store_as_it_was_or_one_better(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)
    template = replace(template, kept=len(before.generations))
    surveyed = template.copy_to(tmp_path / "yard-of-survey")

    def environ(yard: Workspace) -> dict[str, str]:
        return Backupd(yard.environ, tmp_path).environment()

    _, calls = traced(environ(surveyed), tmp_path, ",".join(FULL + BROKEN))
    by_children = Counter(call.name for call in calls if call.process > 0)

    def fail(call: Call) -> int:
        place = tmp_path / f"{call.process}-{call.name}-{call.number}"
        error, wanted = "ENOSPC" if call.name in FULL else "EIO", beneath(surveyed, call)
        follow = call.process > 0 or call.number > by_children[call.name]

        def run(*inject: str) -> tuple[Workspace, Ended, list[Call]]:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            yard = template.copy_to(place / "yard")
            ended, hits = traced(environ(yard), place, call.name, *inject, follow=follow)
            return yard, ended, [hit for hit in hits if hit.process == call.process and beneath(yard, hit) == wanted]

        try:
            yard, ended = met(call, error, run)
            assert ended.code in (0, 1, 3)
            assert_unhurt(yard, before)
            assert_swept(yard)
            published = yard.generations().keys() - before.generations.keys()
            if ended.code == 0:
                assert DISPENSABLE.search(call.path) or (call.name in FULL and call.path.endswith("/SHA256SUMS.new"))
            else:
                assert {1: "what to do: ", 3: "warning: "}[ended.code] in ended.err
            assert published or ended.code == 1
            if is_of_pin(call):
                assert (ended.code, len(published), "could not be pinned" in ended.err) == (3, 1, True)
            if published and ended.code and states.is_new(yard):
                assert_heals(yard, forks, verify=False)
            if not published:
                assert_tidy(yard)
        except BaseException as problem:
            problem.add_note(f"{error} in {call}")
            raise
        shutil.rmtree(place)
        return ended.code

    chosen = [*changing_calls(calls, surveyed)]
    assert {call.name for call in chosen} == {*FULL, *BROKEN}
    assert {call.name for call in chosen if is_of_pin(call)} >= {"mkdir", "openat", "write", "fsync", "rename"}
    assert {*on_both_cores(fail, chosen)} == {0, 1, 3}


def met(call: Call, error: str, run: Callable[..., tuple[Workspace, Ended, list[Call]]]) -> tuple[Workspace, Ended]:
    """Return the run that met `error` in `call`: one that opens a file more than the survey meets it elsewhere."""
    number = call.number
    for _ in range(5):
        yard, ended, hits = run(f"{call.name}:error={error}:when={number}")
        if any("(INJECTED)" in hit.text for hit in hits):
            return yard, ended
        _, _, hits = run()
        number = min((hit.number for hit in hits), key=lambda found: abs(found - call.number), default=number)
    pytest.fail("no run met the error where it was to meet it")


def is_of_pin(call: Call) -> bool:
    """Tell whether `call` is about the pin of the generation, which was made by hand."""
    return any("/.backupd/pins" in path for path in call.paths)
