"""What the tests of the sqlite room share."""

from pathlib import Path

import pytest

from backupd.sqlite.snapshot import Snapshot, SnapshotSettings, take_snapshot
from backupd.sqlite.source import Source
from support.snapshots import HASTY, Take


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Take a snapshot of the database at a path into a new staging directory."""
    number = 0

    def snapshot(path: Path | str, settings: SnapshotSettings = HASTY, **allow: bool) -> Snapshot:
        nonlocal number
        number += 1
        staging = tmp_path / f"staging-{number}"
        staging.mkdir()
        source = Source.inspect(Path(path), **allow)
        return take_snapshot(source, settings, staging, lambda _done, _total: None, lambda _event, _message: None)

    return snapshot
