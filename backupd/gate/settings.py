"""Builds the values of the gates from the configuration."""

import shlex

from pydantic import SecretStr

from backupd.config import Config, GateSection
from backupd.errors import ConfigError
from backupd.gate.model import AppTests, CapRover, CapRoverWebhook, CommitStatus, Forgejo, Gate, LiveApp, SidecarAccess

_NO_GATE = "set secret, repository, refs and a target under [gate.NAME] in a file, or as BACKUPD_GATE__NAME__SECRET …"


def gates_of(config: Config) -> tuple[Gate, ...]:
    """Return the gates that are configured. Raises ConfigError where there is none."""
    if not config.gate:
        raise ConfigError(f"{config.origin}: no gate is configured", _NO_GATE)
    return tuple(_gate(name, section) for name, section in config.gate.items())


def _gate(name: str, section: GateSection) -> Gate:
    return Gate(
        name=name,
        secret=section.secret.get_secret_value(),
        repository=section.repository,
        refs=section.refs,
        sidecar=_sidecar(section),
        forgejo=_forgejo(section),
        status=CommitStatus(section.status_contexts, section.status_timeout_s) if section.waits_for_status else None,
        tests=_tests(section),
        target=_target(section),
        app=LiveApp(section.health_url, section.version_field, section.deploy_timeout_s)
        if section.health_url
        else None,
        page_url=section.page_url or "",
    )


def _sidecar(section: GateSection) -> SidecarAccess | None:
    if section.sidecar_url is None or section.backup_token is None:
        return None
    token = section.backup_token.get_secret_value()
    return SidecarAccess(section.sidecar_url, token, section.sources, _plain(section.download_token))


def _forgejo(section: GateSection) -> Forgejo | None:
    if section.forgejo_url is None:
        return None
    return Forgejo(section.forgejo_url, section.repository, _plain(section.forgejo_token))


def _tests(section: GateSection) -> AppTests | None:
    if section.test_command is None:
        return None
    command = tuple(shlex.split(section.test_command))
    return AppTests(command, section.test_timeout_s, section.test_user, section.rehearse)


def _target(section: GateSection) -> CapRover | CapRoverWebhook:
    if section.caprover_webhook is not None:
        return CapRoverWebhook(section.caprover_webhook.get_secret_value())
    token = _plain(section.caprover_token)
    assert section.caprover_url and section.caprover_app and token  # noqa: S101, PT018 - as the section demands
    return CapRover(section.caprover_url, section.caprover_app, token)


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
