"""Each documented start of the container, as it is written: the page opens with the token, also after a restart."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.containers import Container, ContainerLab, docker, docker_program, open_page, wait_until
from support.documents import blocks_run_by, renamed, run_commands

README, CONTAINER = "README.md", "docs/container.md"
TIGHT = {"ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"], "PidsLimit": 64}


@dataclass(frozen=True)
class Host:
    """A shell of the host, where the commands are typed."""

    directory: Path
    backupd: Container
    names: Mapping[str, str]
    environ: Mapping[str, str]

    def type(self, page: str, section: str, number: int, **names: str) -> str:
        """Type one block of a section; return what it wrote to standard output."""
        block = blocks_run_by(__file__, page, section)[number]
        return run_commands(renamed(block.commands, {**self.names, **names}), self.environ, self.directory).out

    def page(self, token: str) -> tuple[int, str]:
        """Return status and body of the page as the host sees it, with `token` as password."""
        address = docker("port", self.backupd.name, "8080").out.strip()
        assert address.startswith("127.0.0.1:")
        return open_page(address, token)

    def assert_page_opens(self, token: str) -> None:
        """Wait for the page; only the token opens it."""
        wait_until(lambda: self.page(token)[0] == 200, f"the page: {self.backupd.logs()}", 60)
        assert "tasks" in self.page(token)[1]
        assert self.page("another-password")[0] == 401

    def wait_for_backup(self) -> None:
        """Wait until the first backup is there."""
        self.backupd.said("backup of tasks: published", 120)


@pytest.fixture
def machine(lab: ContainerLab, volume: str, network: str, tmp_path: Path) -> Host:
    """A host with the volume of an app; the image was built by scripts/image."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").symlink_to(docker_program() or "docker")
    app, backupd = lab.app(volume), lab.reserved()
    names = {
        "scripts/image backupd": "true",
        "scripts/image ": "true ",
        "--name backupd": f"--name {backupd.name} --network {network}",
        "127.0.0.1:8080:8080": "127.0.0.1::8080",
        "app-data": volume,
        "app-backups": lab.volume(),
        "backupd:0.1.0": lab.image,
        '24)" backupd\n': f'24)" {lab.image}\n',
        "64 backupd\n": f"64 {lab.image}\n",
        "docker exec backupd": f"docker exec {backupd.name}",
        "docker cp backupd": f"docker cp {backupd.name}",
        "docker stop backupd": f"docker stop {backupd.name}",
        "docker rm backupd": f"docker rm {backupd.name}",
        "docker stop app": f"docker stop {app.name}",
        "docker start app": f"docker start {app.name}",
    }
    return Host(tmp_path, backupd, names, {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})


@pytest.mark.parametrize(
    ("page", "section", "number", "rights"),
    [(README, "Deploy", 0, {}), (README, "Deploy", 1, TIGHT), (CONTAINER, "Capabilities", 0, TIGHT)],
    ids=["three lines", "tight", "user of the app"],
)
def test_documented_start_opens_page_with_token_and_survives_restart(
    machine: Host, page: str, section: str, number: int, rights: Mapping[str, object]
) -> None:
    token = machine.type(page, section, number).split()[-1].removeprefix("BACKUPD_HTTP__TOKEN=")
    machine.assert_page_opens(token)
    facts = machine.backupd.inspect()["HostConfig"]
    assert facts["RestartPolicy"]["Name"] == "unless-stopped"
    assert {name: facts[name] for name in rights} == rights
    docker("restart", machine.backupd.name)
    machine.assert_page_opens(token)


def test_commands_of_container_page_check_restore_and_move_backups(machine: Host) -> None:
    start = ("docs/container.md", "", 0)
    beside = {" -v app-backups:/backups": "", " -e BACKUPD_BACKUPS_DIR=/backups": ""}
    said = machine.type(*start, **beside)
    machine.assert_page_opens(next(line for line in said.splitlines() if len(line) == 48))
    machine.wait_for_backup()
    machine.type(CONTAINER, "Volumes", 0)
    machine.type(*start)
    machine.type(CONTAINER, "Volumes", 1)
    machine.type(CONTAINER, "", 1)
    assert (machine.directory / "restored.db").read_bytes()[:15] == b"SQLite format 3"
