"""A database mounted without its directory: its WAL is elsewhere, and no copy of it is complete."""

from pathlib import Path

import pytest

from support.app import running_app
from support.backup_runs import BackUp
from support.bank import make_bank
from support.directories import contents, mounted, rows
from support.snapshots import Take

ALONE = "is mounted without its directory"
pytestmark = pytest.mark.root


@pytest.fixture
def app_data(tmp_path: Path) -> Path:
    """The directory of the app on the host, with its database."""
    directory = tmp_path / "host"
    directory.mkdir()
    make_bank(directory / "tasks.db")
    return directory


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """The directory where backupd sees the database: empty yet."""
    directory = tmp_path / "seen"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("name", ["tasks.db", "other.db"])
def test_database_mounted_without_directory_is_refused_with_mount_to_use(
    app_data: Path, seen: Path, back_up: BackUp, name: str
) -> None:
    with running_app(app_data / "tasks.db") as app, mounted(app_data / "tasks.db", seen / name) as path:
        app.sql("CREATE TABLE only_in_the_wal(a)")
        before = contents(app_data)
        result = back_up(path, allow_links=True)
        assert result.outcome == ("failed", 1)
        assert ALONE in result.error
        assert f"-v {app_data}:{seen}" in result.hint
        assert (f"where the database is {seen}/tasks.db" in result.hint) == (name != "tasks.db")
        assert (result.generations, contents(app_data), [*seen.iterdir()]) == ({}, before, [path])


def test_mounted_file_replaced_on_host_is_refused_with_mount_to_use(
    app_data: Path, seen: Path, back_up: BackUp
) -> None:
    with mounted(app_data / "tasks.db", seen / "tasks.db") as path:
        make_bank(app_data / "new.db")
        (app_data / "new.db").rename(app_data / "tasks.db")
        assert f"-v {app_data}:{seen} " in back_up(path).hint


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_side_file_mounted_alone_is_refused(app_data: Path, tmp_path: Path, back_up: BackUp, suffix: str) -> None:
    (tmp_path / "side").touch()
    with mounted(tmp_path / "side", app_data / f"tasks.db{suffix}") as point:
        assert f"{point} {ALONE}" in back_up(app_data / "tasks.db").error


def test_second_mount_of_database_is_refused_unless_allowed(app_data: Path, seen: Path, back_up: BackUp) -> None:
    with mounted(app_data / "tasks.db", seen / "tasks.db") as other:
        result = back_up(app_data / "tasks.db")
        assert result.outcome == ("failed", 1)
        assert f"is also mounted as {other}" in result.error
        assert back_up(app_data / "tasks.db", allow_links=True).outcome == ("published", 0)
    assert back_up(app_data / "tasks.db").outcome == ("unchanged", 0)


def test_app_with_file_mounted_alone_in_its_container_is_detected(
    app_data: Path, tmp_path: Path, back_up: BackUp
) -> None:
    (tmp_path / "container").mkdir()
    inside = tmp_path / "container" / "tasks.db"
    inside.touch()
    script = f'mount --bind {app_data}/tasks.db {inside} && exec "$@"'
    assert back_up(app_data / "tasks.db").outcome == ("published", 0)  # which leaves an empty WAL there
    with running_app(inside, through=["unshare", "-m", "sh", "-c", script, "sh"]) as app:
        app.sql("CREATE TABLE only_in_the_wal(a)")
        assert (inside.parent / "tasks.db-wal").stat().st_size > 0
        result = back_up(app_data / "tasks.db")
        assert result.outcome == ("failed", 1)
        assert "its WAL is not beside this path: it opened the file by another name" in result.error
        assert f"-v DIRECTORY:{app_data}" in result.hint
    assert back_up(app_data / "tasks.db").outcome == ("published", 0)


def test_link_into_mounted_directory_is_followed_and_link_to_mounted_file_is_refused(
    app_data: Path, seen: Path, tmp_path: Path, take: Take, back_up: BackUp
) -> None:
    link = tmp_path / "link.db"
    with running_app(app_data / "tasks.db") as app, mounted(app_data, tmp_path / "volume") as volume:
        app.sql("CREATE TABLE only_in_the_wal(a)")
        link.symlink_to(volume / "tasks.db")
        assert rows(take(link).file.path, "SELECT count(*) FROM only_in_the_wal") == [(0,)]
        link.unlink()
        with mounted(app_data / "tasks.db", seen / "tasks.db") as path:
            link.symlink_to(path)
            assert f"{path} {ALONE}" in back_up(link).error


def test_directory_created_by_docker_for_missing_file_is_explained(tmp_path: Path, seen: Path, back_up: BackUp) -> None:
    (tmp_path / "missing.db").mkdir()
    with mounted(tmp_path / "missing.db", seen / "tasks.db") as path:
        result = back_up(path)
    assert f"{path} is a directory" in result.error
    assert "Docker creates a directory" in result.hint
