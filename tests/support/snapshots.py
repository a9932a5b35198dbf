"""Patience for tests, and the type of the `take` fixture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backupd.sqlite.snapshot import Snapshot, take_snapshot
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.system.directory import Directory

Take = Callable[..., Snapshot]
SHORT_WAITS = SnapshotSettings(timeout_s=30, busy_timeout_s=0.3, hot_journal_wait_s=0.3)


@contextmanager
def copy_into(staging: Path, source: Source, settings: SnapshotSettings = SHORT_WAITS) -> Iterator[Snapshot]:
    """Take a snapshot into the empty directory `staging`, which is open during the block."""
    with Directory.open(staging) as directory:
        yield take_snapshot(source, settings, directory, lambda _done, _total: None, lambda _event, _message: None)
