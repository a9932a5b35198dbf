"""Other commands that are killed at each of their steps: the store, the app and the target of a restore stay whole."""

import shutil
from pathlib import Path

from states import States
from workspaces import (
    HEALING,
    Before,
    Workspace,
    assert_no_processes,
    assert_tidy,
    assert_unhurt,
    catalogued,
    events,
    leftovers,
    sha256,
)

from backupd.archive.manifest import decode_manifest
from backupd.stores.state import Pins
from support.faults import BackupdRunner, at_every_step
from support.template import Ended


def pin_labels(yard: Workspace) -> list[str]:
    """Return the labels of all pins; of one that cannot be read an empty one."""
    return [pin.label for pin in Pins(yard.hidden / "pins").all().values()]


def test_killed_before_any_of_its_steps_a_prune_removes_all_or_nothing_of_a_generation_and_the_next_one_heals(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)
    going, *staying = before.generations

    def kill(at: int | None) -> Ended:
        yard = template.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["prune"], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before, [going])
        if states.is_new(yard):
            expected, known = leftovers(yard, "prune"), len(events(yard))
            assert forks.run(["prune"], yard.environ).code == 0
            assert HEALING.intersection(events(yard)[known:]) == expected
            assert [*yard.generations()] == staying
            assert_tidy(yard, "prune")
            assert catalogued(yard) == {*staying}
        shutil.rmtree(yard.root)
        return ended

    at_every_step(kill)


def test_killed_before_any_of_its_steps_a_pin_is_there_or_not_and_can_be_set_again(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)
    oldest = next(iter(before.generations))

    def kill(at: int | None) -> Ended:
        yard = template.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["pin", oldest, "--label", "v2"], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before)
        assert pin_labels(yard) in ([], ["v2"])
        if states.is_new(yard):
            assert forks.run(["pin", oldest, "--label", "v2"], yard.environ).code == 0
            assert pin_labels(yard) == ["v2"]
            assert forks.run(["prune"], yard.environ).code == 0
            assert [*yard.generations()] == [*before.generations]
            assert_tidy(yard, "pin")
        shutil.rmtree(yard.root)
        return ended

    steps = at_every_step(kill)
    assert any("rename" in step and ".backupd/pins/" in step for step in steps)


def test_killed_before_any_of_its_steps_a_release_leaves_the_pin_or_none_and_the_generation(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    pinned = template.copy_to(tmp_path / "pinned")
    oldest = next(iter(Before.of(template).generations))
    assert forks.run(["pin", oldest, "--label", "v2"], pinned.environ).code == 0
    before, states = Before.of(pinned), States(pinned)

    def kill(at: int | None) -> Ended:
        yard = pinned.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["unpin", oldest], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before)
        assert pin_labels(yard) in ([], ["v2"])
        if states.is_new(yard):
            assert forks.run(["unpin", oldest], yard.environ).code == 0
            assert pin_labels(yard) == []
            assert_tidy(yard, "unpin")
        shutil.rmtree(yard.root)
        return ended

    at_every_step(kill)


def test_killed_before_any_of_its_steps_a_removal_takes_all_or_nothing_and_the_next_run_finishes_it(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    pinned = template.copy_to(tmp_path / "pinned")
    going, *staying = Before.of(template).generations
    assert forks.run(["pin", going], pinned.environ).code == 0
    before, states = Before.of(pinned), States(pinned)

    def kill(at: int | None) -> Ended:
        yard = pinned.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["remove", going, "--force"], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before, [going])
        if states.is_new(yard):
            there = going in yard.generations()
            assert forks.run(["remove", going, "--force"], yard.environ).code == (0 if there else 1)
            assert [*yard.generations()] == staying
            assert catalogued(yard) == {*staying}
            assert pin_labels(yard) == []
            assert_tidy(yard, "remove")
        shutil.rmtree(yard.root)
        return ended

    at_every_step(kill)


def test_killed_before_any_of_its_steps_a_restore_leaves_the_whole_file_or_none_of_that_name(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)
    newest = [*before.generations][-1]
    snapshot = decode_manifest(before.generations[newest][1], newest).snapshot

    def kill(at: int | None) -> Ended:
        yard = template.copy_to(tmp_path / f"killed-{at}")
        place = yard.root / "restored"
        place.mkdir()
        target, other = place / "tasks.db", place / "other.db"
        ended = forks.run(["restore", "--to", target], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert not target.exists() or sha256(target.read_bytes()) == snapshot.sha256
        assert_unhurt(yard, before)
        assert_no_processes(yard)
        debris = [path for path in place.iterdir() if path != target]
        assert all(path.name.startswith(".tasks.db.") and path.name.endswith(".part") for path in debris)
        if states.is_new(yard):
            assert forks.run(["restore", "--to", other if target.exists() else target], yard.environ).code == 0
        assert all(sha256(path.read_bytes()) == snapshot.sha256 for path in place.glob("*.db"))
        shutil.rmtree(yard.root)
        return ended

    at_every_step(kill)


def test_killed_before_any_of_its_steps_a_rebuild_of_the_catalog_is_harmless_and_can_be_done_again(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    before, states = Before.of(template), States(template)

    def kill(at: int | None) -> Ended:
        yard = template.copy_to(tmp_path / f"killed-{at}")
        ended = forks.run(["catalog", "rebuild"], yard.environ, at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert_unhurt(yard, before)
        if states.is_new(yard):
            assert forks.run(["backup"], yard.environ).code == 0
            rebuilt = forks.run(["catalog", "rebuild", "--json"], yard.environ)
            assert (rebuilt.code, rebuilt.json) == (0, {"generations": yard.kept})
            assert_tidy(yard)
        shutil.rmtree(yard.root)
        return ended

    at_every_step(kill)
