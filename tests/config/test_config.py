"""Names, precedence and paths of settings."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.config import Config, load_config, to_toml
from backupd.config.load import merge
from backupd.errors import ConfigError
from backupd.retention import RetentionPolicy

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


def test_single_database_needs_no_file_and_no_other_setting() -> None:
    config = load(DATABASE="/app/data/tasks.db")
    assert {name: source.path for name, source in config.sources.items()} == {"tasks": Path("/app/data/tasks.db")}
    assert config.backups_dir == Path("/app/data/backups")
    assert config.retention.policy() == RetentionPolicy(last=0, daily=7, weekly=4, monthly=0, yearly=0)
    assert config.origin == "environment"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("tasks.db", "tasks"),
        ("my tasks.v2.sqlite", "my-tasks.v2"),
        ("tasks", "tasks"),
        (".hidden.db", "hidden"),
    ],
)
def test_source_is_named_after_stem_of_file(file: str, source: str) -> None:
    assert list(load(DATABASE=f"/data/{file}").sources) == [source]


def test_file_name_without_valid_source_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"environment BACKUPD_DATABASE: its file name gives no valid source name"):
        load(DATABASE="/data/データ.db")


@pytest.mark.parametrize("stem", ["tasks", "Tasks", "TASKS"])
def test_environment_sets_source_in_any_case_of_file(stem: str) -> None:
    config = load(DATABASE=f"/data/{stem}.db", SOURCES__TASKS__METHOD="vacuum")
    assert {name: source.method for name, source in config.sources.items()} == {stem: "vacuum"}


def test_environment_sets_source_with_dash_or_dot_by_underscore() -> None:
    config = load(DATABASE="/data/my-app.v2.db", SOURCES__MY_APP_V2__METHOD="vacuum")
    assert config.sources["my-app.v2"].method == "vacuum"


def test_ambiguous_underscore_sets_no_source(write: Write) -> None:
    file = write('[sources.a-b]\npath = "/d/1.db"\n[sources."a.b"]\npath = "/d/2.db"\n')
    with pytest.raises(ConfigError, match=r"environment BACKUPD_SOURCES__A_B__METHOD: sources.a_b.path: is required"):
        load_config(file, {"BACKUPD_SOURCES__A_B__METHOD": "vacuum"})


def test_backups_directory_can_be_set() -> None:
    assert load(DATABASE="/data/a.db", BACKUPS_DIR="/backups").backups_dir == Path("/backups")


def test_relative_paths_of_environment_start_at_working_directory(tmp_path: Path) -> None:
    config = load_config(None, {"BACKUPD_DATABASE": "data/../a.db", "BACKUPD_BACKUPS_DIR": "b"}, tmp_path)
    assert config.sources["a"].path == tmp_path / "a.db"
    assert config.backups_dir == tmp_path / "b"


def test_default_working_directory_is_that_of_process() -> None:
    assert load_config(None, {"BACKUPD_DATABASE": "a.db"}).sources["a"].path == Path.cwd() / "a.db"


def test_symbolic_link_in_path_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = load_config(None, {"BACKUPD_DATABASE": "link/a.db"}, tmp_path)
    assert config.backups_dir == tmp_path / "link" / "backups"


def test_missing_source_is_error_with_setting_to_use() -> None:
    with pytest.raises(ConfigError, match=r"BACKUPD_DATABASE=.* or path under \[sources.NAME\]") as caught:
        load()
    assert caught.value.exit_code == 78
    assert "\n" not in caught.value.message


def test_sources_in_one_directory_share_backups_beside_them() -> None:
    config = load(SOURCES__A__PATH="/data/a.db", SOURCES__B__PATH="/data/b.db")
    assert config.backups_dir == Path("/data/backups")


def test_sources_in_different_directories_need_backups_directory() -> None:
    names = {"SOURCES__A__PATH": "/one/a.db", "SOURCES__B__PATH": "/two/b.db"}
    with pytest.raises(ConfigError, match="backups_dir: is required, because the sources are in different"):
        load(**names)
    assert load(**names, BACKUPS_DIR="/backups").backups_dir == Path("/backups")


def test_backups_directory_that_is_a_database_is_refused() -> None:
    with pytest.raises(ConfigError, match="BACKUPD_BACKUPS_DIR: is the database of source a"):
        load(DATABASE="/data/a.db", BACKUPS_DIR="/data/./a.db")


# --- Files ---


def test_relative_paths_of_file_start_at_its_directory(write: Write, tmp_path: Path) -> None:
    file = write(
        'backups_dir = "../b"\n[sources.a]\npath = "data/a.db"\n'
        '[replicas.nas]\nurl = "/mnt/nas"\nknown_hosts = "known_hosts"\n'
    )
    config = load_config(file, {}, NOWHERE)
    assert config.sources["a"].path == tmp_path / "data" / "a.db"
    assert config.backups_dir == tmp_path.parent / "b"
    assert config.replicas["nas"].known_hosts == tmp_path / "known_hosts"
    assert config.origin == str(file)


def test_environment_precedes_file_which_precedes_defaults(write: Write) -> None:
    file = write(f"{SOURCE}[retention]\ndaily = 10\nweekly = 20\n")
    config = load_config(file, {"BACKUPD_RETENTION__DAILY": "30"})
    assert config.retention.policy() == RetentionPolicy(last=0, daily=30, weekly=20, monthly=0, yearly=0)


def test_tables_are_merged_by_key_and_other_values_are_replaced() -> None:
    below = {"sources": {"a": {"path": "/a", "method": "backup"}}, "retention": {"daily": 1}, "lock": 3, "drill": {}}
    above = {"sources": {"a": {"path": "/b"}, "c": {"path": "/c"}}, "retention": 2, "lock": {"wait_s": 1}}
    assert merge(below, above) == {
        "sources": {"a": {"path": "/b", "method": "backup"}, "c": {"path": "/c"}},
        "retention": 2,
        "lock": {"wait_s": 1},
        "drill": {},
    }
    assert below["sources"] == {"a": {"path": "/a", "method": "backup"}}, "the arguments stay as they are"


SPANS = {'"48h"': 48, '"7d"': 168, '"2 w"': 336, '"90min"': 1.5, "0": 0, '"0"': 0, '"0s"': 0}


@pytest.mark.parametrize(("written", "hours"), SPANS.items())
def test_retention_window_is_duration_and_shown_as_valid_input(write: Write, written: str, hours: float) -> None:
    config = load_config(write(f"{SOURCE}[retention]\nwithin = {written}\nhourly = 24\n"), {})
    assert config.retention.policy() == RetentionPolicy(within=timedelta(hours=hours), hourly=24)
    shown = load_config(write(to_toml(config)), {})
    assert shown.retention.policy() == config.retention.policy()


def test_empty_value_counts_as_unset(write: Write) -> None:
    file = write(f"{SOURCE}[retention]\ndaily = 10\n")
    empty = {"BACKUPD_RETENTION__DAILY": "", "BACKUPD_DATABASE": "", "BACKUPD_HTTP__TOKEN_FILE": ""}
    config = load_config(file, empty)
    assert config.retention.daily == 10
    assert config.http.token is None


def test_database_in_environment_overrides_path_of_source_with_same_name(write: Write) -> None:
    file = write('[sources.Tasks]\npath = "/old/tasks.db"\nmethod = "vacuum"\n')
    (source,) = load_config(file, DATABASE).sources.items()
    assert source[0] == "Tasks"
    assert (source[1].path, source[1].method) == (Path("/app/data/tasks.db"), "vacuum")


def test_database_with_similar_name_is_separate_source(write: Write) -> None:
    file = write('[sources.my-app]\npath = "/data/my-app.db"\n')
    assert set(load_config(file, {"BACKUPD_DATABASE": "/data/my_app.db"}).sources) == {"my-app", "my_app"}


def test_database_in_environment_adds_source_to_those_of_file(write: Write) -> None:
    file = write('backups_dir = "/b"\n[sources.other]\npath = "/other.db"\n')
    assert set(load_config(file, DATABASE).sources) == {"other", "tasks"}


# --- TZ ---


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", ":Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin", ":/usr/share/zoneinfo/Europe/Berlin"],
)
def test_tz_is_read_as_by_other_programs(zone: str) -> None:
    config = load_config(None, {**DATABASE, "TZ": zone}, NOWHERE)
    assert (config.schedule.timezone, config.timezone_warning) == ("Europe/Berlin", "")


def test_link_to_zone_file_means_that_zone(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Asia/Kathmandu")
    assert load_config(None, {**DATABASE, "TZ": f":{link}"}, NOWHERE).schedule.timezone == "Asia/Kathmandu"


@pytest.mark.parametrize(
    "zone", ["UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "Mars/Olympus_Mons", "Europe", "/etc/passwd", ":"]
)
def test_unknown_zone_in_tz_means_utc_with_warning(zone: str) -> None:
    config = load_config(None, {**DATABASE, "TZ": zone}, NOWHERE)
    assert config.schedule.timezone == "UTC"
    assert f"TZ={zone!r} is not an IANA time zone" in config.timezone_warning
