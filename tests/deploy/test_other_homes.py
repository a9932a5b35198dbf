"""The files in deploy/ for systemd, Swarm, Kubernetes, Coolify, Dokku and Podman, checked by the tools of each."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from backupd.config import load_config
from support.containers import HARDENED, ROOT

pytestmark = pytest.mark.no_cover

HOMES = ROOT / "deploy"
KERNEL = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
CAPABILITIES = {option.removeprefix("--cap-add=") for option in HARDENED if option.startswith("--cap-add=")}
# podman-systemd.unit(5) of Podman 4.9: the keys of [Container].
QUADLET_KEYS = {
    *("AddCapability", "AddDevice", "Annotation", "AutoUpdate", "ContainerName", "DropCapability", "Environment"),
    *("EnvironmentFile", "EnvironmentHost", "Exec", "ExposeHostPort", "Group", "HealthCmd", "HostName", "Image", "IP"),
    *("Label", "LogDriver", "Mask", "Mount", "Network", "NoNewPrivileges", "Notify", "PidsLimit", "PodmanArgs"),
    *(
        "PublishPort",
        "Pull",
        "ReadOnly",
        "Rootfs",
        "RunInit",
        "SeccompProfile",
        "Secret",
        "ShmSize",
        "Sysctl",
        "Timezone",
    ),
    *("Tmpfs", "Ulimit", "Unmask", "User", "UserNS", "Volume", "WorkingDir"),
}


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a tool; return its output. Raises AssertionError with its messages when it fails."""
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def require_valid(environment: Mapping[str, str]) -> None:
    """Load the settings of a container, as it would; only secrets that are mounted there are missing here."""
    own = {name: value for name, value in environment.items() if not name.endswith("_FILE")}
    assert own["BACKUPD_BACKUPS_DIR"] == "/backups", "not in the volume of the app"
    assert load_config(None, own, cwd=Path("/nonexistent")).sources


