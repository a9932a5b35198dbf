"""The digest of a configuration covers everything that decides whether a run succeeds, and discloses no secret."""

import re
from pathlib import Path

import pytest

from backupd.config import config_digest, load_config

OFFSITE = "BACKUPD_REPLICAS__OFFSITE__"


@pytest.fixture
def environ(database: Path, tmp_path: Path) -> dict[str, str]:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("nas ssh-ed25519 AAAA\n")
    return {
        "BACKUPD_DATABASE": str(database),
        f"{OFFSITE}URL": "sftp://backup@nas/backups",
        f"{OFFSITE}PASSWORD": "hunter2",
        f"{OFFSITE}KNOWN_HOSTS": str(known_hosts),
    }


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests so long that no two are the same by chance."""
    monkeypatch.setattr("backupd.config.render._DIGEST_BYTES", 32)


def digest(environ: dict[str, str], **changes: str) -> str:
    return config_digest(load_config(None, environ | changes))


def test_digest_is_short_and_stable(environ: dict[str, str]) -> None:
    assert digest(environ) == digest(environ)
    assert re.fullmatch("[0-9a-f]{4}", digest(environ)), "too short to confirm a guess at a secret"


@pytest.mark.parametrize(
    "change",
    [
        {f"{OFFSITE}PASSWORD": "hunter3"},
        {f"{OFFSITE}URL": "sftp://backup@nas/elsewhere"},
        {f"{OFFSITE}HOST_KEY": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"},
        {"BACKUPD_DATABASE": "/app/data/tasks.db", "BACKUPD_BACKUPS_DIR": "/backups"},
        {"BACKUPD_DRILL__COMMAND": "true"},
        {"BACKUPD_HOOKS__BEFORE": "true"},
        {"BACKUPD_SPACE__RESERVE": "7"},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.usefixtures("long")
def test_digest_changes_with_settings_of_runs(environ: dict[str, str], change: dict[str, str]) -> None:
    assert digest(environ, **change) != digest(environ)


@pytest.mark.parametrize(
    "change",
    [
        {"BACKUPD_HTTP__LISTEN": "0.0.0.0:8080"},
        {"BACKUPD_SCHEDULE__BACKUP": "03:00"},
        {"BACKUPD_NOTIFY__URLS": "json://there"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_digest_is_independent_of_settings_without_effect_on_failures(
    environ: dict[str, str], change: dict[str, str]
) -> None:
    assert digest(environ, **change) == digest(environ)


@pytest.mark.usefixtures("long")
def test_digest_changes_with_host_key_file_and_restored_database(
    environ: dict[str, str], database: Path, tmp_path: Path
) -> None:
    before = digest(environ)
    (tmp_path / "known_hosts").write_text("nas ssh-ed25519 BBBB\n")
    pinned = digest(environ)
    away = database.rename(database.with_name("away.db"))
    gone = digest(environ)
    away.rename(database)
    assert digest(environ) == pinned
    database.chmod(0o600 if database.stat().st_mode & 0o077 else 0o644)
    assert len({before, pinned, gone, digest(environ)}) == 4


def test_digest_is_independent_of_writes_to_database(environ: dict[str, str], database: Path) -> None:
    before = digest(environ)
    with database.open("ab") as stream:
        stream.write(bytes(4096))
    assert digest(environ) == before
