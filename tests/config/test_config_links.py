"""Variables that Kubernetes or Docker set for a service named backupd are ignored; mistakes of people are not."""

from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.errors import ConfigError

NOWHERE = Path("/no/such/directory")
DATABASE = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
SERVICE = {
    "BACKUPD_PORT": "tcp://10.0.0.1:8080",
    "BACKUPD_SERVICE_HOST": "10.0.0.1",
    "BACKUPD_SERVICE_PORT": "8080",
    "BACKUPD_SERVICE_PORT_HTTP": "8080",
    "BACKUPD_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "BACKUPD_PORT_8080_TCP_PROTO": "tcp",
    "BACKUPD_PORT_8080_TCP_PORT": "8080",
    "BACKUPD_PORT_8080_TCP_ADDR": "10.0.0.1",
}
OTHER_SERVICE = {name.replace("BACKUPD_", "BACKUPD_STATUS_PAGE_"): value for name, value in SERVICE.items()}
IPV6 = {
    "BACKUPD_PORT": "udp://[fd00::1]:53",
    "BACKUPD_SERVICE_HOST": "fd00::1",
    "BACKUPD_SERVICE_PORT": "53",
    "BACKUPD_PORT_53_UDP": "udp://[fd00::1]:53",
    "BACKUPD_PORT_53_UDP_PROTO": "udp",
    "BACKUPD_PORT_53_UDP_PORT": "53",
    "BACKUPD_PORT_53_UDP_ADDR": "fd00::1",
}
DOCKER = {
    "BACKUPD_NAME": "/app/backupd",
    "BACKUPD_ENV_PYTHON_VERSION": "3.13",
    "BACKUPD_ENV_BACKUPD_HTTP__TOKEN": "hunter2",
    "BACKUPD_PORT": "tcp://172.17.0.2:8080",
    "BACKUPD_PORT_8080_TCP": "tcp://172.17.0.2:8080",
    "BACKUPD_PORT_8080_TCP_START": "tcp://172.17.0.2:8080",
    "BACKUPD_PORT_8080_TCP_END": "tcp://172.17.0.2:8081",
    "BACKUPD_PORT_8080_TCP_PORT_START": "8080",
    "BACKUPD_PORT_8080_TCP_PORT_END": "8081",
}


@pytest.mark.parametrize("links", [SERVICE, OTHER_SERVICE, IPV6, DOCKER], ids=["service", "other", "ipv6", "docker"])
def test_links_to_service_named_backupd_are_ignored_with_note(links: dict[str, str]) -> None:
    config = load_config(None, DATABASE | links, NOWHERE)
    assert config.note.startswith(f"ignored {min(links)} and {len(links) - 1} more: set by Kubernetes or Docker")
    assert "enableServiceLinks: false" in config.note
    assert "hunter2" not in config.note
    assert load_config(None, DATABASE, NOWHERE).note == ""


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("BACKUPD_PORT", "8080", "BACKUPD_HTTP__LISTEN"),
        ("BACKUPD_PORT", "tcp://nas:8080", "BACKUPD_HTTP__LISTEN"),
        ("BACKUPD_HTTP_PORT", "8080", "BACKUPD_HTTP__LISTEN"),
        ("BACKUPD_HTTP__HOST", "0.0.0.0", "BACKUPD_HTTP__LISTEN"),
        ("BACKUPD_SERVICE_HOST", "nas", "BACKUPD_"),
        ("BACKUPD_SERVICE_PORT", "8080", "BACKUPD_"),
        ("BACKUPD_PORT_8080_TCP_PORT", "8080", "BACKUPD_"),
        ("BACKUPD_ENV_NAME", "x", "BACKUPD_"),
        ("BACKUPD_NAME", "shop", "BACKUPD_"),
        ("backupd_port", "tcp://10.0.0.1:8080", "BACKUPD_HTTP__LISTEN"),
    ],
)
def test_link_name_with_other_value_is_refused(name: str, value: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, DATABASE | {name: value}, NOWHERE)
    assert caught.value.message.startswith(f"environment {name}: unknown name; did you mean {meant}")