def write_script(path: Path, body: str) -> None:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def unit(path: Path) -> RawConfigParser:
    parser = RawConfigParser(strict=False, delimiters="=", comment_prefixes="#", empty_lines_in_values=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser


@pytest.fixture
def systemd_unit(tmp_path: Path) -> Path:
    """The unit with the program of this environment, as systemd checks that the program exists."""
    text = (HOMES / "systemd" / "backupd.service").read_text()
    program = Path(sys.executable).with_name("backupd")
    path = tmp_path / "backupd.service"
    path.write_text(text.replace("/opt/backupd/bin/backupd", str(program)))
    return path


def test_systemd_finds_no_fault_in_unit(systemd_unit: Path) -> None:
    assert run("systemd-analyze", "verify", systemd_unit) == ""


def test_exposure_of_systemd_unit_is_low(systemd_unit: Path) -> None:
    exposure = run("systemd-analyze", "security", "--offline=true", "--threshold=20", systemd_unit)
    assert float(re.findall(r"Overall exposure level for backupd.service: (\d\.\d)", exposure)[0]) <= 2.0


@pytest.mark.skipif(KERNEL < (6, 3), reason="PR_SET_MDWE needs Linux 6.3")
def test_backup_without_executable_memory_as_in_systemd_unit_succeeds(tmp_path: Path, systemd_unit: Path) -> None:
    assert "MemoryDenyWriteExecute=yes" in systemd_unit.read_text()
    deny = "import ctypes, os, sys; assert not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)"
    run("sqlite3", tmp_path / "app.db", "CREATE TABLE task(id)")
    environment = {"BACKUPD_DATABASE": str(tmp_path / "app.db")}
    backupd = Path(sys.executable).with_name("backupd")
    assert "verified full" in run(
        sys.executable, "-c", f"{deny}; os.execv(sys.argv[1], sys.argv[1:])", backupd, "backup", env=environment
    )


def container_of(home: str) -> dict[str, Any]:
    """Return the service called backupd of a file in the format of Compose."""
    service: dict[str, Any] = yaml.safe_load((HOMES / home).read_text())["services"]["backupd"]
    return service


@pytest.mark.parametrize("home", ["compose.yml", "coolify.yml"])
@pytest.mark.parametrize("path", ["", "/app/data/uploads"])
def test_field_for_files_may_be_empty(home: str, path: str) -> None:
    environment = container_of(home)["environment"]
    if isinstance(environment, list):
        environment = dict(line.partition("=")[::2] for line in environment)
    own = {name: re.sub(r"\$\{.*\}", "", value) for name, value in environment.items()}
    assert own["BACKUPD_FILES__UPLOADS__PATH"] == ""
    config = load_config(None, own | {"BACKUPD_FILES__UPLOADS__PATH": path}, cwd=Path("/nonexistent"))
    assert [str(one.path) for one in config.files.values()] == [path][: len(path)]
    assert [str(one.path) for one in config.sources.values()] == ["/app/data"]


@pytest.mark.parametrize("home", ["swarm.yml", "coolify.yml"])
def test_container_of_swarm_and_coolify_has_valid_settings_and_tested_rights(home: str) -> None:
    service = container_of(home)
    environment = service["environment"]
    if isinstance(environment, list):
        environment = dict(line.partition("=")[::2] for line in environment)
    require_valid(
        {name: re.sub(r"\$\{.*\}", "", value) or "" for name, value in environment.items()} | filled(environment)
    )
    assert set(service["cap_add"]) == CAPABILITIES
    assert service["read_only"] is True
    assert service["stop_grace_period"] == "60s"


def filled(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the required fields of a form, filled in."""
    return {name: re.sub(r"\$\{\w+:\?.*\}", "tasks.db", value) for name, value in environment.items() if ":?" in value}


def pod() -> Any:
    documents = list(yaml.safe_load_all((HOMES / "kubernetes.yml").read_text()))
    return documents[0]["spec"]["template"]["spec"]


def test_kubernetes_schema_accepts_manifests() -> None:
    checked = run(Path(sys.executable).with_name("kubernetes-validate"), "--strict", HOMES / "kubernetes.yml")
    assert checked.count("passed") == 3


def test_pod_restores_first_then_runs_sidecar_for_as_long_as_app() -> None:
    restore, sidecar = pod()["initContainers"]
    assert restore["args"] == ["restore", "--point", "latest", "--if-missing", "--allow-none"]
    assert (restore.get("restartPolicy"), sidecar["restartPolicy"]) == (None, "Always")
    assert pod()["enableServiceLinks"] is False
    for container in (restore, sidecar):
        require_valid({line["name"]: line.get("value", "") for line in container["env"]})
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_quadlet_has_known_keys_valid_settings_and_tested_rights() -> None:
    podman = HOMES / "podman"
    container = dict(unit(podman / "backupd.container").items("Container"))
    assert set(container) <= QUADLET_KEYS
    lines = re.findall(r"^Environment=(.*)$", (podman / "backupd.container").read_text(), re.MULTILINE)
    require_valid(dict(line.split("=", 1) for line in lines))
    assert set(container["AddCapability"].split()) == CAPABILITIES
    volumes = re.findall(r"^Volume=([^:]+)", (podman / "backupd.container").read_text(), re.MULTILINE)
    assert [name for name in volumes if name.endswith(".volume")] == ["backupd-backups.volume"]
    assert (podman / "backupd-backups.volume").is_file()


def test_dokku_script_mounts_storage_of_app_and_backups_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "data" / "uploads").mkdir(parents=True)
    (tmp_path / "data" / "tasks.db").touch()
    calls = tmp_path / "calls"
    listed = f'[{{"host_path": "{tmp_path}/data", "container_path": "/data"}}]'
    write_script(
        tmp_path / "bin" / "dokku",
        f"""
        echo "$*" >>{calls}
        case "$*" in
            "storage:list tasks --format json") echo '{listed}' ;;
            "apps:exists tasks-backup"|storage:list*) exit 1 ;;
        esac
        """,
    )
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    run(HOMES / "dokku.sh", "tasks", ".", "backupd:1", env={"PATH": path, "FILES": "uploads"})
    done = calls.read_text()
    assert "BACKUPD_DATABASE=/app/data/. " in done
    assert "BACKUPD_FILES__UPLOADS__PATH=/app/data/uploads\n" in done
    assert f"storage:mount tasks-backup {tmp_path}/data:/app/data" in done
    assert "storage:mount tasks-backup /var/lib/dokku/data/storage/tasks-backup:/backups" in done
    assert done.index("git:from-image tasks-backup backupd:1") > done.index("config:set")
    assert {word.removeprefix("--cap-add=") for word in done.split() if word.startswith("--cap-add=")} == CAPABILITIES


@pytest.mark.parametrize(
    ("database", "files", "why"),
    [("tsaks.db", "", "no database at {}/tsaks.db"), (".", "uplaods", "no directory at {}/uplaods")],
)
def test_dokku_script_without_database_or_files_creates_nothing(
    tmp_path: Path, database: str, files: str, why: str
) -> None:
    calls = tmp_path / "calls"
    listed = f'[{{"host_path": "{tmp_path}", "container_path": "/data"}}]'
    write_script(tmp_path / "bin" / "dokku", f"echo \"$*\" >>{calls}; echo '{listed}'")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        [HOMES / "dokku.sh", "tasks", database],
        env={**os.environ, "PATH": path, "FILES": files},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (1, why.format(tmp_path))
    assert calls.read_text() == "apps:exists tasks\nstorage:list tasks --format json\n"


def test_dokku_script_without_dokku_says_where_to_run_it() -> None:
    done = subprocess.run(
        [HOMES / "dokku.sh", "tasks", "tasks.db"],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "run this on the Dokku host" in done.stderr) == (1, True)


def test_each_home_starts_backupd_again_after_reboot() -> None:
    assert {container_of(home)["restart"] for home in ("compose.yml", "coolify.yml")} == {"unless-stopped"}
    assert container_of("swarm.yml")["deploy"]["restart_policy"]["condition"] == "any"
    for path in (HOMES / "systemd" / "backupd.service", HOMES / "podman" / "backupd.container"):
        assert unit(path)["Service"]["Restart"] == "always"
        assert unit(path)["Install"]["WantedBy"]


def test_published_port_of_each_home_is_on_loopback_and_has_a_token() -> None:
    (port,) = container_of("compose.yml")["ports"]
    quadlet = dict(unit(HOMES / "podman" / "backupd.container").items("Container"))
    assert {port.split(":")[0], quadlet["PublishPort"].split(":")[0]} == {"127.0.0.1"}
    assert "ports" not in {**container_of("swarm.yml"), **container_of("coolify.yml")}
    assert quadlet["Secret"] == "backupd-token,type=env,target=BACKUPD_HTTP__TOKEN"
    assert "BACKUPD_HTTP__TOKEN=" in (HOMES / "compose.yml").read_text().partition("services:")[0]
