"""Each foreseen error has its own class, an exit code and a kind, and the documents list them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from backupd import errors
from backupd.errors import EXIT_CODES, BackupdError, ErrorKind

ROOT = Path(__file__).parent.parent
DRAWN = re.compile(r"^    [│├└─ ]*(\w+) +(\d+)  (\S+) +\S", re.MULTILINE)


def classes_below(base: type[BackupdError]) -> Iterator[tuple[int, type[BackupdError]]]:
    """Yield `base` and all its subclasses, each with its depth and before its own subclasses."""
    found: list[tuple[int, type[BackupdError]]] = [(0, base)]
    while found:
        depth, one = found.pop()
        yield depth, one
        found += [(depth + 1, below) for below in one.__subclasses__()]


def test_tree_in_docstring_matches_classes() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if DRAWN.match(line)]
    drawn = {match[1]: (match.start(1) - 4, int(match[2]), match[3]) for match in map(DRAWN.match, lines) if match}
    assert len(drawn) == len(lines)
    assert drawn == {one.__name__: (3 * depth, one.exit_code, one.kind) for depth, one in classes_below(BackupdError)}


def test_each_class_has_own_name_documented_kind_and_exit_code() -> None:
    classes = [one for _, one in classes_below(BackupdError)]
    assert len({one.__name__ for one in classes}) == len(classes)
    assert {one.kind for one in classes} == set(get_args(ErrorKind))
    assert {one.exit_code for one in classes} <= EXIT_CODES.keys()
    assert all(one.__doc__ != base.__doc__ for one in classes for base in one.__bases__)


def test_classes_are_defined_in_errors_only() -> None:
    assert {one.__module__ for _, one in classes_below(BackupdError)} == {errors.__name__}
    bases = {one.__name__ for _, one in classes_below(BackupdError)}
    for path in (ROOT / "backupd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py":
                assert not bases & {base.id for base in node.bases if isinstance(base, ast.Name)}, (path, node.name)


def test_base_class_is_never_raised() -> None:
    for path in (ROOT / "backupd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            made = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "BackupdError"
            assert not made, f"{path}:{getattr(node, 'lineno', 0)} makes a BackupdError: give it its class"


def test_documents_explain_each_kind() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    explained = re.findall(r"^\| `([a-z-]+)` \|", text.partition("### Causes")[2].partition("\n## ")[0], re.MULTILINE)
    assert explained == list(get_args(ErrorKind))
