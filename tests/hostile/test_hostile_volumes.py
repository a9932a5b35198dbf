"""A volume that was filled to mislead or to stop the look for its database: bounded, and never the wrong one."""

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from backupd.sqlite.discovery import Search
from support.command import Backupd
from support.directories import through_fuse
from support.hardened import volumes
from support.processes import children_of, command_line, serving, stopped, wait_until


def databases_of(directory: Path) -> list[str]:
    contents = Search("app", directory).contents()
    assert contents is not None
    return contents.databases


def test_search_of_too_many_directories_ends_and_reports_it(database: Path) -> None:
    crowd = database.parent / "crowd"
    crowd.mkdir()
    for first in range(102):
        for second in range(100):
            (crowd / f"{first:03}" / f"{second:02}").mkdir(parents=True)
    began = time.monotonic()
    contents = Search("app", database.parent).contents()
    assert time.monotonic() - began < 30
    assert contents is not None
    assert contents.too_many
    assert "more than 10000 files and directories" in Search("app", database.parent).failure().message


def test_endless_depth_is_not_followed(database: Path) -> None:
    deep = database.parent
    for _ in range(200):
        deep /= "d"
        deep.mkdir()
    (deep / "loop").symlink_to(database.parent)
    assert databases_of(database.parent) == [database.name]


def test_constantly_renamed_database_is_found_or_missed_and_never_another_one(database: Path) -> None:
    ended = Event()

    def rename() -> None:
        while not ended.is_set():
            database.rename(database.with_name("away.db"))
            database.with_name("away.db").rename(database)

    app = Thread(target=rename)
    app.start()
    try:
        found = {name for _ in range(5) for name in databases_of(database.parent)}
    finally:
        ended.set()
        app.join()
    assert found <= {database.name, "away.db"}
    assert databases_of(database.parent) == [database.name]


def test_link_replacing_found_database_is_not_backed_up(backupd: Backupd, database: Path, tmp_path: Path) -> None:
    there = {"BACKUPD_DATABASE": str(database.parent)}
    assert backupd("backup", **there).code == 0
    other = database.rename(tmp_path / "other.db")
    database.symlink_to(other)
    if os.geteuid() == 0:
        os.chown(other, 4711, 4711)
    answer = backupd("backup", **there)
    assert answer.code == 1
    assert "no database" in answer.err or "link" in answer.err


def searching() -> list[int]:
    """Return the processes of this one that search a volume."""
    return [child for child in children_of(os.getpid()) if b"worker.discovery" in command_line(child)]


@pytest.mark.root
def test_process_that_searches_volume_has_no_secret(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPD_HTTP__TOKEN", "s3cr3t-0f-th3-pag3")
    with through_fuse(database.parent) as mount, ThreadPoolExecutor(1) as pool:
        with stopped(serving(mount)):  # so that it waits
            looking = pool.submit(databases_of, mount)
            wait_until(lambda: bool(searching()))
            (child,) = searching()
            environ = Path(f"/proc/{child}/environ").read_bytes()
        assert looking.result() == [database.name]
    assert b"PATH=" in environ
    assert b"s3cr3t" not in environ


@pytest.mark.root
def test_private_volume_is_searched_with_four_capabilities() -> None:
    with volumes(mode=0o700) as private:
        answer = private.backupd("backup", "--json", BACKUPD_DATABASE=str(private.data))
        assert answer.code == 0, answer
        assert answer.json["source"] == "tasks"


@pytest.mark.parametrize(
    ("name", "code", "said"), [("shop.db", 1, "no database at"), ("tasks.db", 3, "nothing is pruned")]
)
def test_second_app_with_path_and_store_of_first_costs_no_backup_of_first(
    backupd: Backupd, database: Path, name: str, code: int, said: str
) -> None:
    there = {"BACKUPD_DATABASE": str(database.parent)}
    first = backupd("backup", "--json", **there).json["generation"]
    for path in database.parent.glob("tasks.db*"):
        path.unlink()
    with closing(sqlite3.connect(database.with_name(name))) as app:
        app.execute("CREATE TABLE other(id)")
    for _ in range(2):
        answer = backupd("backup", **there)
        assert answer.code == code, answer
        assert said in answer.err
    assert backupd("verify", first, **there).code == 0
