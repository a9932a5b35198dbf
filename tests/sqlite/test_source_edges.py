"""Inputs at the edge: what is no database, what is locked, what goes away (docs/sources.md)."""

import os
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.errors import SourceBusy, SourceMissing, SourceUnusable
from backupd.jobs.backup import backup
from backupd.jobs.order import BackupOrder
from backupd.jobs.site import Site
from backupd.sqlite.snapshot import SnapshotSettings
from support.app import running_app
from support.bank import is_balanced, make_bank
from support.command import log_lines
from support.snapshots import HASTY, Take


class Replacing:
    """Somebody who does something to the file when its copy is half done: the first progress that is told."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def stage(self, _name: str, _total_bytes: int) -> None:
        """Not yet."""

    def advance(self, _done_bytes: int) -> None:
        """Act once."""
        act, self._act = self._act, None
        if act is not None:
            act()


@pytest.mark.parametrize("size", [0, 1])
def test_an_empty_file_is_no_database_unless_it_is_meant_to_be(tmp_path: Path, take: Take, size: int) -> None:
    path = tmp_path / "empty.db"
    path.write_bytes(b"x" * size)
    with pytest.raises(SourceUnusable, match="is empty"):
        take(path)
    copy = take(path, allow_empty=True)
    assert sqlite3.connect(copy.path).execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    "content",
    [
        b"these are words, and no database\n" * 50,
        os.urandom(8192),
        b"SQLite format 3\0",
        b"SQLite format 3\0" + b"\0" * 44,
    ],
    ids=["text", "encrypted", "magic-only", "cut-header"],
)
def test_what_is_not_sqlite_is_refused_as_such(tmp_path: Path, take: Take, content: bytes) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(content)
    with pytest.raises(SourceUnusable, match="encrypted or not a SQLite database"):
        take(path)
    assert path.read_bytes() == content


def test_a_missing_database_is_not_created(tmp_path: Path, take: Take) -> None:
    with pytest.raises(SourceMissing) as refused:
        take(tmp_path / "tasks.db")
    assert "volume" in refused.value.hint
    assert not (tmp_path / "tasks.db").exists()


def test_a_directory_or_a_device_is_refused(tmp_path: Path, take: Take) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path, "a directory"), (tmp_path / "fifo", "no regular file")):
        with pytest.raises(SourceUnusable, match=kind):
            take(path)


@pytest.mark.parametrize("name", ["a?mode=rwc", "b#fragment", "c%20d", "e f.db", "ñ ü.db", b"not-utf8-\xff.db"])
def test_the_very_file_that_was_named_is_copied_and_no_other_made(
    tmp_path: Path, take: Take, name: str | bytes
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    path = directory / os.fsdecode(name)
    make_bank(path, "delete")
    before = sorted(directory.iterdir())
    assert is_balanced(take(path).path)
    assert sorted(directory.iterdir()) == before


def test_a_database_whose_name_is_not_utf8_gets_a_generation(tmp_path: Path, site: Site) -> None:
    path = tmp_path / os.fsdecode(b"tasks-\xff.db")
    make_bank(path)
    report = backup(BackupOrder("tasks", path, reserve_bytes=0), site)
    assert report.outcome == "published", report


def test_a_lock_that_is_held_for_too_long_is_a_temporary_failure(tmp_path: Path, site: Site) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, "delete")
    with running_app(path) as app:
        app.sql("BEGIN EXCLUSIVE")
        report = backup(BackupOrder("tasks", path, HASTY, reserve_bytes=0), site)
        app.sql("COMMIT")
    assert (report.outcome, report.exit_code) == ("failed", 75)
    assert report.hint is not None
    assert "locking_mode=EXCLUSIVE" in report.hint


def test_an_app_with_exclusive_locking_cannot_be_copied_and_is_told_of(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    with running_app(path) as app:
        app.sql("PRAGMA locking_mode=EXCLUSIVE")
        app.sql("INSERT INTO ledger(amount) VALUES (0)")
        with pytest.raises(SourceBusy) as busy:
            take(path)
        assert "NORMAL" in busy.value.hint
        app.sql("INSERT INTO ledger(amount) VALUES (0)")


def test_a_link_is_followed_to_the_file_beside_which_the_wal_lies(tmp_path: Path, take: Take) -> None:
    make_bank(tmp_path / "real.db")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "tasks.db"
    link.symlink_to(tmp_path / "real.db")
    with running_app(tmp_path / "real.db") as app:
        app.sql("CREATE TABLE only_in_the_wal(a)")
        copy = take(link)
    assert sqlite3.connect(copy.path).execute("SELECT count(*) FROM only_in_the_wal").fetchone() == (0,)


def test_a_second_name_is_refused_because_its_wal_is_not_seen(tmp_path: Path, take: Take) -> None:
    make_bank(tmp_path / "tasks.db")
    os.link(tmp_path / "tasks.db", tmp_path / "other.db")
    with pytest.raises(SourceUnusable, match="hard links"):
        take(tmp_path / "tasks.db")
    assert is_balanced(take(tmp_path / "tasks.db", allow_links=True).path)


def test_a_database_replaced_in_the_middle_is_copied_once_more(tmp_path: Path, site: Site) -> None:
    path, spare = tmp_path / "tasks.db", tmp_path / "spare.db"
    make_bank(path, rows=40_000)
    make_bank(spare, rows=500)
    replacing = Replacing(lambda: spare.rename(path))
    report = backup(BackupOrder("tasks", path, reserve_bytes=0), replace(site, progress=replacing))
    assert (report.outcome, report.snapshot_bytes) == ("published", path.stat().st_size)
    assert "snapshot.retried" in [line["event.action"] for line in log_lines(site.store.directory)]


def test_a_database_deleted_in_the_middle_fails_and_is_not_made_again(tmp_path: Path, site: Site) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=40_000)
    report = backup(BackupOrder("tasks", path, reserve_bytes=0), replace(site, progress=Replacing(path.unlink)))
    assert report.outcome == "failed"
    assert not path.exists()


@pytest.mark.parametrize(
    "spoil", [lambda path: os.truncate(path, 8192), lambda path: path.write_bytes(b"\x55" * 9_000_000)]
)
def test_a_database_spoiled_in_place_in_the_middle_is_never_published(
    tmp_path: Path, site: Site, spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=60_000)
    report = backup(BackupOrder("tasks", path, reserve_bytes=0), replace(site, progress=Replacing(lambda: spoil(path))))
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert site.store.list() == ()


def test_every_commit_in_a_large_wal_is_copied_and_the_wal_is_left_as_it_is(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    with running_app(path) as app:
        app.sql("PRAGMA wal_autocheckpoint=0")
        app.sql("CREATE TABLE big AS SELECT randomblob(1000) AS b FROM account, (SELECT 1 UNION SELECT 2)")
        wal = Path(f"{path}-wal")
        before = (path.read_bytes(), wal.read_bytes())
        copy = take(path)
        assert (path.read_bytes(), wal.read_bytes()) == before
    assert sqlite3.connect(copy.path).execute("SELECT count(*) FROM big").fetchone() == (2000,)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("page_size", [512, 65536])
@pytest.mark.parametrize("vacuum", [0, 1, 2])
def test_every_shape_of_database_is_copied_as_it_is(
    tmp_path: Path, take: Take, encoding: str, page_size: int, vacuum: int
) -> None:
    path = tmp_path / "tasks.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA encoding='{encoding}'; PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum};"
        "CREATE TABLE s(a INTEGER, b TEXT) STRICT; CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;"
        "CREATE TABLE g(a, b GENERATED ALWAYS AS (a + 1) VIRTUAL, c AS (a * 2) STORED);"
        "CREATE VIRTUAL TABLE f USING fts5(t); INSERT INTO f VALUES ('hello world');"
        "INSERT INTO s VALUES (1, 'ä'); INSERT INTO w VALUES ('k', x'00'); INSERT INTO g(a) VALUES (7);"
        "PRAGMA user_version=42; PRAGMA application_id=7"
    )
    dump = list(connection.iterdump())
    connection.close()
    copy = take(path)
    assert list(sqlite3.connect(copy.path).iterdump()) == dump
    assert (copy.page_size, copy.user_version, copy.application_id) == (page_size, 42, 7)


def test_a_copy_that_takes_too_long_is_given_up(tmp_path: Path, site: Site) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=60_000)
    report = backup(BackupOrder("tasks", path, SnapshotSettings(timeout_s=1e-6), reserve_bytes=0), site)
    assert report.outcome == "failed"
    assert report.error is not None
    assert "was not copied within" in report.error


def test_a_copy_that_would_eat_the_reserve_of_the_app_is_given_up(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=60_000)
    with pytest.raises(Exception, match="ran low while copying"):
        take(path, replace(HASTY, reserve_bytes=1 << 60))


@pytest.mark.root
def test_a_full_disk_of_the_app_is_told_as_such(tmp_path: Path, take: Take) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        make_bank(disk / "tasks.db")
        subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}"], stderr=subprocess.DEVNULL, check=False)
        with pytest.raises(Exception, match=r"full|could not be copied|cannot be opened"):
            take(disk / "tasks.db")
        assert (disk / "tasks.db").exists()
    finally:
        subprocess.run(["umount", disk], check=True)
