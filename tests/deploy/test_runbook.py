"""The runbook: both languages have the same commands, each command works, and every alert is explained."""

import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.bank import is_balanced
from support.command import Backupd
from support.sshd import Sshd

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]
ENGLISH, SPANISH = ((ROOT / "docs" / name).read_text() for name in ("runbook.md", "runbook.es.md"))
_BLOCK = re.compile(r"^```sh (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the kind of each block of commands, `run` or `docker`, and its lines."""
    return _BLOCK.findall(text)


def test_runbooks_have_same_commands_and_sections() -> None:
    assert blocks(ENGLISH) == blocks(SPANISH)
    numbers = [re.findall(r"^## (\d+)\.", text, re.MULTILINE) for text in (ENGLISH, SPANISH)]
    assert numbers[0] == numbers[1] == [str(number) for number in range(1, 10)]


def test_each_alert_is_in_both_runbooks() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert alerts
    for text in (ENGLISH, SPANISH):
        assert {alert for alert in alerts if f"`{alert}`" not in text} == set()


def test_container_commands_match_other_pages() -> None:
    said = "".join(lines for kind, lines in blocks(ENGLISH) if kind == "docker")
    assert said.splitlines() == [
        "docker stop app",
        "scripts/image backupd",
        "docker run -d --name backupd -v app-data:/app/data -e BACKUPD_DATABASE=/app/data/tasks.db backupd",
        "docker exec backupd backupd doctor",
    ]
    assert (ROOT / "scripts" / "image").exists()


def tools(directory: Path, config: Path) -> None:
    """Put `backupd` and an `sftp` that knows the host as `nas` into `directory`."""
    directory.mkdir()
    commands = {"backupd": f"{shlex.quote(sys.executable)} -m backupd", "sftp": f"/usr/bin/sftp -F {config}"}
    for name, command in commands.items():
        (directory / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (directory / name).chmod(0o755)


def test_every_runbook_command_succeeds_in_order(backupd: Backupd, database: Path, sshd: Sshd, tmp_path: Path) -> None:
    data, there = database.parent, tmp_path / "there"
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key()}\n")
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host nas\nHostName 127.0.0.1\nPort {sshd.port}\nUser {sshd.user}\n"
        f"IdentityFile {sshd.key}\nUserKnownHostsFile {known}\n"
    )
    tools(tmp_path / "bin", config)
    environ = backupd.environment(
        BACKUPD_BACKUPS_DIR=str(data / "backups"),
        BACKUPD_REPLICAS__OFFSITE__URL=f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}",
        BACKUPD_REPLICAS__OFFSITE__HOST_KEY=sshd.host_key(),
        BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE=str(sshd.key),
    )
    environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"

    def run(lines: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
        return done.stdout

    published = run("backupd backup && backupd replicate")
    (generation,) = set(re.findall(r"tasks-\d{8}-\d{4}", published))
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%F}"
    for kind, lines in blocks(ENGLISH):
        if kind == "run":
            named = lines.replace("/app/data", str(data)).replace("tasks-20261123-0400", generation)
            named = named.replace("2026-12-31", tomorrow)  # the example is a day that has passed, some day
            run(named.replace("nas:/backups/my-app", f"nas:{there}"))
            assert is_balanced(database)
    assert is_balanced(data / "fetched" / "tasks.db")
