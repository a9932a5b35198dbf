"""Free space: a backup that would fill the app's disk does not begin, and one that fills it stops."""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.log import null_log
from backupd.stores.local import DirectoryStore
from backupd.system.resources import reserve_bytes
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from support.bank import make_bank

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)


def debris(store: DirectoryStore) -> list[Path]:
    return [*(store.hidden / "staging").iterdir(), *(store.hidden / "removing").iterdir()]


def test_backup_that_would_use_reserved_space_does_not_start(order: BackupRequest, context: TaskContext) -> None:
    whole = shutil.disk_usage(context.store.directory).total  # as much is never free, whatever others write and remove
    report = backup(replace(order, reserve_bytes=whole), context)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert report.error is not None
    assert "must stay so" in report.error
    assert report.stages == {}


def test_default_reserve_is_five_percent_of_disk_up_to_one_gibibyte(tmp_path: Path) -> None:
    total = shutil.disk_usage(tmp_path).total
    assert reserve_bytes(tmp_path, None) == min(1 << 30, int(total * 0.05))
    assert reserve_bytes(tmp_path, 7) == 7


@pytest.mark.root
def test_disk_filled_during_backup_keeps_earlier_generations(small_disk: Path, tmp_path: Path) -> None:
    database = tmp_path / "bank.db"
    make_bank(database, rows=200)
    store = DirectoryStore("local", small_disk / "backups")
    store.prepare()
    context = TaskContext(store, null_log())
    order = BackupRequest("bank", database, reserve_bytes=0)
    first = backup(order, context)
    assert first.outcome == "published"
    connection = sqlite3.connect(database)  # what packs to nothing was followed by what does not pack at all
    connection.execute("CREATE TABLE photo AS SELECT randomblob(1000000) AS content")
    connection.commit()
    connection.close()
    (small_disk / "filler").write_bytes(b"\0" * int(shutil.disk_usage(small_disk).free - 1.8 * MIB))
    report = backup(order, context)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert report.hint is not None
    assert "free space" in report.hint
    assert [g.id for g in local_inventory(context).generations] == [first.generation]
    assert debris(store) == []


@pytest.mark.root
@pytest.mark.parametrize("free_kib", range(100, 1500, 200))
def test_backup_with_any_little_free_space_leaves_no_partial_files(
    small_disk: Path, tmp_path: Path, free_kib: int
) -> None:
    database = tmp_path / "bank.db"
    make_bank(database, rows=3000)
    store = DirectoryStore("local", small_disk / "backups")
    store.prepare()
    context = TaskContext(store, null_log())
    filler = int(shutil.disk_usage(small_disk).free - free_kib * 1024)
    (small_disk / "filler").write_bytes(b"\0" * filler)
    report = backup(BackupRequest("bank", database, reserve_bytes=0), context)
    assert report.outcome in {"failed", "published", "degraded"}
    assert len(store.list()) == (0 if report.outcome == "failed" else 1)
    assert store.unpaired_files() == ()
    assert debris(store) == []
