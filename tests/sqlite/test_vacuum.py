"""`method = "vacuum"`: a compact copy, but never a laundered one (docs/adr/0006-vacuum-the-copy.md)."""

import gzip
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.jobs.backup import backup
from backupd.jobs.generations import local_inventory
from backupd.jobs.order import BackupOrder
from backupd.jobs.site import Site
from backupd.sqlite.snapshot import SnapshotSettings
from support.app import running_app


@pytest.fixture
def compact(order: BackupOrder) -> BackupOrder:
    """The order to vacuum the bank."""
    return replace(order, settings=SnapshotSettings(method="vacuum"))


def test_free_pages_are_left_out_and_the_journal_mode_is_remembered(compact: BackupOrder, site: Site) -> None:
    with running_app(compact.path) as app:
        app.sql("CREATE TABLE gone AS SELECT randomblob(300000)")
        app.sql("DROP TABLE gone")
        report = backup(compact, site)
    assert report.outcome == "published", report
    assert report.snapshot_bytes is not None
    assert report.snapshot_bytes < compact.path.stat().st_size
    manifest = local_inventory(site).manifests[str(report.generation)]
    assert (manifest.snapshot.method, manifest.snapshot.journal_mode) == ("vacuum", "wal")
    raw = gzip.decompress(Path(str(report.archive_path)).read_bytes())
    connection = sqlite3.connect(":memory:")
    connection.deserialize(raw)
    assert connection.execute("SELECT count(*) FROM account").fetchone() == (1000,)


def test_the_same_database_vacuums_to_the_same_bytes(compact: BackupOrder, site: Site) -> None:
    first = backup(compact, site)
    second = backup(compact, site)
    assert (second.outcome, second.generation) == ("unchanged", first.generation)


def test_damage_that_vacuum_would_launder_is_found_before(compact: BackupOrder, site: Site) -> None:
    with running_app(compact.path) as app:
        app.sql("CREATE TABLE gone AS SELECT randomblob(300000)")
        app.sql("DROP TABLE gone")
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with compact.path.open("r+b") as stream:
        stream.seek(32)
        trunk = int.from_bytes(stream.read(4), "big")
        stream.seek((trunk - 1) * 4096 + 8)
        stream.write(b"\x00\x00\x00\x01")
    report = backup(compact, site)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert site.store.list() == ()
    assert site.holds.get("tasks") is not None


def test_a_schema_that_needs_the_apps_functions_is_sent_to_the_other_method(compact: BackupOrder, site: Site) -> None:
    with running_app(compact.path) as app:
        app.sql("CREATE INDEX odd ON account(app_function(id))")
    report = backup(compact, site)
    assert report.outcome == "failed"
    assert report.hint == 'use method = "backup"'
