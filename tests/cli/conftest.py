"""Fixtures of the tests of the command line."""

from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest
from support.bank import spend
from support.command import Backupd
from support.directories import sha256
from support.unmeasured import unmeasured


@pytest.fixture
def typed(backupd: Backupd) -> Keyboard:
    """The same command as `backupd`, in this process."""
    return Keyboard(backupd.environ)


@pytest.fixture
def generation(order: BackupRequest, context: TaskContext) -> str:
    """The id of a published generation of the bank."""
    with unmeasured():
        report = backup(order, context)
    assert report.outcome == "published", report
    assert report.generation is not None
    return report.generation


@pytest.fixture
def pair(database: Path, tmp_path: Path, backups: Path) -> Pair:
    """A TOML with the bank as `tasks`, and a copy of it as `notes`."""
    second = tmp_path / "data" / "notes.db"
    second.write_bytes(database.read_bytes())
    config = tmp_path / "backupd.toml"
    config.write_text(
        f'backups_dir = "{backups}"\n'
        f'[sources.tasks]\npath = "{database}"\n'
        f'[sources.notes]\npath = "{second}"\n'
        '[space]\nreserve = "0"\n'
    )
    return Pair(config, database, second)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A new path in an empty directory."""
    directory = tmp_path / "restored"
    directory.mkdir()
    return directory / "tasks.db"


@pytest.fixture
def newer(database: Path, generation: str) -> str:
    """The digest of the database once its app has written on after the backup."""
    assert generation
    spend(database, 5)
    return sha256(database)
