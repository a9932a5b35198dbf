"""Rows and their files in one copy, while an app writes and deletes both every few milliseconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.file_sets import FileSet
from support.uploading_app import uploading_app

TESTS = Path(__file__).parents[1]
PARTS, RUNS = 5, 10


def runs_of(root: Path, runs: int, *limit: str) -> list[tuple[int, int, int]]:
    """Back up a running app again and again in a process of its own."""
    FileSet(root)
    with uploading_app(root):
        command = [sys.executable, "-m", "support.uploading_app", str(root), str(runs), *limit]
        ended = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [tuple(one) for one in json.loads(ended.stdout)]


@pytest.mark.parametrize("part", range(PARTS))
def test_no_row_lacks_its_file_while_files_are_held(tmp_path: Path, part: int) -> None:
    found = runs_of(tmp_path, RUNS)
    assert len(found) == RUNS, part
    assert all(rows >= 150 for rows, _, _ in found), "the app had files all the time"
    assert [lost for _, lost, _ in found] == [0] * RUNS
    assert [not_held for _, _, not_held in found] == [0] * RUNS


def test_run_that_may_hold_few_files_says_how_many_rows_may_lack_theirs(tmp_path: Path) -> None:
    found = runs_of(tmp_path, 5, "64")
    assert any(not_held for _, _, not_held in found), found
    assert all(lost <= not_held for _, lost, not_held in found), found
