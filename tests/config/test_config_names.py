"""An unknown name is refused, with the nearest known one as a suggestion."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backupd.config import load_config
from backupd.config.environment import PREFIX
from backupd.config.schema import ANY, all_keys, key_at
from backupd.errors import ConfigError

NOWHERE = Path("/no/such/directory")
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'


def complaint(environ: dict[str, str], file: Path | None = None) -> str:
    """Return the message of the ConfigError that may come, "none" where none does."""
    try:
        load_config(file, environ, NOWHERE)
    except ConfigError as error:
        return error.message
    return "none"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BACKUPD_RETENTION__DAYLY", "BACKUPD_RETENTION__DAILY"),
        ("BACKUPD_HTTP__TOKN", "BACKUPD_HTTP__TOKEN"),
        ("BACKUPD_SCHEDULE_TIMEZONE", "BACKUPD_SCHEDULE__TIMEZONE"),
        ("BACKUPD_DATABSE", "BACKUPD_DATABASE"),
        ("BACKUPD_DATABASE_FILE", "BACKUPD_DATABASE"),
        ("BACKUPD_BACKUP_DIR", "BACKUPD_BACKUPS_DIR"),
        ("BACKUPD_CONFIG_FILE", "BACKUPD_CONFIG"),
        ("BACKUPD_SOURCES__TASKS__METHD", "BACKUPD_SOURCES__TASKS__METHOD"),
        ("BACKUPD_SOURCE__TASKS__METHOD", "BACKUPD_SOURCES__TASKS__METHOD"),
        ("BACKUPD_SOURCES__PATH", "BACKUPD_SOURCES__NAME__PATH"),
        ("BACKUPD_SOURCES____PATH", "BACKUPD_SOURCES__NAME__PATH"),
        ("BACKUPD_REPLICAS__OFFSITE__KEY_FILE", "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE"),
        ("backupd_retention__daily", "BACKUPD_RETENTION__DAILY"),
    ],
)
def test_unknown_environment_name_suggests_nearest_known_one(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"BACKUPD_DATABASE": "/a.db", name: "x"}, NOWHERE)
    assert caught.value.message == f"environment {name}: unknown name; did you mean {nearest}?"


def test_unknown_nested_name_is_refused_even_if_empty() -> None:
    message = complaint({"BACKUPD_DATABASE": "/a.db", "BACKUPD_HTTP__BOGUS": ""})
    assert "BACKUPD_HTTP__BOGUS: unknown name; did you mean BACKUPD_HTTP__" in message


def test_names_of_other_programs_are_ignored() -> None:
    load_config(None, {"BACKUPD_DATABASE": "/a.db", "BACKUPDX": "1", "PATH": "/bin", "BACKUP_X": "2"}, NOWHERE)


@given(st.text())
@example("__")
@example("PINGS___FILE")
@example("SOURCES__\n__PATH")
def test_unknown_backupd_name_is_refused_on_one_line(name: str) -> None:
    path = tuple(name.removesuffix("_FILE").lower().split("__"))
    if name in ("", "CONFIG", "DATABASE") or key_at(path) or key_at(tuple(name.lower().split("__"))):
        return
    message = complaint({"BACKUPD_DATABASE": "/a.db", f"BACKUPD_{name}": "hunter2"})
    assert re.fullmatch(r"environment BACKUPD_[^\n]*: unknown name; did you mean BACKUPD_\w+\?", message)


NAMES = st.sampled_from([PREFIX + "__".join(key.path).upper().replace(ANY, "NAME") for key in all_keys()])


@given(NAMES, st.text())
def test_value_of_known_name_is_accepted_or_refused_with_name(name: str, value: str) -> None:
    environ = {"BACKUPD_DATABASE": "/a.db", "BACKUPD_REPLICAS__NAME__URL": "/mnt", name: value}
    assert complaint(environ).startswith(("none", f"environment {name}: ", "environment: backups_dir: is required"))


def test_two_names_for_one_key_are_refused() -> None:
    assert complaint({"BACKUPD_DATABASE": "/a.db", "BACKUPD_SOURCES__A__PATH": "/b.db"}) == (
        "environment BACKUPD_SOURCES__A__PATH: sets the same key as BACKUPD_DATABASE: keep one of them"
    )


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[retention]\ndayly = 1", "4: retention.dayly: unknown key; did you mean retention.daily?"),
        ("[retension]\ndaily = 1", "3: retension: unknown key; did you mean retention?"),
        ("[Retention]\ndaily = 1", "3: Retention: unknown key; did you mean retention?"),
        ("[retention]\ndaily = 1\n[Retention]\ndaily = 2", "5: Retention: unknown key; did you mean retention?"),
        (
            'backups_dir = "/b"',
            "3: sources.tasks.backups_dir: unknown key here; backups_dir belongs above the first ",
        ),
        ("[lock]\ndaily = 1", "4: lock.daily: unknown key here; did you mean retention.daily?"),
        (
            "[pack]\nbusy_timeout_s = 1",
            "4: pack.busy_timeout_s: unknown key here; did you mean sources.NAME.busy_",
        ),
        (
            '[replicas.x]\nurl = "/m"\nretention.dayly = 1',
            "5: replicas.x.retention.dayly: unknown key; did you mean r",
        ),
        ("[drill]\nxyzzy = 1", "4: drill.xyzzy: unknown key; did you mean drill."),
    ],
)
def test_unknown_key_of_file_is_refused_with_line_and_suggestion(toml: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "backupd.toml"
    file.write_text(SOURCE + toml, encoding="utf-8")
    assert complaint({}, file).startswith(f"{file}:{problem}")
