"""What operators rely on when they configure backupd: names, precedence, paths, secrets."""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backupd.config import Config, load_config, masked, secrets_of, to_toml
from backupd.config.file import find_file
from backupd.errors import ConfigError
from backupd.model import RetentionPolicy

DATABASE = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
NOWHERE = Path("/no/such/directory")
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'

Write = Callable[[str], Path]


def load(**names: str) -> Config:
    """Load from the environment alone; names come without their prefix."""
    return load_config(None, {f"BACKUPD_{name}": value for name, value in names.items()}, NOWHERE)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        file = tmp_path / "backupd.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


# --- The one-database case ---


def test_one_database_needs_no_file_and_no_other_name() -> None:
    config = load(DATABASE="/app/data/tasks.db")
    assert {name: source.path for name, source in config.sources.items()} == {
        "tasks": Path("/app/data/tasks.db")
    }
    assert config.backups_dir == Path("/app/data/backups")
    assert config.policy() == RetentionPolicy(last=0, daily=7, weekly=4, monthly=0, yearly=0)
    assert config.origin == "environment"
    assert config.not_yet_active() == ()


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("tasks.db", "tasks"),
        ("my tasks.v2.sqlite", "my-tasks.v2"),
        ("tasks", "tasks"),
        (".hidden.db", "hidden"),
    ],
)
def test_the_stem_of_the_file_names_the_source(file: str, source: str) -> None:
    assert list(load(DATABASE=f"/data/{file}").sources) == [source]


def test_a_file_whose_name_makes_no_source_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"environment BACKUPD_DATABASE: its file name makes no name"):
        load(DATABASE="/data/データ.db")


@pytest.mark.parametrize("stem", ["tasks", "Tasks", "TASKS"])
def test_the_environment_reaches_the_source_whatever_the_case_of_its_file(stem: str) -> None:
    config = load(DATABASE=f"/data/{stem}.db", SOURCES__TASKS__METHOD="vacuum")
    assert {name: source.method for name, source in config.sources.items()} == {stem: "vacuum"}


def test_the_environment_reaches_a_source_with_a_dash_or_a_dot_by_an_underscore() -> None:
    config = load(DATABASE="/data/my-app.v2.db", SOURCES__MY_APP_V2__METHOD="vacuum")
    assert config.sources["my-app.v2"].method == "vacuum"


def test_an_underscore_that_could_mean_two_sources_means_neither(write: Write) -> None:
    file = write('[sources.a-b]\npath = "/d/1.db"\n[sources."a.b"]\npath = "/d/2.db"\n')
    with pytest.raises(
        ConfigError, match=r"environment BACKUPD_SOURCES__A_B__METHOD: sources.a_b.path: is required"
    ):
        load_config(file, {"BACKUPD_SOURCES__A_B__METHOD": "vacuum"})


def test_the_directory_of_backups_can_be_set() -> None:
    assert load(DATABASE="/data/a.db", BACKUPS_DIR="/backups").backups_dir == Path("/backups")


def test_relative_paths_of_the_environment_start_at_the_working_directory(tmp_path: Path) -> None:
    config = load_config(None, {"BACKUPD_DATABASE": "data/../a.db", "BACKUPD_BACKUPS_DIR": "b"}, tmp_path)
    assert config.sources["a"].path == tmp_path / "a.db"
    assert config.backups_dir == tmp_path / "b"


def test_without_a_working_directory_given_it_is_the_one_of_the_process() -> None:
    assert load_config(None, {"BACKUPD_DATABASE": "a.db"}).sources["a"].path == Path.cwd() / "a.db"


def test_a_symbolic_link_stays_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = load_config(None, {"BACKUPD_DATABASE": "link/a.db"}, tmp_path)
    assert config.backups_dir == tmp_path / "link" / "backups"


def test_without_any_source_the_error_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"BACKUPD_DATABASE=.* or path under \[sources.NAME\]") as caught:
        load()
    assert caught.value.exit_code == 78
    assert "\n" not in caught.value.message


def test_several_sources_in_one_directory_share_the_backups_beside_them() -> None:
    config = load(SOURCES__A__PATH="/data/a.db", SOURCES__B__PATH="/data/b.db")
    assert config.backups_dir == Path("/data/backups")


def test_several_sources_in_different_directories_need_a_directory_of_backups() -> None:
    names = {"SOURCES__A__PATH": "/one/a.db", "SOURCES__B__PATH": "/two/b.db"}
    with pytest.raises(ConfigError, match="backups_dir: is required, because the sources are in different"):
        load(**names)
    assert load(**names, BACKUPS_DIR="/backups").backups_dir == Path("/backups")


def test_the_directory_of_backups_cannot_be_a_database() -> None:
    with pytest.raises(ConfigError, match="BACKUPD_BACKUPS_DIR: is the database of source a"):
        load(DATABASE="/data/a.db", BACKUPS_DIR="/data/./a.db")


# --- Files ---


