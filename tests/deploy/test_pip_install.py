"""The installation without a container, as the README shows it: a virtual environment, a link, the daemon."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.daemon import free_port, wait_until
from support.documents import ROOT, blocks_run_by, renamed, run_commands

pytestmark = pytest.mark.no_cover
PARTS = ("pyproject.toml", "README.md", "LICENSE", "backupd")


def alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_commands_of_readme_install_and_start_daemon(database: Path, tmp_path: Path) -> None:
    """Dependencies come from the environment of the tests, so that nothing is fetched but the build backend."""
    checkout, programs = tmp_path / "checkout", tmp_path / "bin"
    checkout.mkdir()
    programs.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, checkout)
    (block,) = blocks_run_by(__file__, "README.md")
    names = {
        "python3 -m": f"{sys.executable} -m",
        "/opt/backupd": str(tmp_path / "environment"),
        "/usr/local/bin": str(programs),
        "/app/data/tasks.db": str(database),
        "backupd serve": "exec backupd serve",
    }
    port = free_port()
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BACKUPD_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PIP_NO_DEPS": "1",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "BACKUPD_SPACE__RESERVE": "0",
        "BACKUPD_HTTP__LISTEN": f"127.0.0.1:{port}",
    }
    commands = ["bash", "-euo", "pipefail", "-c", renamed(block.commands, names)]
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(commands, env=environ, cwd=checkout, stdout=said, stderr=said)
        try:
            wait_until(lambda: process.poll() is not None or alive(port), "the daemon", 200)
            assert process.poll() is None, (tmp_path / "said").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "said").read_text()
    assert run_commands("backupd --version", environ, tmp_path).out.startswith("backupd ")
    assert (programs / "backupd").readlink() == tmp_path / "environment" / "bin" / "backupd"
