"""The section of a gate: what belongs together, lists as text, and a configuration without databases."""

from pathlib import Path

import pytest

from backupd.config import load_config, masked, refuse_gate_alone, secrets_of, to_toml, withhold_secrets
from backupd.errors import ConfigError
from backupd.gate.model import CapRover, CapRoverWebhook, Gate
from backupd.gate.settings import gates_of

NOWHERE = Path("/no/such/directory")
TOKEN = "0123456789abcdef"
LEAST = {
    "SECRET": TOKEN,
    "REPOSITORY": "me/tasks",
    "REFS": "refs/heads/main",
    "FORGEJO_URL": "https://git.example.com",
    "CAPROVER_URL": "https://captain.example.com",
    "CAPROVER_APP": "tasks",
    "CAPROVER_TOKEN": "of-the-app",
}
WEBHOOK = {"CAPROVER_URL": "", "CAPROVER_APP": "", "CAPROVER_TOKEN": "", "CAPROVER_WEBHOOK": "https://c/hook?token=x"}
ALL = LEAST | {
    "SIDECAR_URL": "http://sidecar:8080",
    "BACKUP_TOKEN": "backup-token-of-16",
    "SOURCES": "tasks, users",
    "DOWNLOAD_TOKEN": "download-token-of-16",
    "FORGEJO_TOKEN": "forgejo-token-of-16",
    "TEST_COMMAND": "sh -c 'npm test'",
    "TEST_TIMEOUT_S": "60",
    "TEST_USER": "1234",
    "REHEARSE": "true",
    "STATUS_CONTEXTS": "ci / test (push), lint",
    "HEALTH_URL": "http://app/health?key=hidden",
    "PAGE_URL": "https://gate.example.com/",
}


def environ(values: dict[str, str]) -> dict[str, str]:
    return {f"BACKUPD_GATE__TASKS__{name}": value for name, value in values.items()}


def gate(**changed: str) -> Gate:
    (found,) = gates_of(load_config(None, environ(LEAST | changed), NOWHERE))
    return found


def test_least_gate_has_no_step_but_delivery() -> None:
    found = gate()
    assert (found.sidecar, found.status, found.tests, found.app) == (None, None, None, None)
    assert found.target == CapRover("https://captain.example.com", "tasks", "of-the-app")


def test_every_key_has_its_value() -> None:
    found = gate(**ALL)
    assert found.sidecar is not None
    assert (found.sidecar.sources, found.sidecar.download_token) == (("tasks", "users"), "download-token-of-16")
    assert found.forgejo is not None
    assert (found.forgejo.repository, found.forgejo.token) == ("me/tasks", "forgejo-token-of-16")
    assert found.tests is not None
    assert found.tests.command == ("sh", "-c", "npm test")
    assert (found.tests.timeout_s, found.tests.user, found.tests.rehearse) == (60, 1234, True)
    assert found.status is not None
    assert found.status.contexts == ("ci / test (push)", "lint")
    assert found.app is not None
    assert (found.app.version_field, found.page_url) == ("version", "https://gate.example.com")


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n"])
def test_list_in_environment_is_separated_by_commas_or_spaces(between: str) -> None:
    assert gate(REFS=f" refs/heads/main{between}refs/tags/v* ").refs == ("refs/heads/main", "refs/tags/v*")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"SECRET": "short"}, "at least 16 characters"),
        ({"SECRET": ""}, "secret: is required"),
        ({"REPOSITORY": "tasks"}, "must be OWNER/NAME"),
        ({"REPOSITORY": "https://git.example.com/me/tasks"}, "must be OWNER/NAME"),
        ({"REFS": "main"}, "'main' is not a full name"),
        ({"REFS": "refs/heads/../main"}, "is not a full name"),
        ({"REFS": "refs/pull/1/head"}, "is not a full name"),
        ({"REFS": "refs/heads/"}, "is not a full name"),
        ({"REFS": ","}, "must not be empty"),
        ({"BACKUP_TOKEN": TOKEN}, "sidecar_url and backup_token belong together"),
        ({"SIDECAR_URL": "http://sidecar"}, "sidecar_url and backup_token belong together"),
        ({"SOURCES": "tasks"}, "sources needs sidecar_url"),
        ({"DOWNLOAD_TOKEN": TOKEN}, "download_token needs sidecar_url"),
        ({"REHEARSE": "true"}, "rehearse needs test_command"),
        ({"REHEARSE": "true", "TEST_COMMAND": "true"}, "rehearse needs sidecar_url"),
        (
            {"REHEARSE": "true", "TEST_COMMAND": "true", "SIDECAR_URL": "http://s", "BACKUP_TOKEN": TOKEN},
            "rehearse needs download_token",
        ),
        ({"FORGEJO_URL": ""}, "caprover_token needs forgejo_url"),
        ({**WEBHOOK, "FORGEJO_URL": "", "TEST_COMMAND": "true"}, "test_command needs forgejo_url"),
        ({**WEBHOOK, "FORGEJO_URL": "", "WAIT_FOR_STATUS": "true"}, "wait_for_status needs forgejo_url"),
        ({**WEBHOOK, "FORGEJO_URL": "", "FORGEJO_TOKEN": TOKEN}, "forgejo_token needs forgejo_url"),
        ({"CAPROVER_APP": "", "CAPROVER_URL": ""}, "caprover_url and caprover_app must be set too"),
        ({"CAPROVER_APP": "", "CAPROVER_URL": "", "CAPROVER_TOKEN": ""}, "has no target"),
        ({"CAPROVER_WEBHOOK": "https://c/hook"}, "has two targets"),
        ({**WEBHOOK, "REFS": "refs/heads/main refs/tags/v*"}, "never a tag"),
        ({"TEST_USER": "0"}, "must be at least 1"),
        ({"TEST_USER": "-1"}, "must be at least 1"),
        ({"TEST_COMMAND": "sh -c 'x"}, "must be a command line"),
        ({"CAPROVER_URL": "captain.example.com"}, "must be a URL that begins with http"),
        ({"SIDECAR_URL": "http://user:secret@host", "BACKUP_TOKEN": TOKEN}, "must not contain a password"),
        ({"CAPROVER_WEBHOOK": "c/hook-secret", **dict.fromkeys(list(WEBHOOK)[:3], "")}, "must be a URL that begins"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"GATE__TASKS__\w+|gate\.tasks") as caught:
        gate(**changed)
    assert complaint in caught.value.message
    assert "hook-secret" not in caught.value.message


