"""The example is generated from the schema, and is valid."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from backupd.config import load_config
from backupd.config.example import example_toml
from backupd.config.file import lines_of
from backupd.config.schema import ANY, all_keys

ROOT = Path(__file__).parents[2]
CHOSEN_NAMES = {"sources": "tasks", "replicas": "offsite", "pings": "backup", "gate": "tasks", "files": "uploads"}


def uncommented() -> str:
    """Return the example with every key and section active; prose has a space behind its `#`."""
    return re.sub(r"(?m)^#(?=\S)", "", example_toml())


def usable() -> str:
    """Return it without the keys that do not go with others."""
    return re.sub(r"(?m)^(caprover_webhook|exclude) = .*\n", "", uncommented())


def test_example_in_repository_matches_schema() -> None:
    command = [sys.executable, "-m", "backupd.config.example"]
    generated = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert generated == example_toml()
    assert (ROOT / "config.example.toml").read_text(encoding="utf-8") == generated


def test_example_is_valid_and_has_only_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(example_toml(), encoding="utf-8")
    config = load_config(file, {})
    plain = load_config(None, {"BACKUPD_DATABASE": "/app/data/tasks.db"}, tmp_path / "none")
    assert config.model_dump() == plain.model_dump()


def test_each_commented_key_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(usable(), encoding="utf-8")
    load_config(file, {})


def test_each_shown_default_is_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(usable(), encoding="utf-8")
    shown = load_config(file, {})
    plain = load_config(None, {"BACKUPD_DATABASE": "/app/data/tasks.db"}, tmp_path / "none")
    for section in ("sources", "backups_dir", "retention", "shrink_guard", "lock"):
        assert getattr(shown, section) == getattr(plain, section)


def test_each_key_of_schema_is_in_example_with_description() -> None:
    text = uncommented()
    lines, places = example_toml().split("\n"), lines_of(text)
    for key in all_keys():
        path = tuple(CHOSEN_NAMES[key.path[index - 1]] if part == ANY else part for index, part in enumerate(key.path))
        assert path in places, f"{path} is not in the example"
        above = lines[places[path] - 2]
        assert above.startswith("# ") or key.path[-1] == ANY, f"{path} has no description"


def test_example_is_valid_toml() -> None:
    assert tomllib.loads(example_toml())["sources"] == {"tasks": {"path": "/app/data/tasks.db"}}
