"""The deploy guard in containers: backupd beside an app, and the gate with the rights of deploy/compose.yml.

Forgejo in front of real git, CapRover and the deployed app are the re-enactments of the other tests, on this host.
"""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.caprover_server import CapRoverServer, LiveVersion, caprover_server, live_version
from support.containers import HARDENED, ROOT, Container, ContainerLab, wait_until
from support.daemon import free_port
from support.forgejo_server import ForgejoServer, forgejo_server, send_webhook
from support.recording_server import RecordingServer, recording_server

SECRET, BACKUP_TOKEN, DOWNLOAD_TOKEN = "hook-secret-0123456789", "backup-token-0123456789", "copy-token-0123456789"
# What the tests of the app are: they fail where the commit says so, and where they have more than they need.
CHECK = """
import os, pathlib, sqlite3, sys
assert (os.getuid(), os.getgid(), os.getgroups()) == (64000, 64000, []), os.getuid()
capabilities = [line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm"))]
assert all(int(line.split()[1], 16) == 0 for line in capabilities), capabilities
named = {name for name in os.environ if "TOKEN" in name or "SECRET" in name or name.startswith("BACKUPD_GATE")}
assert not named, named
assert not os.access("/var/lib/backupd/gate", os.R_OK)
database = sqlite3.connect(os.environ["BACKUPD_RESTORED_DATABASE"])
with database:
    database.execute("ALTER TABLE tasks ADD COLUMN done INTEGER")
print("migrated", database.execute("SELECT count(*) FROM tasks").fetchone()[0], "tasks")
sys.exit(pathlib.Path("broken").exists())
"""
FILES: dict[str, str | bytes | None] = {
    "captain-definition": '{"schemaVersion": 2, "dockerfilePath": "./Dockerfile"}',
    "Dockerfile": "FROM scratch\n",
    "check.py": CHECK,
    "bin/start*": "#!/bin/sh\n",
    "ñandú/día 1.txt": b"\x00\xff\n",
    "latest -> check.py": None,
}


