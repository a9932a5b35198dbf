"""The databases of a directory are restored on a new machine, where nothing but their copies tells which there were."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.command import Backupd
from support.hardened import APP, GROUP, volumes

RAILS = ("production", "production_cache", "production_queue", "production_cable")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The volume of an app with four databases in a directory of it."""
    for number, name in enumerate(RAILS):
        path = tmp_path / "volume" / "storage" / f"{name}.sqlite3"
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE task(id)")
            database.executemany("INSERT INTO task VALUES (?)", [(one,) for one in range(number + 1)])
            database.commit()
    return tmp_path / "volume"


@pytest.fixture
def there(app: Path, tmp_path: Path) -> dict[str, str]:
    return {"BACKUPD_DATABASE": str(app), "BACKUPD_REPLICAS__OFFSITE__URL": f"file:{tmp_path}/offsite"}


def rows(app: Path) -> list[int]:
    """Return the rows of each database."""
    found = []
    for name in RAILS:
        with closing(sqlite3.connect(f"file:{app}/storage/{name}.sqlite3?mode=ro", uri=True)) as database:
            found.append(database.execute("SELECT count(*) FROM task").fetchone()[0])
    return found


def lose(app: Path, backups: Path) -> None:
    """Lose the machine: an empty volume is what is left."""
    shutil.rmtree(app)
    shutil.rmtree(backups)
    app.mkdir()


def test_all_databases_come_back_on_a_new_machine_with_their_directory(
    backupd: Backupd, app: Path, backups: Path, there: dict[str, str]
) -> None:
    assert backupd("backup", **there).code == 0
    assert backupd("replicate", **there).code == 0
    mode = (app / "storage").stat().st_mode
    lose(app, backups)
    answer = backupd("restore", "--if-missing", "--json", **there)
    assert answer.code == 0, answer
    assert {one["source"]: one["outcome"] for one in answer.json} == {f"storage-{name}": "restored" for name in RAILS}
    assert rows(app) == [1, 2, 3, 4]
    assert (app / "storage").stat().st_mode == mode
    again = backupd("restore", "--if-missing", "--json", **there)
    assert {one["outcome"] for one in again.json} == {"there"}


def test_one_database_comes_back_by_its_name_from_a_replica(
    backupd: Backupd, app: Path, backups: Path, there: dict[str, str]
) -> None:
    assert backupd("backup", **there).code == 0
    assert backupd("replicate", **there).code == 0
    lose(app, backups)
    answer = backupd("restore", "--from", "offsite", "--source", "storage-production_queue", **there)
    assert answer.code == 0, answer
    assert [path.name for path in (app / "storage").iterdir()] == ["production_queue.sqlite3"]


def test_very_first_start_has_nothing_to_restore(backupd: Backupd, tmp_path: Path, there: dict[str, str]) -> None:
    (tmp_path / "empty").mkdir()
    first = {**there, "BACKUPD_DATABASE": str(tmp_path / "empty")}
    answer = backupd("restore", "--if-missing", "--allow-none", **first)
    assert answer.code == 0, answer
    assert "nothing to restore" in answer.out
    refused = backupd("restore", "--if-missing", **first)
    assert refused.code == 1
    assert "on the very first start: --allow-none" in refused.err


def test_copies_of_another_directory_are_not_restored_into_this_one(
    backupd: Backupd, app: Path, backups: Path, tmp_path: Path, there: dict[str, str]
) -> None:
    assert backupd("backup", **there).code == 0
    assert backupd("replicate", **there).code == 0
    lose(app, backups)
    (tmp_path / "other").mkdir()
    answer = backupd("restore", "--if-missing", **{**there, "BACKUPD_DATABASE": str(tmp_path / "other")})
    assert answer.code == 1
    assert "no source of that name is configured" in answer.err
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.root
def test_fresh_volume_and_directories_made_in_it_belong_to_the_app_in_a_hardened_container() -> None:
    with volumes(mode=0o755) as made:
        storage = made.data / "storage"
        storage.mkdir()
        main = made.database.rename(storage / "main.db")
        os.chown(storage, APP, GROUP)
        assert made.backupd("backup", BACKUPD_DATABASE=str(made.data)).code == 0
        shutil.rmtree(made.data)
        made.data.mkdir()
        answer = made.backupd("restore", "--if-missing", BACKUPD_DATABASE=str(made.data))
        assert answer.code == 0, answer
        assert {path.stat().st_uid for path in (made.data, storage, main)} == {APP}
        assert storage.stat().st_mode & 0o777 == 0o755
        assert main.stat().st_gid == GROUP


@pytest.mark.root
def test_database_of_another_user_in_the_directory_costs_no_backup_of_the_others() -> None:
    with volumes(mode=0o777) as made:
        there = {"BACKUPD_DATABASE": str(made.data)}
        assert made.backupd("backup", **there).code == 0
        for name in ("a", "b"):
            planted = made.data / f"{name}.db"
            shutil.copy(made.database, planted)
            os.chown(planted, 4711, 4711)
            planted.chmod(0o600)
        for _ in range(2):
            answer = made.backupd("backup", "--json", **there)
            assert answer.code != 78, answer
            outcomes = {one["source"]: one["outcome"] for one in answer.json}
            assert outcomes == {"tasks": "unchanged", "a": "failed", "b": "failed"}
