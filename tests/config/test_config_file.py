"""Which file is read, and errors of files that cannot be."""

from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.config.file import read_document
from backupd.errors import ConfigError

DATABASE = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
SOURCE = '[sources.tasks]\npath = "/app/data/tasks.db"\n'


def test_missing_requested_file_is_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=f"configuration file {missing} does not exist") as caught:
        load_config(missing, DATABASE)
    assert caught.value.hint == "check --config"
    with pytest.raises(ConfigError, match=f"configuration file {missing} does not exist") as caught:
        load_config(None, {"BACKUPD_CONFIG": "missing.toml"}, tmp_path)
    assert caught.value.hint == "check BACKUPD_CONFIG"


def test_files_are_searched_in_documented_order(tmp_path: Path) -> None:
    names = ("explicit", "named", "system", "backupd.toml")
    explicit, named, system, local = files = [tmp_path / name for name in names]
    for file in files:
        file.write_text(SOURCE)
    environ = {"BACKUPD_CONFIG": str(named)}
    assert read_document(Path("explicit"), environ, tmp_path, system).file == explicit
    assert read_document(None, environ, tmp_path, system).file == named
    assert read_document(None, {"BACKUPD_CONFIG": ""}, tmp_path, system).file == system
    assert load_config(None, environ, tmp_path).origin == str(named)
    system.unlink()
    assert read_document(None, {}, tmp_path, system).file == local
    local.unlink()
    assert read_document(None, {}, tmp_path, system).file is None


def test_inaccessible_file_is_error_and_not_skipped(tmp_path: Path) -> None:
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match=r"cannot read .*loop.toml: Too many levels"):
        read_document(None, {}, tmp_path, system_file=loop)
    with pytest.raises(ConfigError, match=r"cannot read .*loop.toml: Too many levels"):
        load_config(loop, DATABASE)


def test_directory_as_configuration_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}: a directory, not a regular file"):
        load_config(tmp_path, DATABASE)


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "backupd.toml"
    file.write_bytes(b"\xef\xbb\xbf" + SOURCE.replace("\n", "\r\n").encode())
    assert set(load_config(file, {}).sources) == {"tasks"}