def test_relative_paths_of_a_file_start_at_its_directory(write: Write, tmp_path: Path) -> None:
    file = write(
        'backups_dir = "../b"\n[sources.a]\npath = "data/a.db"\n'
        '[replicas.nas]\nurl = "/mnt/nas"\nknown_hosts = "known_hosts"\n'
    )
    config = load_config(file, {}, NOWHERE)
    assert config.sources["a"].path == tmp_path / "data" / "a.db"
    assert config.backups_dir == tmp_path.parent / "b"
    assert config.replicas["nas"].known_hosts == tmp_path / "known_hosts"
    assert config.origin == str(file)


def test_the_environment_goes_before_the_file_and_the_file_before_the_defaults(write: Write) -> None:
    file = write(f"{SOURCE}[retention]\ndaily = 10\nweekly = 20\n")
    config = load_config(file, {"BACKUPD_RETENTION__DAILY": "30"})
    assert config.policy() == RetentionPolicy(last=0, daily=30, weekly=20, monthly=0, yearly=0)


def test_an_empty_value_counts_as_unset(write: Write) -> None:
    file = write(f"{SOURCE}[retention]\ndaily = 10\n")
    empty = {"BACKUPD_RETENTION__DAILY": "", "BACKUPD_DATABASE": "", "BACKUPD_HTTP__TOKEN_FILE": ""}
    config = load_config(file, empty)
    assert config.retention.daily == 10
    assert config.http.token is None


def test_a_database_in_the_environment_overrides_the_path_of_the_source_of_that_name(write: Write) -> None:
    file = write('[sources.Tasks]\npath = "/old/tasks.db"\nmethod = "vacuum"\n')
    (source,) = load_config(file, DATABASE).sources.items()
    assert source[0] == "Tasks"
    assert (source[1].path, source[1].method) == (Path("/app/data/tasks.db"), "vacuum")


def test_a_database_in_the_environment_adds_a_source_to_those_of_the_file(write: Write) -> None:
    file = write('backups_dir = "/b"\n[sources.other]\npath = "/other.db"\n')
    assert set(load_config(file, DATABASE).sources) == {"other", "tasks"}


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=f"there is no configuration file {missing}") as caught:
        load_config(missing, DATABASE)
    assert caught.value.hint == "check --config"
    with pytest.raises(ConfigError, match=f"there is no configuration file {missing}") as caught:
        load_config(None, {"BACKUPD_CONFIG": "missing.toml"}, tmp_path)
    assert caught.value.hint == "check BACKUPD_CONFIG"


def test_files_are_looked_for_in_the_documented_order(tmp_path: Path) -> None:
    names = ("explicit", "named", "system", "backupd.toml")
    explicit, named, system, local = files = [tmp_path / name for name in names]
    for file in files:
        file.write_text(SOURCE)
    environ = {"BACKUPD_CONFIG": str(named)}
    assert find_file(Path("explicit"), environ, tmp_path, system) == explicit
    assert find_file(None, environ, tmp_path, system) == named
    assert find_file(None, {"BACKUPD_CONFIG": ""}, tmp_path, system) == system
    assert load_config(None, environ, tmp_path).origin == str(named)
    system.unlink()
    assert find_file(None, {}, tmp_path, system) == local
    local.unlink()
    assert find_file(None, {}, tmp_path, system) is None


def test_a_file_that_cannot_be_looked_at_is_not_passed_over(tmp_path: Path) -> None:
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    assert find_file(None, {}, tmp_path, system_file=loop) == loop
    with pytest.raises(ConfigError, match=r"cannot read .*loop.toml: Too many levels"):
        load_config(loop, DATABASE)


def test_a_directory_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}: Is a directory"):
        load_config(tmp_path, DATABASE)


def test_the_byte_order_mark_of_a_windows_editor_is_accepted(write: Write) -> None:
    assert set(load_config(write("\ufeff" + SOURCE.replace("\n", "\r\n")), {}).sources) == {"tasks"}


# --- Secrets ---

SECRETS = {
    "REPLICAS__NAS__PASSWORD": "hunter2-password",
    "REPLICAS__NAS__PRIVATE_KEY": "hunter2-key\nsecond line",
    "REPLICAS__NAS__PASSPHRASE": "hunter2-phrase",
    "HTTP__TOKEN": "hunter2-token",
    "PINGS__BACKUP": "https://ping.example/hunter2-ping",
}


def test_each_secret_is_masked_wherever_the_configuration_is_shown() -> None:
    urls = ["ntfy://hunter2-a", "mailto://hunter2-b"]
    config = load(DATABASE="/a.db", REPLICAS__NAS__URL="/mnt", NOTIFY__URLS=json.dumps(urls), **SECRETS)
    for text in (
        repr(config),
        str(config),
        json.dumps(masked(config)),
        to_toml(config),
        config.model_dump_json(),
    ):
        assert "hunter2" not in text
    assert masked(config)["http"]["token"] == "[secret]"
    assert masked(config)["notify"]["urls"] == ["[secret]", "[secret]"]
    assert set(secrets_of(config)) == {*urls, *SECRETS.values()}


