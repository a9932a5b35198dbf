"""The one-click template of the gate: valid with few fields and with all, and safe from values that break it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from backupd.config import load_config
from backupd.gate.model import CapRover, Gate
from backupd.gate.settings import gates_of
from support.caprover import defaults, deployed, form_accepts, template_of
from support.containers import ROOT

FILE = ROOT / "deploy" / "caprover" / "backupd-gate.yml"
REQUIRED = {
    "$$cap_target_app": "my-app",
    "$$cap_app_token": "0123456789abcdef",
    "$$cap_repository": "me/my-app",
    "$$cap_webhook_secret": "s3cret/+~=s3cret",
    "$$cap_forgejo_url": "https://git.example.com",
}
OPTIONAL = {
    "$$cap_forgejo_token": "f0123456789abcdef",
    "$$cap_sidecar_url": "http://srv-captain--my-backup:8080",
    "$$cap_backup_token": "b0123456789abcdef",
    "$$cap_test_command": "sh -c 'npm ci && npm test'",
    "$$cap_wait_for_status": "true",
    "$$cap_health_url": "http://srv-captain--my-app/health?deep=1",
    "$$cap_page_token": "p0123456789abcdef",
    "$$cap_notify_urls": "tgram://123456:A-b_c/987",
    "$$cap_timezone": "Europe/Berlin",
}


@pytest.fixture
def template() -> Any:
    return template_of(FILE)


@pytest.fixture
def variables(template: Any) -> dict[str, dict[str, str]]:
    return {variable["id"]: variable for variable in template["caproverOneClickApp"]["variables"]}


def gate_of(template: Any, values: dict[str, str]) -> Gate:
    environ = deployed(template, {**defaults(template), **values}, "my-gate")["services"]["my-gate"]["environment"]
    (gate,) = gates_of(load_config(None, environ, Path("/no/such/directory")))
    return gate


def test_form_accepts_values_and_optional_blanks(variables: dict[str, dict[str, str]], template: Any) -> None:
    for name, variable in variables.items():
        value = {**defaults(template), **REQUIRED, **OPTIONAL}[name]
        assert form_accepts(variable, value), name
        assert form_accepts(variable, "") == (name in OPTIONAL), name


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "$$cap_app_token", "$(id)"])
def test_form_refuses_values_that_break_template(variables: dict[str, dict[str, str]], value: str) -> None:
    assert [name for name, variable in variables.items() if form_accepts(variable, value)] == []


def test_gate_with_required_fields_alone_is_valid(template: Any) -> None:
    gate = gate_of(template, REQUIRED)
    assert (gate.name, gate.refs) == ("my-app", ("refs/heads/main", "refs/tags/v*"))
    assert gate.target == CapRover("https://captain.example.com", "my-app", REQUIRED["$$cap_app_token"])
    assert (gate.sidecar, gate.tests, gate.status, gate.app) == (None, None, None, None)
    assert gate.page_url == "https://my-gate.example.com"


def test_gate_with_all_fields_is_valid(template: Any) -> None:
    gate = gate_of(template, {**REQUIRED, **OPTIONAL})
    assert gate.sidecar
    assert (gate.sidecar.url, gate.sidecar.backup_token) == (
        OPTIONAL["$$cap_sidecar_url"],
        OPTIONAL["$$cap_backup_token"],
    )
    assert gate.tests
    assert gate.tests.command == ("sh", "-c", "npm ci && npm test")
    assert gate.status
    assert gate.app
    assert gate.app.health_url == OPTIONAL["$$cap_health_url"]
    assert gate.forgejo
    assert gate.forgejo.token == OPTIONAL["$$cap_forgejo_token"]


def test_command_is_whole_since_caprover_replaces_entrypoint(template: Any) -> None:
    (service,) = template["services"].values()
    entrypoint = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert service["command"].split() == [*json.loads(entrypoint[-1]), "gate"]
    assert service["volumes"] == ["$$cap_appname-state:/var/lib/backupd/gate"]
    assert service["cap_add"] == ["CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "KILL"]


def test_last_instructions_have_address_of_webhook(template: Any) -> None:
    end = deployed(template, {**defaults(template), **REQUIRED}, "my-gate")["caproverOneClickApp"]["instructions"][
        "end"
    ]
    assert "Target URL: https://my-gate.example.com/hooks/my-app\n" in end
    assert not re.search(r"\$\$cap", end)
