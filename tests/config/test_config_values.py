"""Values damaged on their way: leftover quotes, blanks and line ends, commas, URLs in place of paths."""

from pathlib import Path

import pytest

from backupd.config import Config, config_digest, load_config, mask_of, secrets_of, to_toml, toml_value
from backupd.config.schema import all_keys
from backupd.errors import ConfigError

NOWHERE = Path("/no/such/directory")
DATABASE = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
EVERY_NAME = [
    f"BACKUPD_{'__'.join(key.path).upper().replace('*', 'X')}{suffix}"
    for key in all_keys()
    for suffix in (("", "_FILE") if key.is_secret else ("",))
]
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\r\nAAAA\r\n-----END OPENSSH PRIVATE KEY-----"


def load(**names: str) -> Config:
    """Load from the environment alone; names come without their prefix."""
    return load_config(None, DATABASE | {f"BACKUPD_{name}": value for name, value in names.items()}, NOWHERE)


def refusal(**names: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**names)
    return caught.value.message


# --- Quotes ---


@pytest.mark.parametrize("name", ["BACKUPD_CONFIG", "BACKUPD_DATABASE", *EVERY_NAME])
def test_quotes_around_value_are_refused_by_name_without_value(name: str) -> None:
    told = refusal(**{name.removeprefix("BACKUPD_"): '"hunter2"'})
    assert told.startswith(f"environment {name}: has quotes around its value, which `docker --env-file` keeps")
    assert "hunter2" not in told


@pytest.mark.parametrize("value", ["'7'", "`7`", '"7" # days', "\u201c7\u201d", "\u201e7\u201c", ' "7"\r'])
def test_quotes_of_any_kind_are_recognised(value: str) -> None:
    assert "BACKUPD_RETENTION__DAILY: has quotes around its value" in refusal(RETENTION__DAILY=value)


def test_command_may_begin_and_end_with_quoted_words() -> None:
    assert load(DRILL__COMMAND="'/opt/my app' 'x y'").drill.command == "'/opt/my app' 'x y'"
    assert "has quotes" in refusal(DRILL__COMMAND='"/opt/app x"')


# --- Blanks and line ends ---


@pytest.mark.parametrize("end", [" ", "\r", "\n", "\r\n", "\t", " \n"])
def test_blanks_and_line_ends_around_value_are_ignored(end: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2-hunter2-hunter2\n")
    config = load(
        DATABASE=f"/app/data/tasks.db{end}",
        RETENTION__DAILY=f"5{end}",
        SCHEDULE__BACKUP=f"03:00{end}",
        SCHEDULE__TIMEZONE=f"Europe/Berlin{end}",
        HTTP__TOKEN_FILE=f"{tmp_path}/token{end}",
        REPLICAS__NAS__URL=f"sftp://u@nas/p{end}",
        REPLICAS__NAS__PRIVATE_KEY=f"{KEY}{end}",
        NOTIFY__URLS=f"ntfy://a{end}",
        PINGS__BACKUP=f"https://hc-ping.com/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0{end}",
    )
    assert config.sources["tasks"].path == Path("/app/data/tasks.db")
    assert (config.retention.daily, config.schedule.backup, config.schedule.timezone) == (5, "03:00", "Europe/Berlin")
    assert config.replicas["NAS".lower()].url == "sftp://u@nas/p"
    assert set(secrets_of(config)) == {
        "hunter2-hunter2-hunter2",
        KEY,
        "ntfy://a",
        "https://hc-ping.com/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
    }


def test_blanks_around_password_are_reported(tmp_path: Path) -> None:
    nas = {"REPLICAS__NAS__URL": "sftp://u@nas/p"}
    (tmp_path / "secret").write_text("hunter2 \r\n")
    by_file = {"REPLICAS__NAS__PASSWORD_FILE": f"{tmp_path}/secret"}
    for told in (refusal(**nas, REPLICAS__NAS__PASSWORD="hunter2 "), refusal(**nas, **by_file)):
        assert "has whitespace at the beginning or end of its value" in told
        assert "hunter2" not in told
    file = tmp_path / "backupd.toml"
    file.write_text("[replicas.nas]\nurl = 'sftp://u@nas/p'\npassword = 'hunter2 '\n")
    assert secrets_of(load_config(file, DATABASE)) == ("hunter2 ",)
    assert secrets_of(load(**nas, REPLICAS__NAS__PASSWORD="hunter2\n")) == ("hunter2",)


def test_blanks_around_path_or_url_in_file_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "backupd.toml"
    file.write_text("sources.tasks.path = '/app/data/tasks.db '\nreplicas.x.url = '/mnt '\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert caught.value.message.split("\n") == [
        f"{file}:1: sources.tasks.path: must not begin or end with whitespace",
        f"{file}:2: replicas.x.url: must not begin or end with whitespace",
    ]


# --- URLs with commas ---


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ("mailtos://u:p@h?to=a@b.c,d@b.c", ["mailtos://u:p@h?to=a@b.c,d@b.c"]),
        ("mailto://u@h?to=a,b,ntfy://x", ["mailto://u@h?to=a,b", "ntfy://x"]),
        ("ntfy://a , ntfys://b\n json://c/,", ["ntfy://a", "ntfys://b", "json://c/"]),
        ("ntfy://a,,ntfy://b", ["ntfy://a", "ntfy://b"]),
        ('["ntfy://a,b"]', ["ntfy://a,b"]),
    ],
)
def test_notification_urls_are_split_only_before_next_url(value: str, urls: list[str]) -> None:
    assert list(secrets_of(load(NOTIFY__URLS=value))) == urls


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("hunter2,ntfy://a", "URL 1 of 2 has no scheme"),
        ("ntfy://hunter2 hunter3 ntfy://b", "URL 1 of 2 (ntfy://…) contains whitespace inside a URL"),
        ('["ntfy://a", "hunter2"]', "URL 2 of 2 has no scheme"),
    ],
)
def test_part_without_url_is_reported_by_number_without_value(value: str, told: str) -> None:
    message = refusal(NOTIFY__URLS=value)
    assert message.startswith(f"environment BACKUPD_NOTIFY__URLS: {told}")
    assert "hunter" not in message


