"""An adoption killed before any of its changes: no copy is lost, and the next one adopts."""

import shutil
from pathlib import Path

from workspaces import Workspace

from support.faults import BackupdRunner, on_both_cores
from support.fork_server import CommandResult
from support.replicas import assert_checksums, complete_generations


def changes_something(step: str) -> bool:
    """Tell whether a step may change what is at the replica, or whose copies count as own."""
    return "/there-" in step or "adopted" in step or "identity" in step


def test_adoption_killed_before_any_step_keeps_all_copies_and_next_run_adopts(
    template: Workspace, runner: BackupdRunner, tmp_path: Path
) -> None:
    def environment(workspace: Workspace) -> dict[str, str]:
        return workspace.environ | {"BACKUPD_REPLICAS__NAS__URL": f"file:{workspace.root / 'there-it-is'}"}

    base = template.copy_to(tmp_path / "base")
    assert runner.run(["replicate"], environment(base)).code == 0
    sent = complete_generations(base.root / "there-it-is")
    shutil.rmtree(base.backups)
    assert runner.run(["backup"], environment(base)).code == 0  # on the new machine, which has another identity
    assert runner.run(["replicate"], environment(base)).code == 1
    (made,) = base.generations()

    def kill(at: int | None) -> CommandResult:
        workspace = base.copy_to(tmp_path / f"workspace-{at}")
        there = workspace.root / "there-it-is"
        ended = runner.run(["replicate", "--adopt"], environment(workspace), at=at, counted=True)
        assert ended.code == (0 if at is None else -9), ended
        assert sent <= complete_generations(there) <= sent | {made}
        assert runner.run(["replicate", "--adopt"], environment(workspace)).code == 0
        assert made in complete_generations(there)
        assert runner.run(["replicate"], environment(workspace)).code == 0
        assert_checksums(there)
        shutil.rmtree(workspace.root)
        return ended

    steps = kill(None).steps
    chosen = [number for number, step in enumerate(steps) if changes_something(step)]
    assert {"adopted" in steps[number] for number in chosen} == {True, False}
    on_both_cores(kill, chosen)
