"""Sources at the edge: odd names, links, locks that are never released, and WALs of any size (docs/sources.md)."""

import os
from pathlib import Path

import pytest

from backupd.errors import NoSpace, SourceUnusable
from backupd.sqlite.source import Source
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import is_balanced, make_bank
from support.directories import rows
from support.snapshots import SHORT_WAITS, Take

ODD_NAMES = [
    "a?mode=rwc",
    "b#c",
    "d%20e",
    "f g;h'i\"j",
    "ñ ü €",
    "line\nend",
    "file:k?immutable=1",
    ":memory:",
    b"\xff\xfe",
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_database_with_special_name_is_copied_and_no_other_file_is_created(
    tmp_path: Path, take: Take, name: str | bytes, journal_mode: str
) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    path = directory / os.fsdecode(name)
    make_bank(path, journal_mode)
    assert is_balanced(take(path).file.path)
    side_files = {f"{path.name}-wal", f"{path.name}-shm"} if journal_mode == "wal" else set()
    assert {p.name for p in directory.iterdir()} == {path.name} | side_files


def test_database_with_name_outside_utf8_gets_generation(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / os.fsdecode(b"tasks-\xff.db")
    make_bank(path)
    result = back_up(path)
    assert result.outcome == ("published", 0)
    assert is_balanced(result.unpacked(tmp_path / "restored.db"))
    assert back_up(path).outcome == ("unchanged", 0)


def test_lock_held_too_long_is_temporary_failure(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, "delete")
    with running_app(path) as app:
        app.sql("BEGIN EXCLUSIVE")
        result = back_up(path)
        app.sql("COMMIT")
    assert result.outcome == ("failed", 75)
    assert f"{path} stayed locked" in result.error
    assert "raise busy_timeout_s" in result.hint
    assert "locking_mode=EXCLUSIVE" in result.hint
    assert (result.generations, result.staged) == ({}, [])
    assert back_up(path).outcome == ("published", 0)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_exclusive_locking_mode_of_app_fails_copy_with_hint(tmp_path: Path, back_up: BackUp, journal_mode: str) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, journal_mode)
    with running_app(path) as app:
        app.sql("PRAGMA locking_mode=EXCLUSIVE")
        app.sql("INSERT INTO ledger(amount) VALUES (0)")
        result = back_up(path)
        assert result.outcome == ("failed", 75)
        assert "set it to NORMAL" in result.hint
        app.sql("INSERT INTO ledger(amount) VALUES (0)")


@pytest.mark.parametrize("hops", [1, 2])
def test_link_is_followed_to_file_beside_wal(tmp_path: Path, take: Take, hops: int) -> None:
    make_bank(tmp_path / "real.db")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "real.db"
    for hop in range(hops):
        link, target = tmp_path / "elsewhere" / f"{hop}.db", link
        link.symlink_to(target)
    with running_app(tmp_path / "real.db") as app:
        app.sql("CREATE TABLE only_in_the_wal(a)")
        copy = take(link)
    assert rows(copy.file.path, "SELECT count(*) FROM only_in_the_wal") == [(0,)]
    assert {p.name for p in (tmp_path / "elsewhere").iterdir()} == {f"{hop}.db" for hop in range(hops)}
    assert Source.inspect(link).path == tmp_path / "real.db"


def test_hard_link_is_accepted_where_allowed(tmp_path: Path, take: Take) -> None:
    make_bank(tmp_path / "tasks.db")
    os.link(tmp_path / "tasks.db", tmp_path / "other.db")
    with pytest.raises(SourceUnusable, match="2 hard links"):
        take(tmp_path / "tasks.db")
    assert is_balanced(take(tmp_path / "tasks.db", allow_links=True).file.path)


def test_commits_in_large_wal_are_copied_and_wal_is_left_unchanged(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    with running_app(path) as app:
        app.sql("PRAGMA wal_autocheckpoint=0")
        app.sql("CREATE TABLE big AS SELECT randomblob(20000) AS b FROM account")
        wal = Path(f"{path}-wal")
        before = (path.read_bytes(), wal.read_bytes())
        assert len(before[1]) > 20_000_000
        copy = take(path)
        assert (path.read_bytes(), wal.read_bytes()) == before
    assert rows(copy.file.path, "SELECT count(*) FROM big") == [(1000,)]


def test_wal_without_checkpoints_is_warned_of(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    with running_app(path) as app:
        app.sql("INSERT INTO ledger(amount) VALUES (1)")
        with open(f"{path}-wal", "r+b") as wal:
            os.posix_fallocate(wal.fileno(), 0, 257 << 20)
        result = back_up(path)
    assert result.outcome == ("published", 0)
    assert "the WAL is 257.0 MiB" in result.report.notes[0]


def test_copy_that_would_use_space_reserved_for_app_is_stopped(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=60_000)
    with pytest.raises(NoSpace, match="the app's file system nearly filled up during the copy"):
        take(path, SHORT_WAITS._replace(reserve_bytes=1 << 60))
