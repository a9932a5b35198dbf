"""The runbook, typed as it is written into a terminal of the host, from a deployment to a lost machine.

Both languages have the same commands (tests/deploy/test_runbooks.py); some sections are read from the Spanish page.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.containers import DATA, Container, ContainerLab, docker, docker_program, wait_until
from support.documents import blocks_run_by, renamed, type_commands
from support.sftp_host import start_sftp_host

SPANISH = {"5", "7", "9"}


@dataclass
class Host:
    """A machine with containers, and a terminal on which the runbook is typed."""

    directory: Path
    app: Container
    backupd: Container
    names: dict[str, str]
    environ: Mapping[str, str]
    typed: set[str] = field(default_factory=set)

    def type(self, section: str, *numbers: int) -> str:
        """Type the blocks of a section with these numbers, all without, into one shell; return what appeared."""
        page = "docs/runbook.es.md" if section in SPANISH else "docs/runbook.md"
        shell, blocks = blocks_run_by(__file__, page)[0], blocks_run_by(__file__, page, f"{section}. ")
        chosen = [blocks[number].commands for number in numbers or range(len(blocks))]
        self.typed.update(chosen)
        return type_commands(renamed("".join((shell.commands, *chosen)), self.names), self.environ, self.directory)

    def wait_for_offsite_copy(self) -> None:
        """Wait until the first backup has been sent."""
        self.backupd.said("replicate to offsite: done", 120)
        assert self.learn_newest("offsite")

    def learn_newest(self, store: str) -> bool:
        """Take the newest generation of a store for the one that the runbook names, if there is one."""
        answer = self.backupd.exec("backupd", "list", "--store", store, "--json")
        if answer.code != 0 or not answer.json:
            return False
        self.names["tasks-20261123-0400"] = answer.json[0]["id"]
        return True

    def add_task(self) -> None:
        """Have the app write."""
        self.app.python("import urllib.request as r; r.urlopen('http://127.0.0.1:8000/tasks', data=b'one more').read()")

    def lose(self) -> None:
        """Lose both containers and their volumes."""
        docker("rm", "--force", self.app.name, self.backupd.name)
        docker("volume", "rm", self.names["app-data"], self.names["app-backups"])

    def tasks(self) -> int:
        """Return how many tasks the app has, once it answers; it does so only while its data are consistent."""
        wait_until(lambda: self.app.get("http://127.0.0.1:8000/health")[0] == 200, "the app answers")
        tasks: int = json.loads(self.app.get("http://127.0.0.1:8000/health")[1])["tasks"]
        return tasks


@pytest.fixture
def machine(lab: ContainerLab, volume: str, network: str, sftp_image: str, tmp_path: Path) -> Host:
    """The host before backupd is deployed: a running app, and a login for `nas.example`."""
    nas = start_sftp_host(lab, sftp_image, network, tmp_path, "--network-alias=nas.example", "--publish=127.0.0.1::22")
    (tmp_path / "offsite-key").rename(tmp_path / "backupd-key")
    _, port = docker("port", nas.container.name, "22").out.splitlines()[0].rsplit(":", 1)
    (tmp_path / "known_hosts").write_text(f"nas.example {nas.host_key}\n")
    (tmp_path / "ssh_config").write_text(
        f"Host nas.example\nHostName 127.0.0.1\nPort {port}\nHostKeyAlias nas.example\n"
        f"UserKnownHostsFile {tmp_path}/known_hosts\nStrictHostKeyChecking yes\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").symlink_to(docker_program() or "docker")
    (programs / "sftp").write_text(f'#!/bin/sh\nexec /usr/bin/sftp -F {tmp_path}/ssh_config "$@"\n')
    (programs / "sftp").chmod(0o755)
    app, backupd, backups = lab.app(volume), lab.reserved(), lab.volume()
    names = {
        "scripts/image backupd": "true",  # the image was built by it
        "docker run -d --name backupd": f"docker run -d --name {backupd.name} --network {network}",
        "--pids-limit 64 backupd": f"--pids-limit 64 {lab.image}",
        "docker exec -it backupd": f"docker exec -it {backupd.name}",
        "127.0.0.1:8080:8080": "127.0.0.1::8080",
        "app-data": volume,
        "app-backups": backups,
        "ssh-ed25519 AAAA...": nas.host_key,
        "2026-12-31": f"{datetime.now(UTC) + timedelta(days=1):%F}",  # the example is a day that has passed, some day
        **{
            f"docker {verb} {name}": f"docker {verb} {container.name}"
            for verb in ("stop", "start", "rm")
            for name, container in (("app", app), ("backupd", backupd))
        },
    }
    return Host(tmp_path, app, backupd, names, {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})


@pytest.mark.root  # the volumes of the engine are read on the host
def test_every_command_of_runbook_works_from_deployment_to_lost_machine(machine: Host, lab: ContainerLab) -> None:
    settings, deploy, check, upgrade = range(4)
    assert "BACKUPD_HTTP__TOKEN=" in machine.type("8", settings)
    machine.type("8", deploy, check)
    machine.wait_for_offsite_copy()

    machine.add_task()
    stop, restore, others, start, undo, clean = range(6)
    assert "Restore it? Type yes to continue:" in machine.type("1", stop, restore)
    machine.type("1", others, start)
    assert machine.tasks() == 20
    machine.type("1", undo)
    assert machine.tasks() == 21
    machine.type("1", clean)
    machine.type("2")
    assert machine.tasks() == 20
    machine.add_task()
    machine.type("3")
    assert machine.tasks() == 20

    machine.lose()
    docker("create", "--name", machine.app.name, f"--volume={machine.names['app-data']}:{DATA}", lab.app_image)
    machine.type("8", deploy)
    machine.type("4")
    assert machine.tasks() == 20
    assert machine.learn_newest("local")

    for section in ("5", "7"):
        machine.type(section)
    machine.type("8", upgrade, deploy, check)
    machine.type("9")
    assert machine.typed == {one.commands for one in blocks_run_by(__file__, "docs/runbook.md")[1:]}
