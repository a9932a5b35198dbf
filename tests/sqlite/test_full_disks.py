"""Full disks: that of the copy, and that of the app."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupd.errors import NoSpace
from backupd.sqlite.snapshot import compact_snapshot
from backupd.sqlite.source import Source
from backupd.sqlite.worker.hot_journal import copy_with_journal
from backupd.sqlite.worker.protocol import SnapshotSettings
from support.app import running_app
from support.backup_runs import BackUp
from support.bank import is_balanced, make_bank
from support.directories import contents, fill, identity_of, rows, small_disk, two_files
from support.processes import CopyObserver, die_in_a_transaction
from support.snapshots import Take, copy_into

pytestmark = pytest.mark.root


@pytest.fixture
def disk_of_backups(backups: Path) -> Iterator[Path]:
    """A small file system for the backups alone."""
    with small_disk(backups, "60m") as disk:
        yield disk


def test_copy_that_fills_disk_of_backups_leaves_no_files_and_keeps_generations(
    tmp_path: Path, disk_of_backups: Path, back_up: BackUp, asleep: Callable[[int], None]
) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path, rows=60_000)
    before = back_up(path)
    assert before.outcome == ("published", 0)
    with running_app(path) as app:
        app.sql("UPDATE account SET balance = balance + 1")
    asleep(1500)
    other = CopyObserver(lambda: fill(disk_of_backups))
    result = back_up(path, progress=other)
    assert (result.outcome, other.done) == (("failed", 1), True)
    assert re.search(r"the file system of (the backups|/.*/backups) ", result.error)  # whichever call met it first
    assert "free space" in result.hint
    assert (result.generations, result.staged) == (before.generations, [])
    (disk_of_backups / "filler").unlink()
    assert back_up(path).outcome == ("published", 0)


def test_app_disk_without_space_for_shared_memory_is_no_space_error(tmp_path: Path, take: Take) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        make_bank(disk / "tasks.db")
        database = (disk / "tasks.db").read_bytes()
        filler = fill(disk)
        with pytest.raises(NoSpace, match=r"tasks\.db-shm: the app's file system is full") as full:
            take(disk / "tasks.db")
        assert "the app will fail soon as well" in full.value.hint
        assert (disk / "tasks.db").read_bytes() == database
        filler.unlink()
        with running_app(disk / "tasks.db") as app:
            app.sql("INSERT INTO ledger(amount) VALUES (1)")
        assert take(disk / "tasks.db").size_bytes == len(database)


def test_database_in_use_on_full_disk_is_copied(tmp_path: Path, take: Take) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        make_bank(disk / "tasks.db")
        with running_app(disk / "tasks.db") as app:
            app.sql("CREATE TABLE last_words AS SELECT 1 AS a")
            fill(disk)
            copy = take(disk / "tasks.db")
    assert rows(copy.file.path, "SELECT a FROM last_words") == [(1,)]


def test_hot_journal_larger_than_free_space_is_not_copied_in_part(tmp_path: Path) -> None:
    path = killed_in_a_transaction(tmp_path)
    said: list[int] = []
    with (
        small_disk(tmp_path / "disk", "100k") as disk,
        two_files(disk) as (database, journal),
        pytest.raises(NoSpace, match="and its journal could not be copied"),
    ):
        copy_with_journal(str(path), identity_of(path), database, journal, lambda done, _total: said.append(done))
    assert said == []  # the journal is one chunk, of which some would have fitted


@pytest.mark.parametrize("size", ["300k", "450k"])
def test_hot_database_larger_than_free_space_is_no_space_error(tmp_path: Path, size: str) -> None:
    path = killed_in_a_transaction(tmp_path)
    before = contents(path.parent)
    with small_disk(tmp_path / "disk", size) as disk:
        (disk / "staging").mkdir()
        source = Source.inspect(path)
        settings = SnapshotSettings(hot_journal_wait_s=0)
        if size == "300k":
            with pytest.raises(NoSpace), copy_into(disk / "staging", source, settings):
                pass
        else:
            with copy_into(disk / "staging", source, settings) as copy:
                assert is_balanced(copy.file.path)
    assert contents(path.parent) == before


def killed_in_a_transaction(tmp_path: Path) -> Path:
    """Return a database of 200 KiB with a hot journal of the same size."""
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    make_bank(path, "delete")
    die_in_a_transaction(path)
    assert 190_000 < Path(f"{path}-journal").stat().st_size < 210_000
    return path


def test_vacuum_without_free_space_is_no_space_error(tmp_path: Path) -> None:
    make_bank(tmp_path / "tasks.db")
    with small_disk(tmp_path / "disk", "300k") as disk:
        (disk / "staging").mkdir()
        source = Source.inspect(tmp_path / "tasks.db")
        with copy_into(disk / "staging", source) as copy:
            with pytest.raises(NoSpace, match="no space to compact the copy"):
                compact_snapshot(copy)
            assert is_balanced(copy.file.path)
