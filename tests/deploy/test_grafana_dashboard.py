"""The Grafana dashboard in Grafana's own types: what these do not know is lost when they read and write it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "backupd.json").read_text())
# Fields of the Prometheus plugin, which the types leave to it.
OF_PLUGIN = {
    *(f"annotations.list.{name}" for name in ("step", "titleFormat", "textFormat", "tagKeys", "useValueForTime")),
    "templating.list.definition",
}


def unknown_to_grafana(board: Any) -> set[str]:
    """Return the paths in `board` that are gone, or have changed, after Grafana's types have read and written it."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    pytest.importorskip("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    return set(_lost(board, json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(board)))))


def _lost(value: Any, read: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and isinstance(read, dict):
        for key, one in value.items():
            if one is not None:
                yield from _lost(one, read.get(key), f"{path}.{key}".strip("."))
    elif isinstance(value, list) and isinstance(read, list) and len(value) == len(read):
        for one, other in zip(value, read, strict=True):
            yield from _lost(one, other, path)
    elif value != read:
        yield path


def test_grafana_knows_every_field_of_dashboard() -> None:
    assert unknown_to_grafana(DASHBOARD) == OF_PLUGIN


@pytest.mark.parametrize("path", ["title", "panels.0.options", "panels.0.targets.0.expr", "panels.0.fieldConfig"])
def test_misspelt_field_of_dashboard_is_found(path: str) -> None:
    board = copy.deepcopy(DASHBOARD)
    *above, name = path.split(".")
    inner = board
    for part in above:
        inner = inner[int(part)] if part.isdecimal() else inner[part]
    inner[f"{name}Misspelt"] = inner.pop(name)
    assert unknown_to_grafana(board) > OF_PLUGIN
