"""Patience for tests, and the type of the `take` fixture."""

from collections.abc import Callable
from pathlib import Path

from backupd.sqlite.snapshot import Snapshot, take_snapshot
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.system.directory import Directory

Take = Callable[..., Snapshot]
SHORT_WAITS = SnapshotSettings(timeout_s=30, busy_timeout_s=0.3, hot_journal_wait_s=0.3)


def copy_into(staging: Path, source: Source, settings: SnapshotSettings = SHORT_WAITS) -> Snapshot:
    """Take a snapshot into the empty directory `staging`, which stays open until this process ends."""
    return take_snapshot(source, settings, Directory.open(staging), lambda _done, _total: None, lambda _e, _m: None)
