"""Sets of files in the configuration: what they must be, and the requests that are made of them."""

from pathlib import Path

import pytest

from backupd.bootstrap.tasks import files_request
from backupd.config import Config, load_config
from backupd.errors import ConfigError

NOWHERE = Path("/nonexistent")
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'
OTHER = '[sources.users]\npath = "/app/data/users.db"\n'
FILES = '[files.uploads]\npath = "/app/data/uploads"\n'


def load(tmp_path: Path, toml: str, **names: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(toml, encoding="utf-8")
    return load_config(file, {f"BACKUPD_{name}": value for name, value in names.items()}, NOWHERE)


def test_request_of_files_has_only_source_and_leaves_all_databases_out(tmp_path: Path) -> None:
    config = load(tmp_path, SOURCE + FILES + 'exclude = ["*.tmp", "/cache/"]\nquery = "SELECT 1"\n')
    request = files_request(config, "uploads")
    assert (request.source, request.path, request.exclude) == (
        "uploads",
        Path("/app/data/uploads"),
        ("*.tmp", "/cache/"),
    )
    assert (request.database, request.query) == ("tasks", "SELECT 1")
    assert request.databases == (Path("/app/data/tasks.db"),)


def test_set_of_files_without_with_has_no_database_among_several(tmp_path: Path) -> None:
    assert files_request(load(tmp_path, SOURCE + OTHER + FILES), "uploads").database == ""
    named = load(tmp_path, SOURCE + OTHER + FILES + 'with = "users"\nquery = "SELECT 1"\n')
    assert files_request(named, "uploads").database == "users"


def test_set_of_files_can_be_configured_by_environment_alone(tmp_path: Path) -> None:
    names = {"PATH": "up", "EXCLUDE": "*.tmp, /cache/", "WITH": "tasks", "TIMEOUT_S": "5"}
    environ = {f"BACKUPD_FILES__MY_UPLOADS__{name}": value for name, value in names.items()}
    config = load_config(None, {"BACKUPD_DATABASE": "/app/data/tasks.db"} | environ, tmp_path)
    request = files_request(config, "my_uploads")
    assert (request.path, request.exclude, request.timeout_s) == (tmp_path / "up", ("*.tmp", "/cache/"), 5)


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        (SOURCE + "[files.uploads]", "3: files.uploads.path: is required"),
        (SOURCE + FILES + "exclude = 5", "5: files.uploads.exclude: must be a list of texts"),
        (SOURCE + FILES + 'exclude = ["!a"]', "'!a' would include again what another pattern excludes"),
        (SOURCE + FILES + 'exclude = ["../a"]', "'../a' is not a pattern such as"),
        (SOURCE + FILES + 'exclude = ["/"]', "'/' is not a pattern such as"),
        (SOURCE + FILES + 'with = "users"', "files: uploads: with: unknown source 'users'; known sources: tasks"),
        (SOURCE + OTHER + FILES + 'query = "SELECT 1"', "files: uploads: query: needs with"),
        (SOURCE + FILES + '[files.b]\npath = "/app/data/uploads/b"', "b is in the directory of uploads, /app/data/u"),
        (SOURCE + FILES + '[files.b]\npath = "/app/data/./uploads"', "is in the directory of (uploads|b), "),
        (SOURCE + FILES + '[files.Uploads]\npath = "/x"', "files: two names differ only in case"),
        (SOURCE + '[files.Tasks]\npath = "/x"', "files: Tasks: tasks is a source in .sources. already: rename one"),
        (SOURCE + '[files.a]\npath = "/app/data/backups"', "files: a: /app/data/backups is in backups_dir"),
        (SOURCE + '[files.a]\npath = "/app/data/backups/files"', "files: a: /app/data/backups/files is in backups_dir"),
        (SOURCE + '[files.a]\npath = "/app/data/tasks.db-wal"', "files: a: .* is a side file of source tasks"),
        (SOURCE + '[files.point]\npath = "/x"', "files.point: 'point' is reserved for restore points"),
        ('[sources.Point]\npath = "/app/data/tasks.db"', "sources.Point: 'point' is reserved for restore points"),
    ],
)
def test_set_of_files_that_contradicts_itself_or_the_rest_is_refused(toml: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, toml)


def test_ping_of_a_set_of_files_is_accepted(tmp_path: Path) -> None:
    config = load(tmp_path, SOURCE + FILES, PINGS__BACKUP_UPLOADS="https://hc-ping.com/1")
    assert list(config.pings) == ["backup_uploads"]
