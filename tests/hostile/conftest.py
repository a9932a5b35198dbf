"""Two generations of one database, the newest and one of the day before."""

from pathlib import Path

import pytest

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.generations import backdated


@pytest.fixture
def newest(order: BackupRequest, context: TaskContext) -> str:
    """The id of a generation."""
    generation = backup(order, context).generation
    assert generation is not None
    return generation


@pytest.fixture
def older(newest: str, backups: Path) -> str:
    """The id of one of the day before."""
    return backdated(backups, newest, days=1)
