"""A directory in the place of a database means what is below it; the only one has the name of the section or file."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.daemon.main import OwnerHandover
from backupd.errors import ConfigError
from backupd.log import null_log
from backupd.sqlite import discovery
from backupd.system import mounts
from support.command import Backupd
from support.directories import through_fuse
from support.processes import serving, stopped, wait_until


def make_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE task(id)")
    return path


def paths_of(environ: dict[str, str], cwd: Path, file: Path | None = None) -> dict[str, str]:
    config = load_config(file, environ, cwd)
    return {name: str(source.path) for name, source in config.sources.items()}


@pytest.mark.parametrize("end", ["", "/"])
def test_source_is_named_after_the_file_that_was_found(tmp_path: Path, end: str) -> None:
    database = make_database(tmp_path / "data" / "app" / "gitea.db")
    environ = {"BACKUPD_DATABASE": f"{tmp_path}/data{end}", "BACKUPD_SOURCES__GITEA__METHOD": "vacuum"}
    assert paths_of(environ, tmp_path) == {"gitea": str(database)}
    config = load_config(None, environ, tmp_path)
    assert config.backups_dir == tmp_path / "data" / "backups"
    assert config.sources["gitea"].method == "vacuum"


def test_named_source_keeps_its_name(tmp_path: Path) -> None:
    database = make_database(tmp_path / "data" / "x.db")
    file = tmp_path / "config.toml"
    file.write_text('[sources.shop]\npath = "data"\n')
    assert paths_of({}, tmp_path, file) == {"shop": str(database)}


def test_directory_may_stand_beside_single_files(tmp_path: Path) -> None:
    database = make_database(tmp_path / "data" / "x.db")
    file = tmp_path / "config.toml"
    file.write_text('backups_dir = "b"\n[sources.shop]\npath = "data"\n[sources.other]\npath = "other.db"\n')
    assert paths_of({}, tmp_path, file) == {"shop": str(database), "other": f"{tmp_path}/other.db"}


def test_backup_of_a_directory_backs_up_its_database(backupd: Backupd, database: Path) -> None:
    answer = backupd("backup", "--json", BACKUPD_DATABASE=str(database.parent))
    assert answer.code == 0, answer
    assert backupd("verify").code == 0


def test_new_database_beside_one_with_generations_is_backed_up_and_names_stay(backupd: Backupd, database: Path) -> None:
    there = {"BACKUPD_DATABASE": str(database.parent)}
    assert backupd("backup", **there).code == 0
    make_database(database.parent / "jobs" / "cache.db")
    assert backupd("backup", **there).code == 0
    assert {row["source"] for row in backupd("list", "--json").json} == {"tasks", "jobs-cache"}
    doctor = backupd("doctor", **there)
    assert "2 databases: jobs-cache = jobs/cache.db, tasks = tasks.db" in doctor.out
    assert "without a backup" not in doctor.out


def test_database_that_vanished_fails_until_it_is_excluded_and_its_generations_stay(
    backupd: Backupd, database: Path
) -> None:
    there = {"BACKUPD_DATABASE": str(database.parent)}
    once = backupd("backup", "--no-pin", "--json", **there).json["generation"]
    for path in database.parent.glob("tasks.db*"):
        path.unlink()
    make_database(database.with_name("other.db"))
    answer = backupd("backup", **there)
    assert answer.code == 1
    assert f"no database at {database}; it was copied as {once}, and nothing is pruned" in answer.err
    variable = "BACKUPD_SOURCES__DATA__EXCLUDE" if database.parent.name == "data" else "__EXCLUDE"
    assert "name /tasks.db in exclude of [sources." in answer.err
    assert variable in answer.err
    assert {row["source"] for row in backupd("list", "--json").json} == {"tasks", "other"}
    status = backupd("status", **there)
    assert status.code == 1
    assert "the database of tasks is missing" in status.out
    last = {"BACKUPD_RETENTION__LAST": "1", "BACKUPD_RETENTION__DAILY": "0", "BACKUPD_RETENTION__WEEKLY": "0"}
    backupd("prune", **there, **last, BACKUPD_RETENTION__WITHIN="0")
    assert backupd("verify", once, **there).code == 0
    name = database.parent.name.upper().replace("-", "_")
    excluded = {f"BACKUPD_SOURCES__{name}__EXCLUDE": "tasks.db"}
    answer = backupd("backup", "--json", **there, **excluded)
    assert answer.code == 0, answer
    assert answer.json["source"] == "other"


def test_lost_database_in_searched_directory_is_restored_to_former_path(backupd: Backupd, database: Path) -> None:
    there = {"BACKUPD_DATABASE": str(database.parent)}
    assert backupd("backup", **there).code == 0
    for path in database.parent.glob("tasks.db*"):
        path.unlink()
    assert backupd("restore", **there).code == 0
    assert database.is_file()


def test_generation_of_a_database_elsewhere_is_not_chosen(backupd: Backupd, tmp_path: Path) -> None:
    assert backupd("backup").code == 0
    other = make_database(tmp_path / "other" / "x.db")
    (tmp_path / "empty").mkdir()
    backups = {"BACKUPD_BACKUPS_DIR": backupd.environ["BACKUPD_BACKUPS_DIR"]}
    assert paths_of({"BACKUPD_DATABASE": str(other.parent), **backups}, tmp_path) == {"x": str(other)}
    empty = {"BACKUPD_DATABASE": str(tmp_path / "empty"), **backups}
    assert paths_of(empty, tmp_path) == {"empty": str(tmp_path / "empty")}


@pytest.mark.root
def test_unresponsive_mount_is_not_waited_for_and_keeps_its_database(
    backupd: Backupd, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "RESPONDS_S", 0.5)
    monkeypatch.setattr(discovery, "_LOOK_S", 1.0)
    backups = {"BACKUPD_BACKUPS_DIR": str(tmp_path / "store")}
    with through_fuse(database.parent) as mount:
        there = {"BACKUPD_DATABASE": str(mount)}
        assert backupd("backup", **there, **backups, BACKUPD_SOURCES__TASKS__NETWORK_FS="allow").code == 0
        with stopped(serving(mount)):
            assert paths_of({**there, **backups}, tmp_path) == {"tasks": str(mount / "tasks.db")}
            with pytest.raises(ConfigError, match=f"{mount} does not respond within"):
                load_config(None, there, tmp_path)
            file = {"BACKUPD_DATABASE": str(mount / "tasks.db"), **backups}
            assert paths_of(file, tmp_path) == {"tasks": str(mount / "tasks.db")}


def test_daemon_without_database_searches_until_database_appears(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    config = load_config(None, {"BACKUPD_DATABASE": str(tmp_path / "data")}, tmp_path)
    handover = OwnerHandover(config, null_log())
    assert not handover.ready()
    database = make_database(tmp_path / "data" / "tasks.db")
    wait_until(handover.ready)
    assert handover.reason == f"the database {database} was found"
    assert {name: source.path for name, source in handover.config.sources.items()} == {"tasks": database}
    assert handover.config.backups_dir == tmp_path / "data" / "backups"
    assert not handover.ready()


def test_daemon_is_not_restarted_for_a_new_database_while_a_run_goes_on(tmp_path: Path) -> None:
    make_database(tmp_path / "data" / "tasks.db")
    config = load_config(None, {"BACKUPD_DATABASE": str(tmp_path / "data")}, tmp_path)
    runs: list[str] = ["backup"]
    handover = OwnerHandover(config, null_log(), idle=lambda: not runs)
    make_database(tmp_path / "data" / "cache.db")
    assert not handover.ready()
    runs.clear()
    wait_until(handover.ready)
    assert [*handover.config.sources] == ["cache", "tasks"]


def test_daemon_is_not_restarted_for_a_database_that_vanished_with_generations(
    backupd: Backupd, database: Path, tmp_path: Path
) -> None:
    there = {"BACKUPD_DATABASE": str(database.parent), "BACKUPD_BACKUPS_DIR": backupd.environ["BACKUPD_BACKUPS_DIR"]}
    handover = OwnerHandover(load_config(None, there, tmp_path), null_log())
    assert backupd("backup", **there).code == 0
    database.unlink()
    before = handover.config.source_sets
    wait_until(lambda: handover.ready() or handover.config.source_sets != before)
    assert not handover.ready()
    assert handover.reason == "the owner of the databases has changed"
    assert [*handover.config.sources] == ["tasks"]