def test_webhook_is_secret_target() -> None:
    found = gate(**WEBHOOK)
    assert found.target == CapRoverWebhook("https://c/hook?token=x")
    assert "token=x" not in repr(found)


def test_every_secret_is_masked_and_read_from_file(tmp_path: Path) -> None:
    names = {
        name: ALL[name] for name in ("SECRET", "BACKUP_TOKEN", "DOWNLOAD_TOKEN", "FORGEJO_TOKEN", "CAPROVER_TOKEN")
    }
    given = environ({name: value for name, value in ALL.items() if name not in names})
    for name, value in names.items():
        (tmp_path / name).write_text(f"{value}\n")
        given[f"BACKUPD_GATE__TASKS__{name}_FILE"] = str(tmp_path / name)
    config = load_config(None, given, NOWHERE)
    assert sorted(secrets_of(config)) == sorted(names.values())
    for text in (to_toml(config), repr(config), str(masked(config)), repr(gates_of(config))):
        assert not any(value in text for value in names.values())


def test_secrets_can_be_withheld() -> None:
    config = load_config(None, environ(ALL), NOWHERE)
    assert secrets_of(withhold_secrets(config, [("replicas",)])) == ()
    assert secrets_of(withhold_secrets(config, [("gate",)])) == secrets_of(config)


# --- With and without databases ---


def test_gate_alone_needs_no_database_and_keeps_all_in_its_directory() -> None:
    config = load_config(None, {**environ(LEAST), "BACKUPD_GATE_DIR": "/state"}, NOWHERE)
    assert (dict(config.sources), config.gate_dir, config.backups_dir) == ({}, Path("/state"), Path("/state"))
    with pytest.raises(ConfigError, match="nothing to back up: set BACKUPD_DATABASE"):
        refuse_gate_alone(config)


def test_empty_section_of_sources_counts_as_none(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[sources]\n")
    with pytest.raises(ConfigError, match="nothing to back up"):
        load_config(file, {}, NOWHERE)
    load_config(file, environ(LEAST), NOWHERE)


def test_sidecar_and_gate_may_share_a_configuration() -> None:
    config = load_config(None, {**environ(LEAST), "BACKUPD_DATABASE": "/a/tasks.db"}, NOWHERE)
    refuse_gate_alone(config)
    assert config.backups_dir == Path("/a/backups")
    assert [one.name for one in gates_of(config)] == ["tasks"]


def test_configuration_without_gate_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="no gate is configured") as caught:
        gates_of(load_config(None, {"BACKUPD_DATABASE": "/a/tasks.db"}, NOWHERE))
    assert "BACKUPD_GATE__NAME__SECRET" in caught.value.hint


def test_service_links_of_kubernetes_set_no_gate() -> None:
    links = {"BACKUPD_GATE_SERVICE_HOST": "10.0.0.1", "BACKUPD_GATE_PORT": "tcp://10.0.0.1:8080"}
    assert not load_config(None, {"BACKUPD_DATABASE": "/a/tasks.db", **links}, NOWHERE).gate


def test_gate_without_any_configuration_is_told_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"for backupd gate: \[gate\.NAME\], BACKUPD_GATE__NAME__SECRET"):
        load_config(None, {}, Path("/nonexistent"))
