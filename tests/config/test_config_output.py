"""A loaded configuration: frozen values, masked output, and secrets from files."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backupd.config import Config, load_config, masked, secrets_of, to_toml
from backupd.config.sections import AppSection
from backupd.errors import ConfigError

DATABASE = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
NOWHERE = Path("/no/such/directory")
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'


def load(**names: str) -> Config:
    """Load from the environment alone; names come without their prefix."""
    return load_config(None, {f"BACKUPD_{name}": value for name, value in names.items()}, NOWHERE)


# --- Secrets ---

SECRETS = {
    "REPLICAS__NAS__PASSWORD": "hunter2-password",
    "REPLICAS__NAS__PRIVATE_KEY": "hunter2-key\nsecond line",
    "REPLICAS__NAS__PASSPHRASE": "hunter2-phrase",
    "HTTP__TOKEN": "hunter2-token-of-16",
    "HTTP__BACKUP_TOKEN": "hunter2-token-to-back-up",
    "HTTP__DOWNLOAD_TOKEN": "hunter2-token-to-download",
    "PINGS__BACKUP": "https://ping.example/hunter2-ping",
}


def test_each_secret_is_masked_in_every_output() -> None:
    urls = ["ntfy://hunter2-a", "mailto://hunter2-b"]
    config = load(
        DATABASE="/a.db",
        REPLICAS__NAS__URL="/mnt",
        NOTIFY__URLS=json.dumps(urls),
        APP__HEALTH_URL="http://app/health?key=hunter2-query",
        **SECRETS,
    )
    hidden = config.model_copy(update={"app": AppSection()})  # its query is masked where it is shown to people
    for text in (
        repr(hidden),
        str(hidden),
        json.dumps(masked(config)),
        to_toml(config),
        config.model_dump_json(),
    ):
        assert "hunter2" not in text
    assert masked(config)["http"]["token"] == "[secret]"
    assert masked(config)["notify"]["urls"] == ["[secret]", "[secret]"]
    assert set(secrets_of(config)) == {*urls, *SECRETS.values()}


def test_each_secret_can_be_read_from_file(tmp_path: Path) -> None:
    environ = {"BACKUPD_DATABASE": "/a.db", "BACKUPD_REPLICAS__NAS__URL": "/mnt"}
    for name, value in {**SECRETS, "NOTIFY__URLS": "ntfy://a ntfy://b"}.items():
        (tmp_path / name).write_text(f"{value}\n")
        environ[f"BACKUPD_{name}_FILE"] = name
    config = load_config(None, environ, tmp_path)
    assert set(secrets_of(config)) == {*SECRETS.values(), "ntfy://a", "ntfy://b"}


def test_secret_and_its_file_cannot_both_be_set(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    environ = {**DATABASE, "BACKUPD_HTTP__TOKEN": "plain", "BACKUPD_HTTP__TOKEN_FILE": "token"}
    with pytest.raises(ConfigError, match="BACKUPD_HTTP__TOKEN_FILE: sets the same key as BACKUPD_HTTP__TOKEN:"):
        load_config(None, environ, tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, r"cannot read /.*/token: No such file"), (b"\xff", "is not UTF-8 text"), (b"\n", "is empty")],
)
def test_missing_secret_file_is_error_with_path(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=f"environment BACKUPD_HTTP__TOKEN_FILE: .*{complaint}"):
        load_config(None, {**DATABASE, "BACKUPD_HTTP__TOKEN_FILE": str(tmp_path / "token")}, tmp_path)


def test_only_secrets_are_read_from_files() -> None:
    with pytest.raises(ConfigError, match=r"only secrets are read from a file; did you mean BACKUPD_HTTP__LISTEN\?"):
        load(DATABASE="/a.db", HTTP__LISTEN_FILE="/run/secrets/listen")


def test_key_in_place_of_key_path_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="must be the path of a file") as caught:
        load(DATABASE="/a.db", HTTP__TOKEN_FILE="-----BEGIN\nhunter2")
    assert "hunter2" not in caught.value.message


def test_impossible_path_is_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*\\x00: invalid path"):
        load(DATABASE="/a.db", HTTP__TOKEN_FILE="/a\0")


@pytest.mark.parametrize("urls", ['["a://1", "b://2"]', "a://1,b://2", " a://1\nb://2 ", "a://1 , b://2,"])
def test_urls_in_environment_are_json_list_or_separated(urls: str) -> None:
    assert secrets_of(load(DATABASE="/a.db", NOTIFY__URLS=urls)) == ("a://1", "b://2")


# --- What comes out ---


def test_configuration_is_frozen() -> None:
    config = load(DATABASE="/a.db")
    with pytest.raises(ValueError, match="frozen"):
        config.backups_dir = Path("/b")  # type: ignore[misc]  # that is the test
    with pytest.raises(ValueError, match="frozen"):
        config.retention.daily = 1  # type: ignore[misc]  # that is the test


def test_model_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION", '{"daily": 1}')
    source = {"tasks": {"path": "/a.db"}}
    assert Config.model_validate({"sources": source, "backups_dir": "/b"}).retention.daily == 7


def test_sizes_with_units_are_accepted() -> None:
    assert load(DATABASE="/a.db", SPACE__RESERVE="512MiB").space.reserve == 512 << 20


PATHS = st.text(st.characters(exclude_characters="\0@{", exclude_categories=["Cs"]), min_size=1).map(
    "/d/{}".format
)  # "${" is for shells
SOURCE_NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)


@given(st.dictionaries(SOURCE_NAMES, PATHS, min_size=1), st.integers(1, 2**31 - 1), st.floats(0, 1), PATHS)
def test_shown_configuration_can_be_loaded_again(
    sources: dict[str, str], daily: int, loss: float, directory: str
) -> None:
    paths = {os.path.abspath(path.strip()) for path in sources.values()}  # noqa: PTH100 - as the configuration does it
    assume(len(paths) == len(sources))
    assume(all(path == path.strip() for path in (*paths, os.path.abspath(directory.strip()))))  # noqa: PTH100 - as above
    assume(os.path.abspath(directory.strip()) not in paths)  # noqa: PTH100 - as above
    names = {f"SOURCES__{name.upper()}__PATH": path for name, path in sources.items()}
    config = load(**names, BACKUPS_DIR=directory, RETENTION__DAILY=str(daily), SHRINK_GUARD__MAX_ROW_LOSS=str(loss))
    shown = tomllib.loads(to_toml(config))
    assert Config.model_validate(shown).model_dump() == config.model_dump()
