"""The version file in the volume of a compromised app: no file of root is disclosed, nothing blocks or grows."""

import os
from pathlib import Path

import pytest

from backupd.notifications.deploy import App, check_app
from support.daemon import free_port

pytestmark = pytest.mark.root
APP = 1234


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The app's directory, beside a file of root's."""
    (tmp_path / "secret").write_text("root's secret\n")
    (tmp_path / "secret").chmod(0o600)
    volume = tmp_path / "data"
    volume.mkdir()
    os.chown(volume, APP, APP)
    return volume


def version_of(path: Path) -> str | None:
    """Return the version that messages would name; the app itself does not answer."""
    return check_app(App(f"http://127.0.0.1:{free_port()}/", version_file=path)).version


def owned(path: Path) -> Path:
    os.chown(path, APP, APP, follow_symlinks=False)
    return path


def test_version_is_read_from_file_and_through_link_of_its_owner(volume: Path) -> None:
    (volume / "VERSION").write_text("1.2.3\nand more\n")
    owned(volume / "VERSION")
    (volume / "current").symlink_to("VERSION")
    assert version_of(owned(volume / "VERSION")) == "1.2.3"
    assert version_of(owned(volume / "current")) == "1.2.3"


def test_link_of_app_to_file_of_root_is_not_read(volume: Path) -> None:
    (volume / "VERSION").symlink_to("../secret")
    assert version_of(owned(volume / "VERSION")) is None
    (volume / "directory").symlink_to("..")
    owned(volume / "directory")
    assert version_of(volume / "directory" / "secret") is None


def test_pipe_device_and_endless_file_are_skipped_at_once(volume: Path) -> None:
    os.mkfifo(volume / "pipe")
    os.mknod(volume / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    with (volume / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    for name in ("pipe", "zero", "sparse", "missing"):
        assert version_of(volume / name) is None
