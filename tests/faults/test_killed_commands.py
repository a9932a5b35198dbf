"""Other commands killed at each step: the store, the app and the target of a restore stay intact.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import shutil
from pathlib import Path

from states import SeenStates
from workspaces import (
    RECOVERY_EVENTS,
    InitialState,
    Workspace,
    assert_no_processes,
    assert_nothing_lost,
    assert_tidy,
    catalogued,
    events,
    leftovers,
    sha256,
)

from backupd.archive.manifest import decode_manifest
from backupd.stores.state import Pins
from support.faults import BackupdRunner, at_every_step
from support.fork_server import CommandResult


def pin_labels(workspace: Workspace) -> list[str]:
    """Return the labels of all pins; of one that cannot be read an empty one."""
    return [pin.label for pin in Pins(workspace.hidden).all().values()]


def test_prune_killed_before_any_step_removes_whole_generations_and_next_one_recovers(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)
    going, *staying = before.generations

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(["prune"], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_nothing_lost(workspace, before, [going])
        if states.is_new(workspace):
            expected, known = leftovers(workspace, "prune"), len(events(workspace))
            assert runner.run(["prune"], workspace.environ).code == 0
            assert RECOVERY_EVENTS.intersection(events(workspace)[known:]) == expected
            assert [*workspace.generations()] == staying
            assert_tidy(workspace, "prune")
            assert catalogued(workspace) == {*staying}
        shutil.rmtree(workspace.root)
        return ended

    at_every_step(kill, choose=states.kill_points)


def test_pin_killed_before_any_step_is_set_or_not_and_can_be_repeated(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)
    oldest = next(iter(before.generations))

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(
            ["pin", oldest, "--label", "v2"], workspace.environ, at=at, watch=states.survey(workspace, at)
        )
        assert ended.code == (0 if at is None else -9), ended
        assert_nothing_lost(workspace, before)
        assert pin_labels(workspace) in ([], ["v2"])
        if states.is_new(workspace):
            assert runner.run(["pin", oldest, "--label", "v2"], workspace.environ).code == 0
            assert pin_labels(workspace) == ["v2"]
            assert runner.run(["prune"], workspace.environ).code == 0
            assert [*workspace.generations()] == [*before.generations]
            assert_tidy(workspace, "pin")
        shutil.rmtree(workspace.root)
        return ended

    steps = at_every_step(kill, choose=states.kill_points)
    assert any("rename" in step and oldest in step for step in steps)


def test_unpin_killed_before_any_step_keeps_generation(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    pinned = template.copy_to(tmp_path / "pinned")
    oldest = next(iter(InitialState.of(template).generations))
    assert runner.run(["pin", oldest, "--label", "v2"], pinned.environ).code == 0
    before, states = InitialState.of(pinned), SeenStates(pinned)

    def kill(at: int | None) -> CommandResult:
        workspace = pinned.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(["unpin", oldest], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_nothing_lost(workspace, before)
        assert pin_labels(workspace) in ([], ["v2"])
        if states.is_new(workspace):
            assert runner.run(["unpin", oldest], workspace.environ).code == 0
            assert pin_labels(workspace) == []
            assert_tidy(workspace, "unpin")
        shutil.rmtree(workspace.root)
        return ended

    at_every_step(kill, choose=states.kill_points)


def test_remove_killed_before_any_step_removes_whole_generation_and_next_run_finishes_it(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    pinned = template.copy_to(tmp_path / "pinned")
    going, *staying = InitialState.of(template).generations
    assert runner.run(["pin", going], pinned.environ).code == 0
    before, states = InitialState.of(pinned), SeenStates(pinned)

    def kill(at: int | None) -> CommandResult:
        workspace = pinned.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(["remove", going, "--force"], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_nothing_lost(workspace, before, [going])
        if states.is_new(workspace):
            there = going in workspace.generations()
            assert runner.run(["remove", going, "--force"], workspace.environ).code == (0 if there else 1)
            assert [*workspace.generations()] == staying
            assert catalogued(workspace) == {*staying}
            assert pin_labels(workspace) == []
            assert_tidy(workspace, "remove")
        shutil.rmtree(workspace.root)
        return ended

    at_every_step(kill, choose=states.kill_points)


def test_restore_to_path_killed_before_any_step_leaves_complete_file_or_none(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)
    newest = [*before.generations][-1]
    snapshot = decode_manifest(before.generations[newest][1], newest).snapshot

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"killed-{at}")
        place = workspace.root / "restored"
        place.mkdir()
        target, other = place / "tasks.db", place / "other.db"
        ended = runner.run(["restore", "--to", target], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert not target.exists() or sha256(target.read_bytes()) == snapshot.sha256
        assert_nothing_lost(workspace, before)
        assert_no_processes(workspace)
        debris = [path for path in place.iterdir() if path != target]
        assert all(path.name.startswith(".tasks.db.") and path.name.endswith(".part") for path in debris)
        if states.is_new(workspace):
            assert runner.run(["restore", "--to", other if target.exists() else target], workspace.environ).code == 0
        assert all(sha256(path.read_bytes()) == snapshot.sha256 for path in place.glob("*.db"))
        shutil.rmtree(workspace.root)
        return ended

    at_every_step(kill, choose=states.kill_points)


def test_catalog_rebuild_killed_before_any_step_is_harmless_and_can_be_repeated(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    before, states = InitialState.of(template), SeenStates(template)

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"killed-{at}")
        ended = runner.run(["catalog", "rebuild"], workspace.environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        assert_nothing_lost(workspace, before)
        if states.is_new(workspace):
            assert runner.run(["backup"], workspace.environ).code == 0
            rebuilt = runner.run(["catalog", "rebuild", "--json"], workspace.environ)
            assert (rebuilt.code, rebuilt.json) == (0, {"generations": workspace.kept})
            assert_tidy(workspace)
        shutil.rmtree(workspace.root)
        return ended

    at_every_step(kill, choose=states.kill_points)