def test_each_secret_can_come_from_a_file(tmp_path: Path) -> None:
    environ = {"BACKUPD_DATABASE": "/a.db", "BACKUPD_REPLICAS__NAS__URL": "/mnt"}
    for name, value in {**SECRETS, "NOTIFY__URLS": "ntfy://a ntfy://b"}.items():
        (tmp_path / name).write_text(f"{value}\n")
        environ[f"BACKUPD_{name}_FILE"] = name
    config = load_config(None, environ, tmp_path)
    assert set(secrets_of(config)) == {*SECRETS.values(), "ntfy://a", "ntfy://b"}


def test_a_secret_and_its_file_cannot_both_be_set(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    environ = {**DATABASE, "BACKUPD_HTTP__TOKEN": "plain", "BACKUPD_HTTP__TOKEN_FILE": "token"}
    with pytest.raises(ConfigError, match="BACKUPD_HTTP__TOKEN_FILE: means the same as BACKUPD_HTTP__TOKEN,"):
        load_config(None, environ, tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, r"cannot read /.*/token: No such file"), (b"\xff", "is not UTF-8 text"), (b"\n", "is empty")],
)
def test_a_file_without_a_secret_is_an_error_with_its_path(
    content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=f"environment BACKUPD_HTTP__TOKEN_FILE: .*{complaint}"):
        load_config(None, {**DATABASE, "BACKUPD_HTTP__TOKEN_FILE": "token"}, tmp_path)


def test_only_secrets_are_read_from_files() -> None:
    with pytest.raises(
        ConfigError, match=r"only secrets are read from a file; did you mean BACKUPD_HTTP__LISTEN\?"
    ):
        load(DATABASE="/a.db", HTTP__LISTEN_FILE="/run/secrets/listen")


def test_a_key_that_was_put_where_its_path_belongs_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="must be the path of a file") as caught:
        load(DATABASE="/a.db", HTTP__TOKEN_FILE="-----BEGIN\nhunter2")
    assert "hunter2" not in caught.value.message


def test_a_path_that_no_file_can_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*\\x00: no such path"):
        load(DATABASE="/a.db", HTTP__TOKEN_FILE="a\0")


@pytest.mark.parametrize("urls", ['["a://1", "b://2"]', "a://1,b://2", " a://1\nb://2 ", "a://1 , b://2,"])
def test_urls_in_the_environment_are_a_json_list_or_separated(urls: str) -> None:
    assert secrets_of(load(DATABASE="/a.db", NOTIFY__URLS=urls)) == ("a://1", "b://2")


# --- What is not acted upon ---


def test_sections_that_this_version_does_not_act_upon_are_named(write: Write) -> None:
    file = write(
        f'{SOURCE}[replicas.nas]\nurl = "/mnt"\n[drill]\nfrom = "nas"\n[notify]\n[http]\n[pings]\na = "b"\n'
    )
    config = load_config(file, {"BACKUPD_HTTP__LISTEN": "0.0.0.0:80"})
    assert config.not_yet_active() == ("replicas.nas", "drill", "http", "pings")
    assert config.drill.from_ == "nas"


# --- What comes out ---


def test_the_configuration_is_frozen() -> None:
    config = load(DATABASE="/a.db")
    with pytest.raises(ValueError, match="frozen"):
        config.backups_dir = Path("/b")  # type: ignore[misc]  # that is the test
    with pytest.raises(ValueError, match="frozen"):
        config.retention.daily = 1  # type: ignore[misc]  # that is the test


def test_by_itself_the_model_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETENTION", '{"daily": 1}')
    source = {"tasks": {"path": "/a.db"}}
    assert Config.model_validate({"sources": source, "backups_dir": "/b"}).retention.daily == 7


def test_sizes_are_accepted_as_people_write_them() -> None:
    assert load(DATABASE="/a.db", SPACE__RESERVE="512MiB").space.reserve == 512 << 20


PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(
    "/d/{}".format
)
SOURCE_NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)


@given(st.dictionaries(SOURCE_NAMES, PATHS, min_size=1), st.integers(1), st.floats(0, 1), PATHS)
def test_the_configuration_shown_can_be_loaded_again(
    sources: dict[str, str], daily: int, loss: float, directory: str
) -> None:
    paths = {os.path.abspath(path) for path in sources.values()}  # noqa: PTH100 - as the configuration does it
    assume(os.path.abspath(directory) not in paths)  # noqa: PTH100 - as above
    names = {f"SOURCES__{name.upper()}__PATH": path for name, path in sources.items()}
    config = load(
        **names, BACKUPS_DIR=directory, RETENTION__DAILY=str(daily), SHRINK_GUARD__MAX_ROW_LOSS=str(loss)
    )
    shown = tomllib.loads(to_toml(config))
    assert Config.model_validate(shown).model_dump() == config.model_dump()
