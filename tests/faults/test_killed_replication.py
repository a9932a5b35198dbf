"""A replication killed before any of its changes: complete generations only, and the next run recovers.

Of kills that leave the same state on disk, one is recovered from (states.py).
"""

import shutil
from pathlib import Path

import pytest
from states import SeenStates
from workspaces import Workspace

from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from support.faults import BackupdRunner, on_both_cores
from support.fork_server import CommandResult
from support.replicas import assert_checksums, complete_generations
from support.sshd import Sshd

CHANGES = ("mkdir", "open", "fsetstat", "write", "remove", "rename", "fsync@openssh.com", "posix-rename@openssh.com")


def environment(workspace: Workspace, url: str, sshd: Sshd, keeps: int = 1) -> dict[str, str]:
    """Return the environment of a workspace with a replica that keeps so many days."""
    offsite = {
        "URL": url,
        "HOST_KEY": sshd.host_key(),
        "PRIVATE_KEY_FILE": str(sshd.key),
        "RETENTION__DAILY": str(keeps),
        "RETENTION__WEEKLY": "0",
        "RETENTION__WITHIN": "0",
    }
    return workspace.environ | {f"BACKUPD_REPLICAS__OFFSITE__{key}": value for key, value in offsite.items()}


def url_of(kind: str, there: Path, sshd: Sshd) -> str:
    return f"file:{there}" if kind == "directory" else f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}"


def changes_there(step: str, kind: str) -> bool:
    """Tell whether a step may change something at the replica, whose directory is called there-something.

    In open directories there are names alone, here as at the replica.
    """
    by_name = kind == "directory" and step.startswith(("open ", "os.")) and "/" not in step
    return (
        step in {f"sftp {change}" for change in CHANGES} or by_name or "/there-" in step or step.startswith("fsync in")
    )


def lacking_newest(
    workspace: Workspace, there: Path, kind: str, runner: BackupdRunner, sshd: Sshd
) -> tuple[str, set[str]]:
    """Fill `there` with all but the newest generation; return that and the others."""
    assert runner.run(["replicate"], environment(workspace, url_of(kind, there, sshd), sshd, 30)).code == 0
    *older, newest = sorted(complete_generations(there))
    for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
        (there / f"{newest}{suffix}").unlink()
    return newest, {*older}


@pytest.mark.parametrize("kind", ["sftp", "directory"])
def test_replication_killed_before_any_step_leaves_complete_generations_and_next_run_recovers(
    template: Workspace, runner: BackupdRunner, tmp_path: Path, sshd: Sshd, kind: str
) -> None:
    filled = tmp_path / "filled"
    states = SeenStates(template)
    newest, older = lacking_newest(template.copy_to(tmp_path / "first"), filled, kind, runner, sshd)

    def kill(at: int | None) -> CommandResult:
        workspace = template.copy_to(tmp_path / f"workspace-{at}")
        there = workspace.root / "there-it-goes"
        shutil.copytree(filled, there)
        environ = environment(workspace, url_of(kind, there, sshd), sshd)
        ended = runner.run(["replicate"], environ, at=at, watch=states.survey(workspace, at))
        assert ended.code == (0 if at is None else -9), ended
        found = complete_generations(there)
        assert newest in found or found == older
        if states.is_new(workspace):
            assert runner.run(["replicate"], environ).code == 0
            assert complete_generations(there) == {newest}
            assert_checksums(there)
            assert not [path for path in there.rglob("*") if path.is_file() and path.parent != there]
        assert template.generations() == workspace.generations()
        shutil.rmtree(workspace.root)
        return ended

    steps = kill(None).steps
    chosen = states.kill_points([number for number, step in enumerate(steps) if changes_there(step, kind)])
    assert len(chosen) > 15
    on_both_cores(kill, chosen)
