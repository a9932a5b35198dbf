"""Directories nested 1,500 deep, where backupd cleans up or searches: they end no start and no backup."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import Backupd

DEPTH = 1500


@pytest.fixture(autouse=True)
def _removed(tmp_path: Path) -> Iterator[None]:
    """Remove them again, which pytest cannot."""
    yield
    subprocess.run(["rm", "-rf", tmp_path], check=True)


def nest(directory: Path) -> None:
    """Make directories in each other below `directory`; in the end no system call takes their path."""
    directory.mkdir(parents=True, exist_ok=True)
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.parametrize(
    "place",
    [
        "backups/.backupd/staging",
        "backups/.backupd/staging/run-planted",
        "backups/.backupd/removing",
        "backups/.backupd/quarantine/tasks",
        "backups/.backupd/holds",
        "backups/.backupd/pins",
        "backups/planted",
        "data",
    ],
)
def test_backup_beside_deep_directories_is_published(backupd: Backupd, tmp_path: Path, place: str) -> None:
    assert backupd("backup").code == 0
    nest(tmp_path / place)
    answer = backupd("backup", "--json")
    assert answer.code in {0, 3}, answer
    assert answer.json["outcome"] in {"published", "unchanged", "degraded"}
    found = backupd("doctor")
    assert "Traceback" not in found.out + found.err
    assert "recursion" not in found.out + found.err


def test_deep_directories_in_staging_are_kept_and_reported(backupd: Backupd, backups: Path) -> None:
    assert backupd("backup").code == 0
    nest(backups / ".backupd" / "staging" / "run-planted")
    backupd("backup")
    assert "nested directories" in (backups / "backup.log").read_text()
