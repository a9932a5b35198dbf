"""Texts that people read use the standard words: help, errors, alerts, log messages and documentation."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What is kept on purpose: `path | phrase | reason`, one a line.
ALLOWED = Path(__file__).with_name("plain_english_allowed.txt")

# Phrase (a regular expression) and what to write instead.
PHRASES = {
    r"anew": "again, or: new",
    r"(?<!`)nobody(?!`)|somebody|whoever|whomever": "name the subject: no process, another user, the operator",
    r"half-made": "partial",
    r"for ever": "indefinitely",
    r"told of": "notified of",
    r"tells? neither": "reports no …",
    r"lets? (?:it|them) go|lets? go|letting go": "release, or: remove",
    r"lets? in|letting in": "accept",
    r"(?<!there )is no (?!longer\b)\w+": "is not a …",
    r"stands? in between": "this may be a man-in-the-middle",
    r"at work on": "in use by, or: copying, writing",
    r"what may be": "name it",
    r"none of ours|none that there": "not created by backupd",
    r"spared": "saved, resumed",
    r"in vain": "without effect",
    r"meanwhile": "while …",
    r"hence|thereof|wherever it": "so, of it, where it",
    r"the like": "and so on, or: name it",
    r"good word": "resolved",
    r"troubles?": "problem",
    r"broken off by": "unexpected error",
    r"the file system said": "I/O error",
    r"no room is left": "no space left on",
    r"(?:bears?|bore|borne|bearing) (?:its|that|this|the|one of these) names?": "has its name",
    r"looks? after|looking after": "owns, or: runs",
    r"your word that": "confirm that",
    r"heal(?:s|ed|ing)?": "recover",
    r"thaw(?:s|ed|ing)?": "release",
    r"(?:stands?|standing) still": "has stopped",
    r"as good as none": "is the same as unset",
    r"by name of": "named",
}
_PATTERNS = {re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE): better for phrase, better in PHRASES.items()}


@dataclass(frozen=True)
class Finding:
    """A phrase in a text, and what to write instead."""

    path: str
    line: int
    phrase: str
    better: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r}: write {self.better!r}"


def strings_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and value of each string, except docstrings that are not the help of a command."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node)
        and not _is_command(node)
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def _is_command(node: ast.AST) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return any(".command" in ast.unparse(each) or ".group" in ast.unparse(each) for each in decorators)


def phrases_in(path: Path, texts: Iterator[tuple[int, str]]) -> Iterator[Finding]:
    name = str(path.relative_to(ROOT))
    for first, text in texts:
        for pattern, better in _PATTERNS.items():
            for match in pattern.finditer(text):
                yield Finding(name, first + text.count("\n", 0, match.start()), " ".join(match[0].split()), better)


def documents() -> list[Path]:
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "config.example.toml"]
    texts += [path for path in (ROOT / "deploy").rglob("*") if path.suffix in {".md", ".yml", ".json"}]
    return sorted(path for path in texts if not path.name.endswith(".es.md"))


def allowed() -> set[tuple[str, str]]:
    lines = [line.split(" | ") for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#")]
    assert all(len(line) == 3 and line[2] for line in lines), "an allowed phrase needs a reason"
    return {(path, phrase) for path, phrase, _ in lines}


def rejected(findings: Iterator[Finding]) -> str:
    return "\n".join(str(one) for one in findings if (one.path, one.phrase) not in allowed())


def test_strings_of_code_have_no_odd_phrases() -> None:
    paths = sorted((ROOT / "backupd").rglob("*.py"))
    assert paths
    assert not (found := rejected(f for p in paths for f in phrases_in(p, strings_of(ast.parse(p.read_text()))))), found


def test_documents_have_no_odd_phrases() -> None:
    paths = documents()
    assert len(paths) > 20
    assert not (found := rejected(f for p in paths for f in phrases_in(p, iter([(1, p.read_text())])))), found


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("/x is no directory", "is no directory"),
        ("interrupted: nothing\nhalf-made stays", "half-made"),
        ("2 Troubles, 1 good word", "Troubles"),
    ],
)
def test_odd_phrase_is_found(text: str, phrase: str) -> None:
    assert phrase in [found.phrase for found in phrases_in(ROOT / "README.md", iter([(1, text)]))]


@pytest.mark.parametrize("text", ["there is no database at /x", "it is no longer needed", "the healthcheck is green"])
def test_plain_text_passes(text: str) -> None:
    assert list(phrases_in(ROOT / "README.md", iter([(1, text)]))) == []


def test_docstrings_are_skipped_except_help_of_commands() -> None:
    tree = ast.parse(
        '@click.command()\ndef command():\n    "help"\n\ndef other():\n    "docstring"\n    return "message"\n'
    )
    assert {text for _, text in strings_of(tree)} == {"help", "message"}
