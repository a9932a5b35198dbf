"""Errors of a configuration: all at once, each with its place, and without secrets."""

import os
from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.errors import ConfigError

NOWHERE = Path("/no/such/directory")
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'


def refusal(toml: str | None = None, tmp_path: Path = NOWHERE, **names: str) -> str:
    """Return the message of the ConfigError, with FILE in place of the file's path."""
    file = None
    if toml is not None:
        file = tmp_path / "backupd.toml"
        file.write_text(toml, encoding="utf-8")
    environ = {f"BACKUPD_{name}": value for name, value in names.items()}
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ, NOWHERE)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None  # pydantic's own error would show values
    return caught.value.message.replace(str(file), "FILE")


# --- Wrong values ---


def test_all_problems_are_reported_at_once_with_line_and_origin(tmp_path: Path) -> None:
    toml = '[sources.tasks]\npath = 5\n\n[retention]\ndaily = "seven"\nweekly = -1\n\n[http]\ntokn = "hunter2"\n'
    names = {"RETENTION__DAYLY": "4", "PACK__LEVEL": "13", "SCHEDULE__TIMEZONE": "X"}
    assert refusal(toml, tmp_path, **names).split("\n") == [
        "environment BACKUPD_RETENTION__DAYLY: unknown name; did you mean BACKUPD_RETENTION__DAILY?",
        "FILE:2: sources.tasks.path: must be a path, in quotes",
        "FILE:5: retention.daily: must be a whole number, not 'seven'",
        "FILE:6: retention.weekly: must be at least 0, not -1",
        "environment BACKUPD_SCHEDULE__TIMEZONE: must be an IANA time zone such as 'Europe/Berlin', not 'X'",
        "environment BACKUPD_PACK__LEVEL: must be at most 12, not '13'",
        "FILE:9: http.tokn: unknown key; did you mean http.token?",
    ]


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("sources = 5", "1: sources: must be a section"),
        ("sources.tasks = 5", "1: sources.tasks: must be a section"),
        ("[[sources]]", "1: sources: must be a section"),
        ("[sources]", "1: sources: nothing to back up"),
        ('[sources.tasks]\nmethod = "vacuum"', "1: sources.tasks.path: is required"),
        (SOURCE + 'method = "copy"', "3: sources.tasks.method: must be 'backup' or 'vacuum', not 'copy'"),
        (
            SOURCE + '[sources.twin]\npath = "/app/data/../data/tasks.db"',
            "1: sources: tasks and twin are the same database /app/data/tasks.db",
        ),
        (
            SOURCE + '[replicas.a]\nurl = "sftp://nas/b/"\n[replicas.b]\nurl = "sftp://nas:22/b"',
            "3: replicas: a and b have the same directory sftp://nas:22/b: give each its own",
        ),
        (
            SOURCE + '[replicas.a]\nurl = "file:/app/data/backups/"',
            "3: replicas: a is backups_dir itself: set another directory, on another disk",
        ),
        (
            'backups_dir = "/app/data/tasks.db-wal"\n' + SOURCE,
            "1: backups_dir: is the path of a side file of source tasks",
        ),
        (SOURCE + "allow_empty = 7", "3: sources.tasks.allow_empty: must be true or false, not 7"),
        (SOURCE + "timeout_s = 0", "3: sources.tasks.timeout_s: must be more than 0, not 0"),
        (SOURCE + "timeout_s = nan", "3: sources.tasks.timeout_s: must be a number, not nan"),
        (
            SOURCE + "busy_timeout_s = 604801",
            "3: sources.tasks.busy_timeout_s: must be at most 604800, not 604801",
        ),
        (SOURCE + "[retention]\ndaily = true", "4: retention.daily: must be a number, not true or false"),
        (SOURCE + "[retention]\ndaily = [7]", "4: retention.daily: must be a whole number"),
        (SOURCE + "[retention]\ndaily = 1.5", "4: retention.daily: must be a whole number, not 1.5"),
        (SOURCE + "[retention]\nwithin = 0\ndaily = 0\nweekly = 0", "3: retention: an empty policy is refused"),
        (SOURCE + "[retention]\nwithin = 48", '4: retention.within: must be a duration such as "48h" or "7d"'),
        (SOURCE + '[retention]\nwithin = "2 days"', "4: retention.within: must be a duration"),
        (SOURCE + '[retention]\nwithin = "-1h"', "4: retention.within: must be a duration"),
        (SOURCE + "[retention]\nwithin = false", "4: retention.within: must be a duration"),
        (SOURCE + '[retention]\nwithin = "6000w"', "4: retention.within: must be at most 100 years"),
        (
            SOURCE + '[replicas.x]\nurl = "/mnt/x"\n[replicas.x.retention]\nwithin = "x"',
            "6: replicas.x.retention.within: m",
        ),
        (SOURCE + "[schedule]\nbackup = 04:00:00", "4: schedule.backup: must be text, in quotes"),
        (SOURCE + '[schedule]\nbackup = ""', "4: schedule.backup: must not be empty"),
        (SOURCE + '[schedule]\ntimezone = "Europe"', "4: schedule.timezone: must be an IANA time zone"),
        (SOURCE + '[schedule]\ntimezone = "../UTC"', "4: schedule.timezone: must be an IANA time zone"),
        (
            SOURCE + '[space]\nreserve = "much"',
            "4: space.reserve: must be a size such as '512MiB', not 'much'",
        ),
        (
            SOURCE + '[space]\nreserve = "5 rods"',
            "4: space.reserve: must be a size such as '512MiB', not '5 rods'",
        ),
        (
            SOURCE + "[shrink_guard]\nmax_row_loss = 2",
            "4: shrink_guard.max_row_loss: must be at most 1, not 2",
        ),
        (SOURCE + '[http]\nlisten = "8080"', "4: http.listen: must be HOST:PORT"),
        (SOURCE + '[http]\nlisten = "::1:80"', "4: http.listen: must be HOST:PORT"),
        (SOURCE + '[http]\nlisten = "localhost:65536"', "4: http.listen: must be HOST:PORT"),
        (SOURCE + "[http]\nactions = true", "3: http: actions = true needs backup_token"),
        (SOURCE + '[http]\nactions = 1\nbackup_token = "short"', "5: http.backup_token: must have at least 16"),
        (
            SOURCE + '[http]\ntoken = "one-token-for-all"\nbackup_token = "one-token-for-all"',
            "3: http: token, backup_token and download_token must differ",
        ),
        (
            SOURCE + '[http]\nbackup_token = "one-token-for-two"\ndownload_token = "one-token-for-two"',
            "3: http: token, backup_token and download_token must differ",
        ),
        (SOURCE + "[notify]\nurls = 5", "4: notify.urls: must be a list of texts"),
        (
            SOURCE + '[replicas.local]\nurl = "/mnt"',
            "3: replicas.local: 'local' is reserved for backups_dir",
        ),
        (SOURCE + "[replicas.x]\nappend_only = true", "3: replicas.x.url: is required"),
        (SOURCE + '[sources."a/b"]\npath = "/x"', "3: sources.'a/b': a name has letters"),
        (
            SOURCE + '[sources.TASKS]\npath = "/x"',
            "1: sources: two names differ only in case",
        ),
        ('backups_dir = ""\n' + SOURCE, "1: backups_dir: must be a path"),
        ('[sources.a]\npath = "/a\\u0000b"', "2: sources.a.path: must be a path"),
        ('[sources.a]\npath = "/d/a"\n[sources.b]\npath = ""', "4: sources.b.path: must be a path"),
    ],
)
def test_invalid_value_is_explained_with_line(toml: str, complaint: str, tmp_path: Path) -> None:
    assert refusal(toml, tmp_path).startswith(f"FILE:{complaint}")


