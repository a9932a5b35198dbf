"""docs/threat-model.md names existing tests and every file in tests/hostile; the first pages link to it."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = re.findall(r"`([\w/]+/test_\w+\.py)(?:::(test_\w+))?`", PAGE)


def test_named_tests_exist() -> None:
    assert NAMED
    missing = []
    for file, name in NAMED:
        path = TESTS / file
        tests = {one.name for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)}
        if name and name not in tests:
            missing.append(f"{file}::{name}")
    assert missing == []


def test_every_promise_names_a_test() -> None:
    promises = PAGE.partition("## Promises")[2].partition("## Not promised")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and line != "| promise | shown by |"]
    assert rows
    assert [row for row in rows if not re.search(r"`[\w/]+/test_\w+\.py", row)] == []


def test_every_file_of_attacks_is_named() -> None:
    attacks = {f"hostile/{path.name}" for path in (TESTS / "hostile").glob("test_*.py")}
    assert attacks - {file for file, _ in NAMED} == set()


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "docs/architecture.md"])
def test_page_points_to_threat_model(page: str) -> None:
    assert "threat-model.md" in (ROOT / page).read_text()
