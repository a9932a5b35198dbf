"""Links to the runbook: absolute, in the language of the reader, and each to a passage that exists."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from backupd.problems import Problem, ProblemKind
from backupd.runbook import DOCS_URL, Topic, runbook_address

ROOT = Path(__file__).parents[1]


def test_default_address_is_documentation_of_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"] == DOCS_URL


def test_address_is_absolute_in_language_and_below_own_documentation() -> None:
    assert runbook_address("restore") == f"{DOCS_URL}/runbook.md#restore"
    assert runbook_address("keys", "es", "https://wiki.example/b") == "https://wiki.example/b/runbook.es.md#keys"


@pytest.mark.parametrize("name", ["runbook.md", "runbook.es.md"])
def test_each_topic_is_anchor_in_runbook(name: str) -> None:
    anchors = re.findall(r'<a id="([^"]+)"></a>', (ROOT / "docs" / name).read_text())
    assert sorted(anchors) == sorted(get_args(Topic))


@pytest.mark.parametrize("kind", get_args(ProblemKind))
def test_each_problem_has_topic(kind: ProblemKind) -> None:
    assert Problem(kind, "warning", "backup", "tasks").topic in get_args(Topic)


def test_topic_depends_on_task_that_is_late_and_on_cause_of_failure() -> None:
    assert Problem("late", "unhealthy", "replicate", "offsite").topic == "replica-too-old"
    assert Problem("failed", "warning", "replicate", "offsite", cause="denied").topic == "keys"
    assert Problem("failed", "warning", "backup", "tasks", cause="no-space").topic == "free-space"
    assert Problem("failed", "warning", "backup", "tasks", cause="busy").topic == "runs-failing"
