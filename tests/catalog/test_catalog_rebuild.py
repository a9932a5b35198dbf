"""A catalog rebuilt from manifests, over any former file."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.catalog import CatalogUnavailable, CheckRecord, database, open_catalog
from backupd.catalog import rebuild as rebuild_module
from backupd.catalog.database import LATEST, connect
from backupd.catalog.rebuild import rebuild
from backupd.model import Manifest
from support.catalog_values import APP, FOUND, NOON, OLDER, assert_sound, at, fill, leave_wal, manifest, names, report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a catalog of one generation and three runs, one of them unfinished."""
    with open_catalog(tmp_path / "catalog.sqlite3") as catalog:
        fill(catalog)
    return tmp_path / "catalog.sqlite3"


def test_rebuilt_catalog_has_each_generation_and_copy_once(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    assert rebuild(path, [*FOUND, FOUND[0]]) == 2
    assert names(path) == {""}
    assert_sound(path)
    with open_catalog(path) as catalog:
        assert catalog.copies() == {OLDER: ("local",), APP: ("local", "nas")}
        assert catalog.damaged("local") == frozenset()


def test_rebuild_drops_generations_without_manifest_and_keeps_runs_with_ids(path: Path) -> None:
    with open_catalog(path) as catalog:
        before = catalog.runs()
        unfinished = catalog.interrupted_runs()[0].id
        assert rebuild(path, [(manifest(OLDER), "nas")]) == 1
        assert catalog.runs() == before
        assert catalog.copies() == {OLDER: ("nas",)}
        catalog.record_run(report(task="drill"), at(3), run_id=unfinished)
        assert catalog.interrupted_runs() == []
    assert names(path) == {""}


def test_rebuild_keeps_checks_and_damage_marks_of_existing_copies(path: Path) -> None:
    with open_catalog(path) as catalog:
        for store in ("local", "gone"):
            catalog.record_check(CheckRecord(APP, store, at(1), store == "nowhere", "archive is short", 0.1))
        rebuild(path, FOUND)
        assert catalog.damaged("local") == {APP}
        assert catalog.damaged("gone") == frozenset()
        assert [(check.store, check.checked_at) for check in catalog.history(APP).checks] == [("local", at(1))]
    with closing(sqlite3.connect(path)) as connection:
        since = connection.execute("SELECT since FROM copy WHERE state = 'damaged'").fetchone()
    assert since == (at(1).isoformat(timespec="microseconds"),)


@pytest.mark.parametrize("content", [b"", b"garbage " * 1000])
def test_rebuild_sets_unusable_file_aside_unless_empty(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert rebuild(path, FOUND) == 2
    assert names(path) == ({"", ".damaged-1"} if content else {""})
    assert_sound(path)
    path.write_bytes(content)
    rebuild(path, FOUND)
    assert names(path) == ({"", ".damaged-1", ".damaged-2"} if content else {""})


def test_rebuild_without_hard_links_keeps_unusable_file_by_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_directories: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    path.write_bytes(b"garbage " * 1000)
    assert rebuild(path, FOUND) == 2
    assert path.with_name(path.name + ".damaged-1").read_bytes() == b"garbage " * 1000
    assert_sound(path)


def test_rebuild_by_older_version_copies_runs_of_newer_catalog_and_keeps_it(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE run ADD COLUMN mood TEXT")
        connection.execute("ALTER TABLE copy RENAME COLUMN since TO from_then_on")
        connection.execute(f"PRAGMA user_version = {LATEST + 1}")
    rebuild(path, FOUND)
    assert names(path) == {"", ".damaged-1"}
    with open_catalog(path) as catalog:
        assert len(catalog.runs()) == 3


@pytest.mark.parametrize("loss", ["DROP TABLE check_result", "PRAGMA user_version = 0"])
def test_rebuild_of_damaged_catalog_copies_remaining_runs(path: Path, loss: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(loss)
    with pytest.raises(CatalogUnavailable, match="its schema is not that of a catalog"):
        open_catalog(path)
    rebuild(path, FOUND)
    assert names(path) == {"", ".damaged-1"}
    with open_catalog(path) as catalog:
        assert len(catalog.runs()) == 3


def test_rebuild_skips_unreadable_run(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE run SET started_at = 'yesterday' WHERE id = 2")
    rebuild(path, FOUND)
    assert names(path) == {"", ".damaged-1"}
    with open_catalog(path) as catalog:
        assert [run.id for run in catalog.runs()] == [3, 1]


def test_rebuild_of_catalog_with_damaged_index_copies_all_runs_and_keeps_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'run_by_generation'"
        page = connection.execute(query).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    rebuild(path, FOUND)
    assert names(path) == {"", ".damaged-1"}
    with open_catalog(path) as catalog:
        assert len(catalog.runs()) == 3


def test_wal_of_unreadable_catalog_is_kept_beside_it_only(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(place: Path, *pragmas: str, lenient: bool = False, **_limit: float) -> sqlite3.Connection:
        if place == crashed:
            raise sqlite3.OperationalError("disk I/O error")
        return connect(place, *pragmas, lenient=lenient)

    monkeypatch.setattr(rebuild_module, "connect", unreadable)
    crashed = leave_wal(path, tmp_path / "crashed")
    rebuild(crashed, FOUND)
    assert names(crashed) == {"", ".damaged-1", ".damaged-1-wal"}
    assert_sound(crashed)
    with open_catalog(crashed.with_name(crashed.name + ".damaged-1")) as kept:
        assert len(kept.runs(task="in-the-wal")) == 1


def add_marked_runs(path: Path) -> None:
    with open_catalog(path) as catalog:
        for number in range(200):
            catalog.record_run(report(outcome="failed", error=f"marker-{number:03} " * 20), at(number))


def test_runs_before_and_after_damaged_page_are_kept(path: Path) -> None:
    add_marked_runs(path)
    content = path.read_bytes()
    page = content.index(b"marker-100 ") // 4096 * 4096
    path.write_bytes(content[:page] + b"\xff" * 4096 + content[page + 4096 :])
    assert rebuild(path, FOUND) == 2
    assert names(path) == {"", ".damaged-1"}
    assert_sound(path)
    with open_catalog(path) as catalog:
        errors = {run.error.split()[0] for run in catalog.runs(limit=None) if run.error}
    assert {"marker-000", "marker-050", "marker-150", "marker-199"} <= errors
    assert 180 < len(errors) < 200


def test_first_part_of_truncated_catalog_is_kept(path: Path) -> None:
    add_marked_runs(path)
    os.truncate(path, path.stat().st_size * 3 // 4)
    rebuild(path, FOUND)
    with open_catalog(path) as catalog:
        assert 20 < len(catalog.runs(limit=None)) < 203
    assert names(path) == {"", ".damaged-1"}


def test_runs_in_wal_only_are_kept(path: Path, tmp_path: Path) -> None:
    crashed = leave_wal(path, tmp_path / "crashed")
    rebuild(crashed, FOUND)
    assert names(crashed) == {""}
    with open_catalog(crashed) as catalog:
        assert len(catalog.runs(task="in-the-wal")) == 1
        assert len(catalog.runs()) == 4


def test_rebuild_removes_stale_wal(path: Path, tmp_path: Path) -> None:
    crashed = leave_wal(path, tmp_path / "crashed")
    stale = crashed.with_name(crashed.name + "-wal")
    crashed.unlink()
    shutil.copy(stale, tmp_path / "stale-wal")
    rebuild(crashed, FOUND)
    assert names(crashed) == {""}
    with open_catalog(crashed) as catalog:
        assert catalog.runs() == []
        assert catalog.copies() == {OLDER: ("local",), APP: ("local", "nas")}
    shutil.copy(tmp_path / "stale-wal", stale)
    with closing(sqlite3.connect(crashed)) as harmed:
        assert harmed.execute("SELECT count(*) FROM run").fetchone() != (0,)


def test_wal_of_lost_database_is_not_replayed_into_new_catalog(path: Path, tmp_path: Path) -> None:
    crashed = leave_wal(path, tmp_path / "crashed")
    crashed.unlink()
    with open_catalog(crashed) as catalog:
        assert catalog.runs() == []
    assert names(crashed) == {""}


def test_directory_in_place_of_catalog_is_not_moved(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite3").mkdir()
    with pytest.raises(CatalogUnavailable, match="Is a directory"):
        rebuild(tmp_path / "catalog.sqlite3", FOUND)
    assert [entry.name for entry in tmp_path.iterdir()] == ["catalog.sqlite3"]


def test_rebuild_with_unlistable_manifests_leaves_old_catalog_unchanged(path: Path) -> None:
    def broken() -> Iterator[tuple[Manifest, str]]:
        yield FOUND[0]
        raise ConnectionResetError("the store went away")

    with pytest.raises(ConnectionResetError):
        rebuild(path, broken())
    assert names(path) == {""}
    with open_catalog(path) as catalog:
        assert len(catalog.runs()) == 3


def test_rebuild_with_manifest_that_cannot_be_indexed_leaves_old_catalog_only(path: Path) -> None:
    timeless = replace(manifest(OLDER), taken_at=NOON.replace(tzinfo=None))
    with pytest.raises(CatalogUnavailable, match="no time zone"):
        rebuild(path, [*FOUND, (timeless, "local")])
    assert names(path) == {""}
    with open_catalog(path) as catalog:
        assert catalog.copies() == {APP: ("local",)}


def test_catalog_in_use_by_another_program_is_not_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
    with closing(connect(path)) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT * FROM run").fetchall()
        with pytest.raises(CatalogUnavailable, match="locked") as caught:
            rebuild(path, [])
    assert "another process" in caught.value.hint
    with open_catalog(path) as catalog:
        assert len(catalog.runs()) == 3
        assert catalog.copies() == {APP: ("local",)}
    assert names(path) == {""}


def test_runs_recorded_during_rebuilds_are_kept(path: Path) -> None:
    recorded = threading.Semaphore(0)

    def write() -> None:
        with open_catalog(path) as catalog:
            for number in range(20):
                catalog.record_run(report(task="meanwhile"), at(number))
                recorded.release()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(20):
        rebuild(path, FOUND)
        assert recorded.acquire(timeout=60)
    writer.join()
    with open_catalog(path) as catalog:
        assert len(catalog.runs(task="meanwhile", limit=None)) == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_catalog_rebuilt_by_root_belongs_to_owner_of_directory(path: Path) -> None:
    os.chown(path.parent, 65534, 65534)
    rebuild(path, FOUND)
    assert path.stat().st_uid == 65534