# --- Paths ---


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("sqlite:///app/data/tasks.db", "must be a path alone: write /app/data/tasks.db"),
        ("sqlite:////app/data/tasks.db", "must be a path alone: write /app/data/tasks.db"),
        ("sqlite+aiosqlite:////app/data/tasks.db", "must be a path alone: write /app/data/tasks.db"),
        ("sqlite3:///app/data/tasks.db", "must be a path alone: write /app/data/tasks.db"),
        ("jdbc:sqlite:/app/data/tasks.db", "must be a path alone: write /app/data/tasks.db"),
        ("file:/app/data/tasks.db?mode=ro", "must be a path alone: write /app/data/tasks.db"),
        ("file:///app/data/my%20tasks.db", "must be a path alone: write /app/data/my tasks.db"),
        ("file://localhost/app/data/tasks.db", "must be a path alone: write /app/data/tasks.db"),
        ("Data Source=/app/data/tasks.db;Cache=Shared", "must be a path alone: write /app/data/tasks.db"),
        ("file:./dev.db", "must be a path alone: write the full path of dev.db, such as "),
        ("postgres://app@db/app", "must be a path of this machine, not a URL (postgres://)"),
        ("sqlite://tasks.db", "must be a path alone: write the full path of tasks.db, such as "),
        (r"C:\data\tasks.db", "is a Windows path: write the path of the file on this machine"),
        ("~/data/tasks.db", "begins with '~' or contains a variable, which only a shell expands"),
        ("${DATA}/tasks.db", "begins with '~' or contains a variable, which only a shell expands"),
    ],
)
def test_database_at_url_is_refused_with_path_to_write(value: str, told: str, tmp_path: Path) -> None:
    assert refusal(DATABASE=value).startswith(f"environment BACKUPD_DATABASE: {told}")
    file = tmp_path / "backupd.toml"
    file.write_text(f"sources.tasks.path = '{value}'\nbackups_dir = '{value}'\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    first, second = caught.value.message.split("\n")
    assert first.startswith(f"{file}:1: sources.tasks.path: {told}")
    assert second.startswith(f"{file}:2: backups_dir: {told}")


# --- Address of the documentation ---


@pytest.mark.parametrize("url", ["https://wiki.example/backupd", "https://wiki.example/backupd/"])
def test_address_of_documentation_is_kept_without_slash_at_its_end(url: str) -> None:
    assert load(DOCS_URL=url).docs_url == "https://wiki.example/backupd"


@pytest.mark.parametrize("url", ["/docs", "https://wiki.example/b?page=1", "https://wiki.example/b#top"])
def test_address_of_documentation_to_which_no_page_can_be_added_is_refused(url: str) -> None:
    assert "environment BACKUPD_DOCS_URL: must be" in refusal(DOCS_URL=url)


def test_address_of_documentation_is_shown_and_changes_no_run() -> None:
    one, other = load(), load(DOCS_URL="https://wiki.example/backupd")
    assert config_digest(one) == config_digest(other)
    assert 'docs_url = "https://wiki.example/backupd"' in to_toml(other)


# --- Hooks ---


@pytest.mark.parametrize(
    "hook",
    [
        "/usr/local/bin/flush --now",
        "'/opt/my app' 'x y'",
        "sh -c 'curl http://app/x?y && true'",
        "http://app:8000/backup?key=k3y",
        "https://[::1]/x",
    ],
)
def test_hook_is_command_or_url(hook: str) -> None:
    config = load(HOOKS__BEFORE=hook, HOOKS__AFTER=hook, HOOKS__TIMEOUT_S="1.5")
    assert (config.hooks.before, config.hooks.after, config.hooks.timeout_s) == (hook, hook, 1.5)
    shown = hook.replace("key=k3y", "[secret]")
    assert f"before = {toml_value(shown)}" in to_toml(config)
    assert mask_of(config)(f"asked for {hook}") == f"asked for {shown}"


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("sh -c 'flush", "must be a command line: No closing quotation"),
        ("bin/flush", "must begin with the full path of the program, or with a name that is found in PATH"),
        ("./flush", "must begin with the full path of the program"),
        ("http://app/x http://app/y", "must be a command line or one URL: a URL has no spaces"),
        ("ftp://app/x", "must be a URL that begins with http:// or https://"),
        ("http:///x", "must be a URL that begins with http:// or https://"),
        ("http://app:99999/x", "must be a URL that begins with http:// or https://"),
        ("http://user@app/x", "must not contain a user name"),
        ("http://user:hunter2@app/x", "must not contain a password"),
    ],
)
def test_invalid_hook_is_refused_without_its_secrets(hook: str, told: str) -> None:
    message = refusal(HOOKS__AFTER=hook)
    assert message.startswith("environment BACKUPD_HOOKS__AFTER: ")
    assert told in message
    assert "hunter2" not in message


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_time_limit_of_hooks_is_positive(seconds: str) -> None:
    assert "environment BACKUPD_HOOKS__TIMEOUT_S: must be" in refusal(HOOKS__TIMEOUT_S=seconds)
