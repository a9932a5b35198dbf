"""scripts/backup backs up a database, and refuses a file that is not one before it creates anything."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from support.documents import blocks_run_by, renamed, run_commands

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the script in a directory that is not a checkout: it cannot go on to install anything."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path / "scripts" / "backup"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.db", None, "no database at"),
        ("empty.db", b"", "no database at"),
        ("notes.txt", b"SQLite format 3 is described at sqlite.org\n", "is not a SQLite database"),
    ],
)
def test_backup_script_without_database_fails_and_creates_nothing(
    script: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    before = set(tmp_path.iterdir())
    done = subprocess.run([script, path], capture_output=True, text=True, check=False)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    assert set(tmp_path.iterdir()) == before


def test_backup_script_with_database_goes_on_to_set_up(script: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as app:
        app.execute("CREATE TABLE task(id INTEGER PRIMARY KEY)")
    done = subprocess.run([script, tmp_path / "tasks.db"], capture_output=True, text=True, check=False)
    assert "pyproject.toml" in done.stderr
    assert "database" not in done.stderr


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_documented_command_backs_up_database_in_a_checkout_that_is_set_up(
    script: Path, database: Path, page: str
) -> None:
    (block,) = blocks_run_by(__file__, page)
    checkout = script.parents[1]
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "backupd").symlink_to(Path(sys.executable).with_name("backupd"))
    set_up = 'echo " $(cksum <pyproject.toml) $(python3 -V) $PWD" >.venv/made-for\n'
    run_commands(set_up + renamed(block.commands, {"/path/to/app.db": str(database)}), os.environ, checkout)
    assert len(list((database.parent / "backups").glob("tasks-*.sqlite3.gz"))) == 1
