"""`method = "vacuum"`: a compact copy that never hides damage (docs/adr/0006-vacuum-the-copy.md)."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.tasks.context import local_inventory
from support.app import running_app
from support.backup_runs import BackUp
from support.directories import contents, rows
from support.sqlite_checks import rewrite

COMPACT = SnapshotSettings(method="vacuum", busy_timeout_s=0.3, hot_journal_wait_s=0)


def leave_free_pages(path: Path) -> None:
    """Let the app drop one of two new tables, and move that from its WAL into the file."""
    with running_app(path) as app:
        app.sql("CREATE TABLE plain AS SELECT 'plain row ' || id AS text FROM account")
        app.sql("CREATE TABLE gone AS SELECT randomblob(300000)")
        app.sql("DROP TABLE gone")
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize(("journal_mode", "recorded"), [("wal", "wal"), ("delete", "rollback")])
def test_vacuumed_copy_has_no_free_pages_and_its_journal_mode_is_recorded(
    database: Path, tmp_path: Path, back_up: BackUp, journal_mode: str, recorded: str
) -> None:
    leave_free_pages(database)
    with running_app(database) as app:
        app.sql(f"PRAGMA journal_mode={journal_mode}")
        app.sql("PRAGMA user_version=42")
        result = back_up(database, COMPACT)
    assert result.outcome == ("published", 0)
    manifest = local_inventory(result.context).manifests[str(result.report.generation)]
    assert (manifest.snapshot.method, manifest.snapshot.journal_mode) == ("vacuum", recorded)
    restored = result.unpacked(tmp_path / "restored.db")
    assert restored.stat().st_size == result.report.details.snapshot_bytes == manifest.snapshot.size_bytes
    assert restored.stat().st_size < database.stat().st_size - 200_000
    assert rows(restored, "PRAGMA freelist_count") == [(0,)]
    assert rows(restored, "PRAGMA user_version") == [(42,)] == [(manifest.snapshot.user_version,)]
    assert rows(restored, "PRAGMA page_size") == [(manifest.snapshot.page_size,)]
    with closing(sqlite3.connect(restored)) as made, closing(sqlite3.connect(database)) as source:
        assert list(made.iterdump()) == list(source.iterdump())


def test_unchanged_database_vacuums_to_equal_bytes(database: Path, back_up: BackUp) -> None:
    first = back_up(database, COMPACT)
    second = back_up(database, COMPACT)
    assert second.outcome == ("unchanged", 0)
    assert (second.report.generation, second.generations) == (first.report.generation, first.generations)
    with running_app(database) as app:
        app.sql("UPDATE account SET balance = 0 WHERE id = 7")
    assert back_up(database, COMPACT).outcome == ("published", 0)


def break_the_freelist(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(32)
        trunk = int.from_bytes(stream.read(4), "big")
        stream.seek((trunk - 1) * 4096 + 8)
        stream.write(b"\x00\x00\x00\x01")


def break_a_leaf(path: Path) -> None:
    """Let a leaf page of a table without an index have one row less than it has."""
    page = path.read_bytes().index(b"plain row 77") // 4096 * 4096
    with path.open("r+b") as stream:
        stream.seek(page + 3)
        cells = int.from_bytes(stream.read(2), "big")
        stream.seek(page + 3)
        stream.write((cells - 1).to_bytes(2, "big"))


@pytest.mark.parametrize("damage", [break_the_freelist, break_a_leaf])
def test_damage_that_vacuum_would_hide_is_found_beforehand(
    database: Path, back_up: BackUp, damage: Callable[[Path], None]
) -> None:
    leave_free_pages(database)
    before = back_up(database, COMPACT).generations
    damage(database)
    laundered = database.with_name("laundered.db")
    rows(database, f"VACUUM INTO '{laundered}'")
    assert rows(database, "PRAGMA integrity_check(1)") != [("ok",)]
    assert rows(laundered, "PRAGMA integrity_check(1)") == [("ok",)]
    result = back_up(database, COMPACT)
    assert result.outcome == ("failed", 1)
    assert f"{database} is corrupt" in result.error
    assert (result.generations, result.staged) == (before, [])
    assert len(result.quarantined) == 1
    assert result.quarantined[0].stat().st_size == database.stat().st_size
    hold = result.context.holds.get("tasks")
    assert hold is not None
    assert hold.kind == "corrupt"


@pytest.mark.parametrize(
    "needs",
    [
        "CREATE INDEX odd ON account(app_function(id))",
        "CREATE INDEX odd ON account(owner COLLATE app_collation)",
        "CREATE TABLE odd(a CHECK (app_function(a) > 0))",
        "CREATE TABLE foreign_(a)",
    ],
    ids=["function", "collation", "constraint", "other engine"],
)
def test_vacuum_of_schema_that_needs_app_is_refused_with_other_method(
    database: Path, back_up: BackUp, needs: str
) -> None:
    with running_app(database) as app:
        app.sql(needs)
        if "odd(a" in needs:
            app.sql("INSERT INTO odd VALUES (1)")
    rewrite(database, "CREATE TABLE foreign_(a)", "CREATE TABLE foreign_(a) RANDOM ROWID")
    before = contents(database.parent)
    result = back_up(database, COMPACT)
    assert result.outcome == ("failed", 1)
    assert "VACUUM needs to read the whole schema" in result.error
    assert result.hint == 'use method = "backup"'
    assert (result.generations, result.staged) == ({}, [])
    assert result.context.holds.get("tasks") is None
    assert contents(database.parent)["tasks.db"] == before["tasks.db"]
    assert back_up(database).report.details.verification in {"full", "structural"}
