"""The image: its contents, what it must not contain, and its labels."""

import re
import subprocess
import tomllib
from datetime import datetime
from typing import Any

import pytest

from support.containers import HARDENED, ROOT, ContainerLab, docker

BASE = "python:3.13-slim-trixie"
LARGEST_MIB = 125  # more than a tenth of it are the services that Apprise knows
DOCUMENTATION = (ROOT / "docs" / "container.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def facts(image: str) -> Any:
    return docker("image", "inspect", image).json[0]


def test_image_is_small(facts: Any) -> None:
    base = docker("image", "inspect", BASE).json[0]
    assert 0 < facts["Size"] - base["Size"] <= LARGEST_MIB * 2**20


def test_image_has_version_label(lab: ContainerLab, facts: Any) -> None:
    assert lab.run(lab.image, "--version").out == f"backupd {PROJECT['version']}\n"
    labels = facts["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert labels["org.opencontainers.image.description"] == PROJECT["description"]
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert labels["org.opencontainers.image.base.name"] == f"docker.io/library/{BASE}"


def test_image_revision_is_commit_of_build(facts: Any) -> None:
    labels = facts["Config"]["Labels"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert labels["org.opencontainers.image.revision"] == (head.stdout.strip() or f"v{PROJECT['version']}")
    assert datetime.fromisoformat(labels["org.opencontainers.image.created"]).tzinfo is not None


def test_image_healthcheck_can_fail(facts: Any) -> None:
    assert facts["Config"]["Healthcheck"] == {
        "Test": ["CMD", "backupd", "health"],
        "Interval": 30 * 10**9,
        "Timeout": 5 * 10**9,
        "StartPeriod": 20 * 10**9,
        "Retries": 3,
    }


def test_image_starts_the_daemon(facts: Any) -> None:
    config = facts["Config"]
    assert config["Entrypoint"] == ["env", "--block-signal=TERM,INT,HUP", "backupd"]
    assert config["Cmd"] == ["serve"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config.get("Volumes") is None, "a volume that nobody named is one that nobody finds"


def test_image_has_no_compiler_installer_or_caches(lab: ContainerLab) -> None:
    look = (
        "for name in gcc cc g++ make pip pip3 uv apt-key; do ! command -v $name; done;"
        "! python -c 'import pip' 2>/dev/null;"
        "find /var/lib/apt/lists /root/.cache /build /wheels -type f 2>/dev/null | head -5"
    )
    answer = lab.run(lab.image, "-uc", look, options=("--entrypoint=sh",))
    assert answer.out == ""


def test_every_package_in_image_is_documented(lab: ContainerLab) -> None:
    documented = re.findall(r"^\| ([A-Za-z].*?) \|", DOCUMENTATION.split("## What is in it")[1], re.MULTILINE)
    named = {name for cell in documented for name in cell.split(", ")} - {"package"}
    program = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    installed = lab.run(lab.image, "-c", program, options=("--entrypoint=python",)).out.split()
    assert named == set(installed)


def test_image_adds_one_debian_package(lab: ContainerLab) -> None:
    query = ("-W", "-f", "${Package}\\n")
    lists = [lab.run(image, *query, options=("--entrypoint=dpkg-query",)).out.split() for image in (BASE, lab.image)]
    assert set(lists[1]) - set(lists[0]) == {"tini"}


def test_image_has_no_trace_of_build_machine(facts: Any, image: str) -> None:
    history = docker("history", "--no-trunc", "--format={{.CreatedBy}}", image).out.splitlines()
    base = docker("history", "--no-trunc", "--format={{.CreatedBy}}", BASE).out.splitlines()
    ours = "\n".join([*history[: len(history) - len(base)], *facts["Config"]["Env"]]).lower()
    assert "copy /opt/backupd" in ours
    for word in ("index-url", "index_url", "ca-certificates", "_cert", "proxy", "password", "token"):
        assert word not in ours, word


def test_every_needed_module_in_image_is_compiled(lab: ContainerLab) -> None:
    program = (
        "import sys, importlib, pkgutil, backupd\n"
        "for m in pkgutil.walk_packages(backupd.__path__, 'backupd.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "import os\n"
        "for m in list(sys.modules.values()):\n"
        "    spec = getattr(m, '__spec__', None)\n"
        "    if spec and spec.cached and (spec.origin or '').endswith('.py') and not os.path.exists(spec.cached):\n"
        "        print(m.__name__)\n"
    )
    answer = lab.run(lab.image, "-c", program, options=("--entrypoint=python", *HARDENED, "--user=4321:4321"))
    assert (answer.code, answer.out) == (0, ""), answer.err
