"""docs/architecture.md names every room of backupd/, in the order of the import contract, and only files that exist."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "backupd"
DRAWING = re.findall(r"^│ ([a-z_]+(?: \| [a-z_]+)*) {2,}\S", PAGE, re.MULTILINE)
NAMED = re.findall(r"`([\w./-]+(?:\.\w+|/))`", PAGE)


def test_drawing_shows_layers_in_order_of_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert [contract["layers"] for contract in contracts if contract["type"] == "layers"] == [DRAWING]


def test_drawing_names_every_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert {room for line in DRAWING for room in line.split(" | ")} == folders | modules


def test_named_files_exist() -> None:
    assert "tasks/backup.py" in NAMED
    missing = [name for name in NAMED if not any((base / name).exists() for base in (PACKAGE, ROOT))]
    assert missing == []


def test_contributing_points_to_architecture() -> None:
    assert "docs/architecture.md" in (ROOT / "CONTRIBUTING.md").read_text()
