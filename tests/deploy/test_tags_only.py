"""deploy/forgejo/release.yml: its last step gives each commit one tag, after its tests and a backup."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.documents import ROOT
from support.git import Repositories, make_repositories

pytestmark = pytest.mark.no_cover

WORKFLOW: Any = yaml.safe_load((ROOT / "deploy" / "forgejo" / "release.yml").read_text())


def tag(repositories: Repositories, commit: str) -> None:
    """Run the step that tags, as a runner does."""
    step = WORKFLOW["jobs"]["tag"]["steps"][-1]["run"]
    environ = {**repositories.environ, "GITHUB_SHA": commit}
    done = subprocess.run(
        ["bash", "-e", "-c", step], cwd=repositories.clone, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_commit_is_tagged_once_in_a_form_that_gate_accepts(tmp_path: Path) -> None:
    repositories = make_repositories(tmp_path)
    commit = repositories.commit({"file": "1"})
    repositories.push("main")
    tag(repositories, commit)
    tag(repositories, commit)
    (name,) = set(repositories.refs()) - {"refs/heads/main"}
    assert re.fullmatch(r"refs/tags/v\d{8}-\d{6}", name)
    assert repositories.git("rev-parse", f"{name}^{{commit}}", cwd=repositories.bare) == commit


def test_tag_waits_for_backup_and_backup_for_tests() -> None:
    jobs = WORKFLOW["jobs"]
    assert (jobs["tag"]["needs"], jobs["backup"]["needs"]) == ("backup", "test")
    assert all(job["timeout-minutes"] for job in jobs.values())
    assert not any("if" in part for job in jobs.values() for part in (job, *job["steps"]))
