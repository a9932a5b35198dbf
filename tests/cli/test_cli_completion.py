"""Shell completion by the script of each shell; mistyped commands; the reference of all commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import Backupd
from support.containers import ROOT

CONFIG = """
[sources.tasks]
path = "{database}"
[schedule]
timezone = "Europe/Madrid"
[replicas.offsite]
url = "file:/nonexistent/offsite"
"""


@pytest.fixture
def settings(tmp_path: Path, database: Path, backups: Path) -> dict[str, str]:
    """The environment of a shell: a configuration, and three generations by their names."""
    file = tmp_path / "backupd.toml"
    file.write_text(f'backups_dir = "{backups}"\n' + CONFIG.format(database=database))
    backups.mkdir(exist_ok=True)
    for name in ("tasks-20260704-2330", "tasks-20261120-1300", "tasks-20261120-1300-2"):
        (backups / f"{name}.manifest.json").touch()
    return {**os.environ, "BACKUPD_CONFIG": str(file)}


def completed(settings: dict[str, str], line: str) -> list[str]:
    """Return what Bash is told to offer for `line`."""
    words = line.split()
    count = len(words) - (not line.endswith(" "))
    question = {"COMP_WORDS": line, "COMP_CWORD": str(count), "_BACKUPD_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [shutil.which("backupd") or "backupd"],
        env={**settings, **question},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [answer.partition(",")[2] for answer in done.stdout.splitlines() if answer]


@pytest.mark.cover_processes
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("backupd re", ["remove", "replicate", "restore"]),
        ("backupd show ", ["latest", "tasks-20261120-1300-2", "tasks-20261120-1300", "tasks-20260704-2330"]),
        ("backupd restore tasks-202607", ["tasks-20260704-2330"]),
        ("backupd restore --at ", ["2026-11-20 14:00", "2026-07-05 01:30"]),
        ("backupd restore --from ", ["local", "offsite"]),
        ("backupd replicate --to ", ["offsite"]),
        ("backupd list --source t", ["tasks"]),
        ("backupd trust o", ["offsite"]),
        ("backupd prune --unf", ["--unfreeze"]),
        ("backupd completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_completion_offers_existing_names(settings: dict[str, str], line: str, offered: list[str]) -> None:
    assert sorted(completed(settings, line)) == sorted(offered)


@pytest.mark.cover_processes
def test_completion_with_broken_configuration_offers_and_prints_nothing(settings: dict[str, str]) -> None:
    Path(settings["BACKUPD_CONFIG"]).write_text("[sources")
    assert completed(settings, "backupd list --source ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_each_shell_calls_backupd(backupd: Backupd, shell: str) -> None:
    script = backupd("completion", shell)
    assert script.code == 0
    assert f"_BACKUPD_COMPLETE={shell}_complete" in script.out


def test_bash_accepts_script_and_completes_by_it(settings: dict[str, str]) -> None:
    ask = "COMP_WORDS=(backupd list --st); COMP_CWORD=2; _backupd_completion backupd; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "-c", f'eval "$(backupd completion bash)"; {ask}'],
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("--store", "")


def test_mistyped_command_is_refused_with_similar_command(backupd: Backupd) -> None:
    refused = backupd("bakup")
    assert (refused.code, "No such command 'bakup'. (Did you mean 'backup'?)" in refused.err) == (2, True)
    assert "Did you mean" not in backupd("xyzzy").err


def test_command_reference_is_current() -> None:
    program = ROOT / "tests" / "support" / "cli_reference.py"  # a process of its own masks no secret of another test
    written = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == written, "run scripts/cli-reference"
