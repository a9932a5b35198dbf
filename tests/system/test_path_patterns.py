"""What is left out of a set of files, compared with git itself where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from backupd.system.path_patterns import excluded

PATHS = (
    *("a.tmp", "b/a.tmp", "b/c/a.tmp.jpg", "cache/x", "b/cache/y", "cachet/x", "thumbs/small", "thumbs/a/b/small"),
    *("b/thumbs/small", "x1", "x12", "[odd]", "b/é.jpg", "ab", "cb", "q/w/e", "q/e", "-x", "a\\b"),
)
PATTERNS = (
    *("*.tmp", "cache/", "/cache/", "thumbs/**/small", "/thumbs/**/small", "**/small", "x?", "x[0-9]", "x[!0-9]"),
    *("[ac]b", "b/*", "b/**", "q/**/e", "b/c", "/b", "*.jpg", "a.*", "\\[odd]", "[-a]x", "x[]1]"),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in PATHS:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("x")
    return tmp_path


def kept(pattern: str) -> set[str]:
    """Return the files that a walk keeps: a directory that is left out is not entered."""
    of_directories, of_files = (excluded([pattern], directories=value) for value in (True, False))
    found = set()
    for path in PATHS:
        above = [str(parent) for parent in Path(path).parents][:-1]
        if of_directories and any(of_directories(parent.encode()) for parent in above):
            continue
        if not (of_files and of_files(path.encode())):
            found.add(path)
    return found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_leaves_out_what_git_ignores(pattern: str, tree: Path) -> None:
    git = shutil.which("git")
    assert git, "the tests need git"
    subprocess.run([git, "init", "-q", str(tree)], check=True)
    (tree / ".git" / "info" / "exclude").write_text(f"{pattern}\n")
    command = [git, "-C", str(tree), "-c", "core.excludesFile=/dev/null", "ls-files", "-oz", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert kept(pattern) == set(listed.split("\0")) - {""}


def test_no_pattern_leaves_nothing_out() -> None:
    assert excluded([], directories=True) is None
    assert excluded(["cache/"], directories=False) is None


def test_question_mark_is_one_character_of_any_length() -> None:
    leaves_out = excluded(["x?"], directories=False)
    assert leaves_out
    assert leaves_out("xé".encode())
    assert not leaves_out("xéé".encode())