def test_valid_addresses_are_accepted() -> None:
    for listen in ("0.0.0.0:1", "[::1]:65535", "localhost:8080"):
        load_config(None, {"BACKUPD_DATABASE": "/a.db", "BACKUPD_HTTP__LISTEN": listen}, NOWHERE)


def test_retention_of_zero_from_environment_names_its_settings() -> None:
    message = refusal(DATABASE="/a.db", RETENTION__WITHIN="0", RETENTION__DAILY="0", RETENTION__WEEKLY="0")
    assert message.startswith("environment BACKUPD_RETENTION__DAILY: retention: an empty policy is refused")


def test_path_of_wrong_type_is_refused() -> None:
    message = refusal(DATABASE=os.fsdecode(b"/data/\xff/a.db"))
    assert message == (
        "environment BACKUPD_DATABASE: must be UTF-8 text: manifests and the catalog cannot store other bytes\n"
        "environment: backups_dir: must be UTF-8 text: manifests and the catalog cannot store other bytes"
    )


def test_text_of_wrong_type_is_refused() -> None:
    assert refusal(DATABASE="/a.db", DRILL__COMMAND="\udcff").endswith("DRILL__COMMAND: must be UTF-8 text")


# --- Not TOML ---


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (SOURCE + "[retention\n", 3),
        (SOURCE + 'a = """\nb\n', 4),
        (f"{SOURCE}{SOURCE}", 3),
        ("a = [1,\n\n", 1),
    ],
)
def test_syntax_error_is_reported_with_line_and_with_errors_of_environment(
    toml: str, line: int, tmp_path: Path
) -> None:
    first, second = refusal(toml, tmp_path, DATABSE="/a.db").split("\n")
    assert first.startswith(f"FILE:{line}: is not valid TOML: ")
    assert "(at" not in first
    assert second.startswith("environment BACKUPD_DATABSE: unknown name")


def test_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "backupd.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=f"{file}: is not UTF-8 text"):
        load_config(file, {})


# --- No secret in a message ---


@pytest.mark.parametrize(
    "toml",
    [
        '[http]\ntoken = ["hunter2"]',
        '[http]\ntoken.value = "hunter2"',
        '[http]\ntokn = "hunter2"',
        'http = "hunter2"',
        "pings = ['hunter2']",
        "[pings]\na = { b = 'hunter2' }",
        "[notify]\nurls = { a = 'hunter2' }",
        "[notify]\nurls = ['', 'hunter2']",
        "[notify]\nurls = '[hunter2'",
        "[replicas.x]\nurl = 'sftp://user:hunter2@nas/'",
        "[replicas.x]\nurl = 'sftp://user:hunter2@[nas'",
        "[replicas.x]\nurl = '/mnt'\npassword = 5\npassphrase = ''\nprivate_key = ['hunter2']",
        "replicas.x = 'hunter2'",
        "password = 'hunter2'",
        "[http]\ntoken = 'hunter2",
    ],
)
def test_invalid_or_misplaced_secret_is_not_shown(toml: str, tmp_path: Path) -> None:
    above = "backups_dir = '/b'\nsources.tasks.path = '/a.db'\n"
    assert "hunter2" not in refusal(above + toml, tmp_path)


def test_secret_of_wrong_type_is_reported_without_value(tmp_path: Path) -> None:
    assert refusal(f"{SOURCE}[http]\ntoken = 12345\n", tmp_path) == "FILE:4: http.token: must be text, in quotes"
