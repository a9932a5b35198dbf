"""The gate in deploy/compose.yml: a profile of its own, with valid settings and the rights that its tests need."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from backupd.config import load_config
from backupd.gate.settings import gates_of
from support.containers import HARDENED, ROOT

FILLED = {
    "BACKUPD_GATE__APP__SECRET": "0123456789abcdef0",
    "BACKUPD_GATE__APP__REPOSITORY": "me/tasks",
    "BACKUPD_GATE__APP__FORGEJO_URL": "https://git.example.com",
    "BACKUPD_GATE__APP__TEST_COMMAND": "npm test",
    "BACKUPD_GATE__APP__CAPROVER_URL": "https://captain.example.com",
    "BACKUPD_GATE__APP__CAPROVER_APP": "tasks",
    "BACKUPD_GATE__APP__CAPROVER_TOKEN": "0123456789abcdef2",
    "BACKUPD_HTTP__ACTIONS": "true",
    "BACKUPD_HTTP__BACKUP_TOKEN": "0123456789abcdef1",
    "BACKUPD_HTTP__TOKEN": "0123456789abcdef3",
}


@pytest.fixture
def services() -> Any:
    return yaml.safe_load((ROOT / "deploy" / "compose.yml").read_text())["services"]


def environ_of(service: Any) -> dict[str, str]:
    """Return the environment of a service with what .env fills in."""

    def filled(found: re.Match[str]) -> str:
        return FILLED.get(found[1], found[2])

    values = service["environment"]
    return {name: re.sub(r"\$\{(\w+):?-([^}]*)\}", filled, value) for name, value in values.items()}


def test_gate_and_sidecar_of_compose_share_token_and_have_valid_settings(services: Any) -> None:
    (gate,) = gates_of(load_config(None, environ_of(services["gate"]), Path("/nonexistent")))
    sidecar = load_config(None, environ_of(services["backupd"]), Path("/nonexistent"))
    assert gate.sidecar
    assert gate.sidecar.url == f"http://backupd:{sidecar.http.listen.rpartition(':')[2]}"
    assert sidecar.http.actions
    assert sidecar.http.backup_token
    assert sidecar.http.backup_token.get_secret_value() == gate.sidecar.backup_token
    assert gate.refs == ("refs/heads/main",)


def test_gate_of_compose_starts_only_when_asked_and_with_fewest_rights(services: Any) -> None:
    gate = services["gate"]
    assert (gate["profiles"], gate["command"]) == (["gate"], ["gate"])
    assert [name for name, service in services.items() if "profiles" in service] == ["gate"]
    assert gate["volumes"] == ["gate:/var/lib/backupd/gate"], "no volume of the app, and none of its backups"
    added = {option.removeprefix("--cap-add=") for option in HARDENED if option.startswith("--cap-add=")}
    assert (gate["cap_drop"], set(gate["cap_add"])) == (["ALL"], added | {"DAC_OVERRIDE"})
    assert (gate["read_only"], gate["security_opt"]) == (True, ["no-new-privileges:true"])
    assert [name for name in gate["environment"] if "REPLICAS" in name or "DATABASE" in name] == []
