"""One verified backup, from the live database to a restorable file."""

import gzip
import subprocess
from pathlib import Path

import pytest

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.bank import is_balanced, running_bank

pytestmark = pytest.mark.no_cover

PAGE_SIZES = [512 << n for n in range(8)]


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_copies_of_busy_bank_are_all_balanced(
    tmp_path: Path, context: TaskContext, journal_mode: str, page_size: int
) -> None:
    database = tmp_path / "bank.db"
    with running_bank(database, journal_mode, page_size, pause_s=0.0005) as bank:
        for number in range(3):
            bank.wait_for_commits(20)
            report = backup(BackupRequest("bank", database, reserve_bytes=0), context)
            assert report.outcome == "published", report
            restored = tmp_path / f"restored-{number}.db"
            assert report.details.archive_path is not None
            restored.write_bytes(gzip.decompress(Path(report.details.archive_path).read_bytes()))
            assert is_balanced(restored)
        bank.wait_for_commits(20)


def test_gunzip_restores_snapshot_byte_for_byte(order: BackupRequest, context: TaskContext) -> None:
    report = backup(order, context)
    raw = subprocess.run(["gunzip", "-c", str(report.details.archive_path)], capture_output=True, check=True).stdout
    assert len(raw) == report.details.snapshot_bytes
