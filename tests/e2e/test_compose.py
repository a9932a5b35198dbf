"""deploy/compose.yml as it is: the app runs, and backupd backs it up with the capabilities of the file."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from support.command import CommandResult
from support.containers import HARDENED, ROOT, docker, docker_program, open_page, wait_until

TOKEN = "0123456789abcdef0123456789abcdef"
FILE = ROOT / "deploy" / "compose.yml"


@dataclass(frozen=True)
class Project:
    """The services of the file, under a name of their own."""

    command: tuple[str, ...]
    project: str

    def __call__(self, *arguments: str) -> CommandResult:
        environ = {**os.environ, "BACKUPD_HTTP__TOKEN": TOKEN, "STATUS_PORT": ""}  # any free port
        done = subprocess.run(
            [*self.command, *arguments], env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)


def compose_command() -> Sequence[str] | None:
    """Return the command of Compose: the engine's plugin, or the program that came before it."""
    program = docker_program()
    if program and docker("compose", "version", check=False).code == 0:
        return (program, "compose")
    found = shutil.which("docker-compose")
    return found and (found,)


@pytest.fixture
def project(images: tuple[str, str], tmp_path: Path) -> Iterator[Project]:
    compose = compose_command()
    if compose is None:
        pytest.skip("needs Docker Compose")
    ready = tmp_path / "images.yml"
    backupd, app = images
    ready.write_text(json.dumps({"services": {"app": {"image": app}, "backupd": {"image": backupd}}}))
    name = f"backupd-e2e-{uuid.uuid4().hex[:8]}"
    made = Project((*compose, "--project-name", name, "--file", str(FILE), "--file", str(ready)), name)
    try:
        yield made
    finally:
        made("down", "--volumes", "--timeout", "1")


def test_compose_file_gives_only_needed_capabilities() -> None:
    service = yaml.safe_load(FILE.read_text())["services"]["backupd"]
    options = {
        *("--read-only" for _ in range(service["read_only"])),
        *(f"--tmpfs={path}" for path in service["tmpfs"]),
        *(f"--cap-drop={name}" for name in service["cap_drop"]),
        *(f"--cap-add={name}" for name in service["cap_add"]),
        *(f"--security-opt={word.removesuffix(':true')}" for word in service["security_opt"]),
        f"--memory={service['mem_limit']}",
        f"--pids-limit={service['pids_limit']}",
    }
    assert options == set(HARDENED)


def test_compose_sample_is_backed_up_while_it_writes(project: Project) -> None:
    up = project("up", "--detach")
    assert up.code == 0, up.err
    beside = ("exec", "-T", "backupd", "backupd")
    wait_until(lambda: project(*beside, "status").code == 0, "the first backup is there", 120)
    answer = project(*beside, "backup", "--json")
    assert answer.code == 0, answer.out + answer.err
    assert answer.json["outcome"] in {"published", "unchanged"}
    assert answer.json["verification"] == "full"
    listed = project(*beside, "list", "--json")
    assert listed.json[0]["id"] == answer.json["generation"]
    doctor = project(*beside, "doctor")
    assert doctor.code == 0, doctor.out
    page = project("port", "backupd", "8080").out.strip()
    assert page.startswith("127.0.0.1:")
    assert open_page(page, TOKEN)[0] == 200
