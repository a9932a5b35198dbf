"""deploy/forgejo/release.yml: after the tests of a commit its data are backed up, and then it gets one tag."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.command import Backupd
from support.daemon import running_daemon
from support.documents import ROOT
from support.git import Repositories, make_repositories

pytestmark = pytest.mark.no_cover

TOKEN = "a-token-that-may-only-ask-for-backups"
WORKFLOW: Any = yaml.safe_load((ROOT / "deploy" / "forgejo" / "release.yml").read_text())


def run_step(job: str, environ: Mapping[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the last step of a job, as a runner does."""
    command = ["bash", "-e", "-c", WORKFLOW["jobs"][job]["steps"][-1]["run"]]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)


def tag(repositories: Repositories, commit: str) -> None:
    """Run the step that tags."""
    done = run_step("tag", {**repositories.environ, "GITHUB_SHA": commit}, repositories.clone)
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


def test_backup_of_real_daemon_is_labelled_and_step_fails_without_it(backupd: Backupd, tmp_path: Path) -> None:
    with running_daemon(backupd, BACKUPD_HTTP__ACTIONS="true", BACKUPD_HTTP__BACKUP_TOKEN=TOKEN) as daemon:
        daemon.wait_for("is due: ")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {"PATH": path, "ADDRESS": f"http://127.0.0.1:{daemon.port}", "GITHUB_SHA": "0123abcd"}
        done = run_step("backup", {**environ, "BACKUPD_REMOTE_TOKEN": TOKEN}, tmp_path)
        assert done.returncode == 0, done.stderr
        assert backupd("list", "--json").json[0]["label"] == "release 0123abcd"
        refused = run_step("backup", {**environ, "BACKUPD_REMOTE_TOKEN": f"not-{TOKEN}"}, tmp_path)
        assert (refused.returncode, "token" in refused.stderr) == (1, True), refused.stderr


def test_tag_waits_for_backup_and_backup_for_tests() -> None:
    jobs = WORKFLOW["jobs"]
    assert (jobs["tag"]["needs"], jobs["backup"]["needs"]) == ("backup", "test")
    assert all(job["timeout-minutes"] for job in jobs.values())
    assert not any("if" in part for job in jobs.values() for part in (job, *job["steps"]))