@dataclass(frozen=True)
class Guarded:
    """An app with backupd beside it, behind a gate."""

    gate: Container
    url: str
    sidecar: Container
    forgejo: ForgejoServer
    caprover: CapRoverServer
    live: LiveVersion
    messages: RecordingServer

    def push(self, commit: str, before: str) -> None:
        payload = self.forgejo.push_payload("refs/heads/main", commit, before)
        status, body = send_webhook(f"{self.url}/hooks/tasks", payload, SECRET)
        assert status == 202, body

    def deploys(self) -> list[dict[str, Any]]:
        """Return the deploys, newest first."""
        with urllib.request.urlopen(f"{self.url}/api/deploys", timeout=10) as answer:
            deploys: list[dict[str, Any]] = json.load(answer)["gates"][0]["deploys"]
            return deploys

    def ended(self, commit: str) -> dict[str, Any]:
        """Return the deploy of `commit` once it has ended."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self.deploys() if one["commit"] == commit and one["ended_at"]), None)

        deploy = wait_until(found, f"the end of the deploy: {self.deploys()} {self.gate.logs()}", 90)
        assert deploy is not None
        return deploy

    def has_status(self, commit: str, state: str) -> None:
        """Wait until the commit has this status alone, which is reported beside the message."""

        def found() -> bool:
            return [one["status"] for one in self.forgejo.latest(commit).values()] == [state]

        wait_until(found, f"the status {state}: {self.forgejo.latest(commit)}", 30)


def rights_of_gate() -> list[str]:
    """Return the options of docker that the service of deploy/compose.yml stands for."""
    service = yaml.safe_load((ROOT / "deploy" / "compose.yml").read_text())["services"]["gate"]
    return [
        *(f"--cap-drop={name}" for name in service["cap_drop"]),
        *(f"--cap-add={name}" for name in service["cap_add"]),
        *(f"--security-opt={word.removesuffix(':true')}" for word in service["security_opt"]),
        *(f"--tmpfs={place}" for place in service["tmpfs"]),
        f"--memory={service['mem_limit']}",
        f"--pids-limit={service['pids_limit']}",
        f"--env=PUID={service['environment']['PUID']}",
        "--read-only",
    ]


@pytest.fixture
def guarded(lab: ContainerLab, volume: str, tmp_path: Path) -> Iterator[Guarded]:
    with ExitStack() as stack:
        live = stack.enter_context(live_version())
        forgejo = stack.enter_context(forgejo_server(tmp_path))
        caprover = stack.enter_context(caprover_server(live=live))
        messages = stack.enter_context(recording_server())
        beside, own = free_port(), free_port()
        sidecar = lab.sidecar(
            volume,
            backups=lab.volume(),
            options=("--network=host", *HARDENED),
            BACKUPD_HTTP__LISTEN=f"127.0.0.1:{beside}",
            BACKUPD_HTTP__ACTIONS="true",
            BACKUPD_HTTP__BACKUP_TOKEN=BACKUP_TOKEN,
            BACKUPD_HTTP__DOWNLOAD_TOKEN=DOWNLOAD_TOKEN,
        )
        settings = {
            "SECRET": SECRET,
            "REPOSITORY": forgejo.name,
            "REFS": "refs/heads/main,refs/tags/v*",
            "SIDECAR_URL": f"http://127.0.0.1:{beside}",
            "BACKUP_TOKEN": BACKUP_TOKEN,
            "DOWNLOAD_TOKEN": DOWNLOAD_TOKEN,
            "FORGEJO_URL": forgejo.url,
            "FORGEJO_TOKEN": forgejo.token,
            "TEST_COMMAND": "python3 check.py",
            "REHEARSE": "true",
            "CAPROVER_URL": caprover.url,
            "CAPROVER_APP": caprover.app,
            "CAPROVER_TOKEN": caprover.token or "",
            "HEALTH_URL": live.health_url,
            "DEPLOY_TIMEOUT_S": "30",
        }
        environ = {
            **{f"BACKUPD_GATE__TASKS__{name}": value for name, value in settings.items()},
            "BACKUPD_HTTP__LISTEN": f"127.0.0.1:{own}",
            "BACKUPD_NOTIFY__URLS": f"json://127.0.0.1:{messages.port}/",
        }
        state = f"--volume={lab.volume()}:/var/lib/backupd/gate"
        gate = lab.start(lab.image, "gate", options=("--network=host", state, *rights_of_gate()), environ=environ)
        sidecar.answers(f"http://127.0.0.1:{beside}/livez")
        gate.answers(f"http://127.0.0.1:{own}/livez")
        yield Guarded(gate, f"http://127.0.0.1:{own}", sidecar, forgejo, caprover, live, messages)


def test_push_is_backed_up_tested_delivered_and_reported_and_failing_tests_stop_the_next(guarded: Guarded) -> None:
    repository = guarded.forgejo.repository
    first = repository.commit(FILES)
    guarded.push(first, "0" * 40)
    deploy = guarded.ended(first)
    assert deploy["state"] == "deployed", (deploy, guarded.gate.logs())
    (build,) = guarded.caprover.builds
    assert (build.git_hash, build.files()) == (first, repository.files_of(first))
    assert guarded.live.version == first
    assert deploy["version_before"] == "old"
    assert deploy["test_output"] == ["migrated 20 tasks"]
    pinned = {row["id"]: row for row in guarded.sidecar.exec("backupd", "list", "--json").json if row["pinned"]}
    assert sorted(pinned) == deploy["generations"]
    assert all(first[:10] in row["label"] for row in pinned.values())
    (message,) = guarded.messages.wait_for(1)
    assert "deploy OK: tasks" in message.json["title"]
    assert deploy["generations"][0] in message.json["message"]
    guarded.has_status(first, "success")

    second = repository.commit({"broken": ""})
    guarded.push(second, first)
    deploy = guarded.ended(second)
    assert (deploy["state"], deploy["steps"][-1]["step"]) == ("stopped", "tests"), (deploy, guarded.gate.logs())
    assert (len(guarded.caprover.builds), guarded.live.version) == (1, first), "production is unchanged"
    message = guarded.messages.wait_for(2)[-1]
    assert "deploy stopped at tests: tasks" in message.json["title"]
    assert "migrated 20 tasks" in message.json["message"]
    guarded.has_status(second, "failure")
    status, page = guarded.gate.get(f"{guarded.url}/")
    assert (status, "was stopped, production is unchanged" in page, "migrated 20 tasks" in page) == (200, True, True)
    everything = page + guarded.gate.logs() + str([one.body for one in guarded.messages.requests])
    assert [one for one in (SECRET, BACKUP_TOKEN, DOWNLOAD_TOKEN, guarded.forgejo.token) if one in everything] == []
