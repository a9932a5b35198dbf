"""Patience for tests, and the type of the `take` fixture."""

from collections.abc import Callable

from backupd.sqlite.snapshot import Snapshot
from backupd.sqlite.worker.protocol import SnapshotSettings

Take = Callable[..., Snapshot]
SHORT_WAITS = SnapshotSettings(timeout_s=30, busy_timeout_s=0.3, hot_journal_wait_s=0.3)
