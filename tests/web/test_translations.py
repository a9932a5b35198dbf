"""The languages of the page: the choice, and complete translations."""

import ast
import re
from datetime import UTC
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from backupd.gate.model import STEPS, DeployState, StepState
from backupd.model import Severity, Task
from backupd.problems import ProblemKind
from backupd.retention import DAMAGED, FUTURE, LAST_VERIFIED, UNREADABLE, RetentionPolicy
from backupd.status import history
from backupd.web import (
    gate_hint_translations,
    gate_translations,
    hint_translations,
    page,
    point_hint_translations,
    problem_translations,
    translations,
)
from backupd.web.localizer import LANGUAGES, Language, Localizer, choose_language
from backupd.web.translations import TRANSLATIONS, Phrase

TABLES = (
    translations,
    problem_translations,
    gate_translations,
    hint_translations,
    gate_hint_translations,
    point_hint_translations,
)
ROOMS = (Path(page.__file__).parent, Path(page.__file__).parents[1] / "gate")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("es", "es"),
        ("es-CL,es;q=0.9,en;q=0.8", "es"),
        ("en-US,en;q=0.9,es;q=0.8", "en"),
        ("ES-419", "es"),
        ("de-DE,de;q=0.9,es;q=0.5,en;q=0.3", "es"),
        ("de,fr;q=0.5", "en"),
        ("*", "en"),
        ("es;q=0", "en"),
        ("en;q=0.1, es;q=0.2", "es"),
        ("es;q=2, en;q=0.1", "en"),
        ("es;q=nan,en;q=0.1", "en"),
        ("es;level=1", "en"),
        ("estonian", "en"),
        (",;,;q=;=,es;q=1.0", "es"),
        ("x" * 5000 + ",es", "en"),
    ],
)
def test_preferred_language_of_browser_is_chosen(header: str, language: str) -> None:
    assert choose_language(header) == language


@pytest.mark.parametrize("key", TRANSLATIONS)
def test_phrase_has_same_placeholders_in_each_language(key: str) -> None:
    phrase = TRANSLATIONS[key]
    assert Phrase._fields == LANGUAGES
    assert all(text.strip() for text in phrase)
    assert len({frozenset(name for _, name, _, _ in Formatter().parse(text) if name) for text in phrase}) == 1
    assert len({frozenset(re.findall("`[^`]*`", text)) for text in phrase}) == 1, "commands are not translated"
    assert all(text.count("`") % 2 == 0 for text in phrase)


def test_phrase_keys_are_unique() -> None:
    keys = []
    for module in TABLES:
        source = ast.parse(Path(module.__file__).read_text())
        (table,) = (node for node in ast.walk(source) if isinstance(node, ast.Dict))
        keys += [ast.unparse(key) for key in table.keys if key is not None]
    assert len(keys) == len(set(keys)) == len(TRANSLATIONS) + len(hint_translations.HINTS)


def test_each_phrase_is_used_and_each_used_phrase_exists() -> None:
    template = "".join(path.read_text() for room in ROOMS for path in room.glob("*.html"))
    modules = [path for room in ROOMS for path in room.glob("*.py") if "translations" not in path.name]
    code = "".join(path.read_text() for path in modules)
    named = set(re.findall(r"translate\(\s*'([^']+)'\s*[,)]", template)) | set(
        re.findall(r'translate\(\s*"([^"]+)"', code)
    )
    assert named <= TRANSLATIONS.keys()
    said = template + code
    families = {"day", "disk", "verification", "weekday", "sign", "stage", "unset", "proof", "task", "rule", "problem"}
    families |= {"advice", "unread", "error", "state", "step", "connect", "gate.state", "gate.advice"}
    families |= {f"deploy.{state}" for state in get_args(DeployState)}
    for key in TRANSLATIONS:
        by_family = not families.isdisjoint((key, key.partition(".")[0], key.rpartition(".")[0]))
        by_value = key in retention_words()
        assert by_family or by_value or f"'{key}'" in said or f'"{key}"' in said, f"nobody says {key}"


def retention_words() -> set[str]:
    """Every reason to keep a generation that is no rule's."""
    return {
        DAMAGED,
        FUTURE,
        LAST_VERIFIED,
        UNREADABLE,
        "held: corrupt",
        "held: shrink",
        history.NOT_CONFIGURED,
        history.HOLDS_UNREADABLE,
    }


def test_every_reason_and_problem_has_phrase() -> None:
    assert retention_words() <= TRANSLATIONS.keys()
    assert {f"rule.{rule}" for rule in RetentionPolicy.__slots__} <= TRANSLATIONS.keys()
    for task in ("backup", "replicate", "drill"):
        assert {
            f"{part}.{task}" for part in ("problem.never", "problem.late", "unset", "state.never", "state.late")
        } <= TRANSLATIONS.keys()
    kinds = set(get_args(ProblemKind)) - {"never", "late"}
    assert {f"problem.{kind}" for kind in kinds} <= TRANSLATIONS.keys()
    assert {f"state.{kind}" for kind in kinds - {"failed"}} <= TRANSLATIONS.keys()
    assert {f"state.failed.{task}" for task in get_args(Task)} <= TRANSLATIONS.keys()
    assert {f"advice.{name}" for name in (*get_args(Task), *kinds - {"failed"})} <= TRANSLATIONS.keys()


def test_every_state_and_step_of_deploy_has_phrase() -> None:
    assert {f"deploy.{state}" for state in get_args(DeployState)} <= TRANSLATIONS.keys()
    assert {f"gate.state.{state}" for state in set(get_args(DeployState)) - {"superseded"}} <= TRANSLATIONS.keys()
    assert {f"gate.advice.{state}" for state in ("stopped", "unhealthy", "interrupted")} <= TRANSLATIONS.keys()
    assert {f"step.{step}" for step in STEPS} <= TRANSLATIONS.keys()
    assert {f"step.state.{state}" for state in get_args(StepState)} <= TRANSLATIONS.keys()
    assert {f"sign.{severity}" for severity in get_args(Severity)} <= TRANSLATIONS.keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_missing_placeholder_is_error(language: Language) -> None:
    with pytest.raises(KeyError):
        Localizer(language, UTC).translate("problem.failed", task="backup")
