"""An adoption that is killed before anything that it changes: no copy is lost, and the next one adopts."""

import shutil
from pathlib import Path

from workspaces import Workspace

from support.faults import BackupdRunner, on_both_cores
from support.replicas import assert_checksums, complete
from support.template import Ended


def changes_something(step: str) -> bool:
    """Tell whether a step may change what is at the replica, or whose copies count as own."""
    return "/there-" in step or "adopted" in step or "identity" in step


def test_killed_before_any_step_of_an_adoption_all_copies_are_there_and_the_next_run_adopts(
    template: Workspace, forks: BackupdRunner, tmp_path: Path
) -> None:
    def environment(yard: Workspace) -> dict[str, str]:
        return yard.environ | {"BACKUPD_REPLICAS__NAS__URL": f"file:{yard.root / 'there-it-is'}"}

    base = template.copy_to(tmp_path / "base")
    assert forks.run(["replicate"], environment(base)).code == 0
    sent = complete(base.root / "there-it-is")
    shutil.rmtree(base.backups)
    assert forks.run(["backup"], environment(base)).code == 0  # on the new machine, which has another identity
    assert forks.run(["replicate"], environment(base)).code == 1
    (made,) = base.generations()

    def kill(at: int | None) -> Ended:
        yard = base.copy_to(tmp_path / f"yard-{at}")
        there = yard.root / "there-it-is"
        ended = forks.run(["replicate", "--adopt"], environment(yard), at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert sent <= complete(there) <= sent | {made}
        assert forks.run(["replicate", "--adopt"], environment(yard)).code == 0
        assert made in complete(there)
        assert forks.run(["replicate"], environment(yard)).code == 0
        assert_checksums(there)
        shutil.rmtree(yard.root)
        return ended

    steps = kill(None).steps
    chosen = [number for number, step in enumerate(steps) if changes_something(step)]
    assert {"adopted" in steps[number] for number in chosen} == {True, False}
    on_both_cores(kill, chosen)
