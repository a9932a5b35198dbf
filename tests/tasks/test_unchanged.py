"""An unchanged database is recognised, and its generation is verified again."""

import sqlite3
import time
from pathlib import Path

from backupd.model import FileState, Signature
from backupd.sqlite.source import TIMESTAMP_GRAIN_NS, same_content
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from support.bank import running_bank


def wait_until_settled(path: Path) -> None:
    """Wait until the last change of `path` is more than 2 s old: nothing but time can make it so."""
    while time.time_ns() - path.stat().st_ctime_ns <= TIMESTAMP_GRAIN_NS:
        time.sleep(0.05)


def test_untouched_database_is_recorded_as_verified_unchanged(order: BackupRequest, context: TaskContext) -> None:
    first = backup(order, context)
    second = backup(order, context)
    assert (second.outcome, second.exit_code, second.generation) == ("unchanged", 0, first.generation)
    assert second.details.snapshot_sha256 == first.details.snapshot_sha256
    assert second.details.verification == "full"
    assert len(local_inventory(context).generations) == 1


def test_checkpoint_changes_file_but_not_digest(tmp_path: Path, context: TaskContext) -> None:
    database = tmp_path / "bank.db"
    with running_bank(database, "wal", pause_s=0.005) as bank:
        bank.wait_for_commits(5)
        bank.kill()
    order = BackupRequest("bank", database, reserve_bytes=0)
    first = backup(order, context)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert backup(order, context).generation == first.generation


def test_commit_makes_new_generation(order: BackupRequest, context: TaskContext) -> None:
    first = backup(order, context)
    connection = sqlite3.connect(order.path)
    connection.execute("UPDATE account SET balance = balance + 0")
    connection.execute("UPDATE account SET owner = 'somebody else' WHERE id = 1")
    connection.commit()
    connection.close()
    second = backup(order, context)
    assert second.outcome == "published"
    assert second.generation != first.generation


def test_unchanged_source_with_damaged_archive_gets_new_generation(order: BackupRequest, context: TaskContext) -> None:
    first = backup(order, context)
    archive = Path(str(first.details.archive_path))
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 1
    archive.write_bytes(raw)
    second = backup(order, context)
    assert second.outcome == "degraded"
    assert second.generation != first.generation
    damaged = {g.id for g in local_inventory(context).generations if g.damaged}
    assert damaged == {first.generation}


def test_stat_signature_skips_packing_but_not_verification(order: BackupRequest, context: TaskContext) -> None:
    wait_until_settled(order.path)
    packed = backup(order, context)
    spared = backup(order, context)
    assert spared.outcome == "unchanged"
    assert "pack" in packed.stages
    assert "pack" not in spared.stages
    assert "digest" in spared.stages


def test_signature_counts_only_after_last_write_has_settled() -> None:
    def signature(mtime_s: float, captured_s: float, wal: bool = False) -> Signature:
        file = FileState(1, 2, 3, int(mtime_s * 1e9), int(mtime_s * 1e9))
        return Signature(file, file if wal else None, int(captured_s * 1e9))

    assert same_content(signature(100, 103), signature(100, 900))
    assert not same_content(signature(100, 101), signature(100, 900))
    assert not same_content(signature(100, 103), signature(101, 900))
    assert not same_content(signature(100, 103, wal=True), signature(100, 900))
    assert same_content(signature(100, 103, wal=True), signature(100, 900, wal=True))
