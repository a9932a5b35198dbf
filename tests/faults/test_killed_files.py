"""Backups of files that are killed at any moment: the next one is whole, and nothing is stored twice or lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.command import Backupd
from support.file_sets import FileSet

KILLS = 6
CONFIG = """
backups_dir = "{0}/backups"
[space]
reserve = 0
[sources.tasks]
path = "{0}/tasks.db"
[files.uploads]
path = "{0}/uploads"
"""


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    return FileSet(tmp_path)


def test_killed_backups_leave_what_was_published_and_the_next_is_whole(files: FileSet) -> None:
    for number in range(150):
        files.write(f"d{number % 5}/{number}", f"content {number}" * number)
    first = files.back_up(retention=None)
    assert first.generation
    before = files.restored(first.generation)
    (files.root / "config.toml").write_text(CONFIG.format(files.root))
    environ = Backupd({"BACKUPD_CONFIG": str(files.root / "config.toml")}, files.root).environment()
    command = [sys.executable, "-m", "backupd", "backup", "--source", "uploads", "--no-pin"]
    dice = random.Random(16)
    for kill in range(KILLS):
        for number in range(40):
            files.write(f"d{kill}/new-{number}", f"{kill} {number} " * 200)
        began = time.monotonic()
        with subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            time.sleep(dice.uniform(0.1, 1.0))
            os.killpg(process.pid, signal.SIGKILL)
        assert time.monotonic() - began < 60
        assert files.restored(first.generation) == before
    last = files.back_up(retention=None)
    assert last.error is None
    assert last.generation
    assert files.restored(last.generation) == files.on_disk()
    assert not [*(files.root / "backups" / ".backupd" / "staging").iterdir()]
    for name in files.stored():
        files.content(name.removesuffix(".gz"))


@pytest.mark.parametrize("limit", [64, 128])
def test_few_open_files_suffice_for_many_new_ones(files: FileSet, limit: int) -> None:
    for number in range(300):
        files.write(f"d{number % 3}/{number}", f"content {number}")
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from support.file_sets import FileSet
files = FileSet.__new__(FileSet)
files.root = Path(sys.argv[1])
files.set_up()
report = files.back_up()
print(report.error or report.generation)
"""
    command = [sys.executable, "-c", code, str(files.root), str(Path(__file__).parents[1])]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert files.restored(ended.stdout.strip()) == files.on_disk()
