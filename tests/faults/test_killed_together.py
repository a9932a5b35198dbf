"""A backup of several sources killed at each step: no restore point lacks a part, and the next run makes a whole one.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import os
import shutil
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from states import SeenStates
from workspaces import (
    Workspace,
    assert_checksums,
    assert_no_processes,
    assert_swept,
    verify_generation,
    write,
)

from backupd.archive.manifest import decode_point
from backupd.model import RestorePoint
from support.bank import make_bank
from support.faults import BackupdRunner, at_every_step, processes_below
from support.fork_server import CommandResult
from support.processes import command_line

MODES = {"tasks": "wal", "notes": "delete"}


@dataclass(frozen=True)
class SeveralSources(Workspace):
    """An app with two databases, both of which have changed since the backups of `root`."""

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a run here."""
        keep = {"BACKUPD_RETENTION__LAST": "9"}
        paths = {f"BACKUPD_SOURCES__{name.upper()}__PATH": str(self.of(name)) for name in MODES}
        return {name: value for name, value in super().environ.items() if name != "BACKUPD_DATABASE"} | paths | keep

    def of(self, source: str) -> Path:
        return self.database.with_name(f"{source}.db")

    def points(self) -> list[RestorePoint]:
        """Return the restore points; each must be whole."""
        found = [decode_point(self.store.point(key), key) for key in self.store.points()]
        present = {stored.id for stored in self.store.list()}
        assert all(point.generations <= present for point in found)
        assert all({part.source for part in point.parts} == MODES.keys() for point in found)
        return found


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> SeveralSources:
    """The workspace that the tests copy, with one restore point."""
    workspace = SeveralSources(tmp_path_factory.mktemp("several") / "workspace")
    workspace.database.parent.mkdir(parents=True)
    for name, mode in MODES.items():
        make_bank(workspace.of(name), mode)
    runner = BackupdRunner(workspace.root.parent)
    assert runner.run(["backup"], workspace.environ).code == 0
    assert len(workspace.points()) == 1
    for name in MODES:
        write(workspace.of(name))
    return workspace


def assert_sound(workspace: SeveralSources, known: int) -> None:
    """Assert that nothing is lost, nothing is there by half, and no process holds a pin."""
    generations = workspace.generations()
    assert len(generations) >= known
    for generation in generations:
        verify_generation(workspace, generation)
    workspace.points()
    assert_checksums(workspace)
    assert_no_processes(workspace)
    for name in MODES:
        with closing(sqlite3.connect(workspace.of(name), timeout=0)) as app, app:
            app.execute("BEGIN IMMEDIATE")


def assert_next_backup_is_whole(workspace: SeveralSources, runner: BackupdRunner) -> None:
    for name in MODES:
        write(workspace.of(name))
    known = len(workspace.points())
    ended = runner.run(["backup", "--json"], workspace.environ)
    assert (ended.code, [report["outcome"] for report in ended.json]) == (0, ["published"] * 2), ended
    assert len(workspace.points()) == known + 1
    assert workspace.points()[-1].generations == {report["generation"] for report in ended.json}
    assert_swept(workspace)


def test_backup_of_several_killed_before_any_step_leaves_whole_points_and_next_one_recovers(
    several: SeveralSources, runner: BackupdRunner, tmp_path: Path
) -> None:
    states = SeenStates(several)

    def kill(at: int | None) -> CommandResult:
        workspace = several.copy_to(tmp_path / f"killed-{at}")
        assert isinstance(workspace, SeveralSources)
        ended = runner.run(["backup", "--json"], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_no_processes(workspace)
        assert_sound(workspace, len(MODES))
        if states.is_new(workspace):
            assert_next_backup_is_whole(workspace, runner)
        shutil.rmtree(workspace.root)
        if at is None:
            taken.extend(ended.steps)
        return ended

    def own_steps() -> list[int]:
        """Return what a backup of a single source does not do, from the first copy until the index is in place."""
        begin = next(n for n, step in enumerate(taken) if "pinned" in step)
        return states.kill_points(range(begin, index_of(taken) + 2))[::2]

    taken = list[str]()
    at_every_step(kill, choose=own_steps)
    placed = [n for n, step in enumerate(taken) if "manifest.json" in step and "rename" in step]
    assert len(placed) >= len(MODES)
    assert max(placed) < index_of(taken)


def index_of(steps: Sequence[str]) -> int:
    """Return the number of the step that puts the index of a restore point in place."""
    return max(n for n, step in enumerate(steps) if "point.json" in step)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_pins_end_with_killed_backup(
    several: SeveralSources, runner: BackupdRunner, tmp_path: Path, number: signal.Signals
) -> None:
    workspace = several.copy_to(tmp_path / "workspace")
    assert isinstance(workspace, SeveralSources)
    steps = runner.run(["backup"], several.copy_to(tmp_path / "whole").environ, counted=True).steps
    packing = next(n for n, step in enumerate(steps) if "archive.part" in step)
    ended = runner.run(["backup"], workspace.environ, at=packing, send=number)
    assert ended.code != 0
    assert_sound(workspace, len(MODES))
    assert_next_backup_is_whole(workspace, runner)


def test_killed_process_of_pins_costs_nothing(several: SeveralSources, tmp_path: Path) -> None:
    workspace = several.copy_to(tmp_path / "workspace")
    assert isinstance(workspace, SeveralSources)
    with workspace.stopped("pinned/*.sqlite3", "backup") as run:
        (pins,) = [pid for pid in processes_below(workspace.hidden) if b"pinned_sources" in command_line(pid)]
        os.kill(pins, signal.SIGKILL)
    assert run.returncode == 0, (workspace.root / "err").read_text()
    assert len(workspace.points()) == 2
    assert_sound(workspace, 2 * len(MODES))
