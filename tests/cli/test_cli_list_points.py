"""`backupd list --points`, and what other commands show of restore points."""

from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.archive.manifest import decode_manifest
from backupd.formatting import human_bytes
from backupd.tasks.context import TaskContext
from support.generations import backdated
from support.points import files_generation, publish_point


@pytest.fixture
def points(backups: Path, generation: str) -> list[str]:
    """Two restore points, the older one first; `other` did not change between them."""
    other, older = backdated(backups, generation, days=9, source="other"), backdated(backups, generation, days=5)
    found = []
    for key in (older, generation):
        manifest = decode_manifest((backups / f"{key}.manifest.json").read_bytes(), key)
        found.append(publish_point(backups, (key, other), at=manifest.taken_at))
    return found


def test_points_are_listed_with_parts_spread_and_reasons(
    typed: Keyboard, points: list[str], generation: str, backups: Path
) -> None:
    shown = typed("list", "--points")
    assert shown.code == 0, shown
    assert shown.out.index(points[1]) < shown.out.index(points[0])
    assert "3 ms apart" in shown.out
    assert "  tasks, other  " in shown.out
    facts = typed("list", "--points", "--json").json
    assert [one["id"] for one in facts] == [points[1], points[0]]
    newest = facts[0]
    (other,) = [path.name.split(".")[0] for path in backups.glob("other-*.sqlite3.gz")]
    assert [(part["source"], part["kind"], part["generation"]) for part in newest["parts"]] == [
        ("tasks", "database", generation),
        ("other", "database", other),
    ]
    assert (newest["spread_ms"], newest["verification"], newest["stores"]) == (3, "full", ["local"])
    assert "last-verified" in newest["kept_for"]
    assert (newest["pinned"], newest["label"]) == (False, "")


def test_generation_names_newest_point_that_it_is_part_of(typed: Keyboard, points: list[str], generation: str) -> None:
    by_id = {facts["id"]: facts for facts in typed("list", "--json").json}
    assert by_id[generation]["point"] == points[1]
    assert {facts["point"] for facts in by_id.values() if facts["source"] == "other"} == {points[1]}
    assert sorted(facts["point"] for facts in by_id.values() if facts["source"] == "tasks") == sorted(points)
    assert f"part of {points[1]}" in by_id[generation]["kept_for"]


def test_point_with_a_lost_part_is_named_with_what_to_do(
    typed: Keyboard, points: list[str], generation: str, backups: Path
) -> None:
    for path in backups.glob(f"{generation}.*"):
        path.unlink()
    shown = typed("list", "--points")
    assert f"{points[1]} cannot be restored as a whole (damaged or missing: {generation})" in shown.err
    assert f"{points[0]} cannot" not in shown.err
    by_id = {facts["id"]: facts["verification"] for facts in typed("list", "--points", "--json").json}
    assert by_id == {points[0]: "full", points[1]: "corrupt"}


def test_point_of_a_source_is_found_by_it(typed: Keyboard, points: list[str]) -> None:
    assert len(typed("list", "--points", "--source", "other", "--json").json) == len(points)
    assert typed("list", "--points", "--source", "third").code == 2


def test_point_shows_how_much_is_restored_of_it(
    typed: Keyboard, context: TaskContext, generation: str, backups: Path
) -> None:
    manifest = decode_manifest((backups / f"{generation}.manifest.json").read_bytes(), generation)
    files = files_generation(context, {"cat.jpg": b"cat" * 9999, "dog.jpg": b"dog" * 9999}, manifest.taken_at)
    point = publish_point(backups, (generation, files))
    (shown,) = typed("list", "--points", "--json").json
    assert [(part["files"], part["content_bytes"]) for part in shown["parts"]] == [
        (None, manifest.content_bytes),
        (2, 59_994),
    ]
    assert shown["content_bytes"] == manifest.content_bytes + 59_994
    assert f"1 database ({human_bytes(manifest.content_bytes)}), 2 files (58.6 KiB)" in typed("list", "--points").out
    (backups / f"{files}.manifest.json").unlink()
    (shown,) = typed("list", "--points", "--json").json
    assert (shown["id"], shown["content_bytes"], shown["parts"][1]["content_bytes"]) == (point, None, None)


def test_store_without_points_says_so(typed: Keyboard, generation: str, backups: Path) -> None:
    shown = typed("list", "--points")
    assert (shown.code, shown.out.strip()) == (0, f"no restore points in {backups}")
    assert typed("list", "--points", "--json").json == []
    assert [facts["point"] for facts in typed("list", "--json").json] == [None]
    assert generation


def test_points_are_pinned_pruned_and_removed_by_their_ids(typed: Keyboard, points: list[str], backups: Path) -> None:
    assert typed("pin", points[0], "--label", "before the migration").code == 0
    facts = {one["id"]: one for one in typed("list", "--points", "--json").json}
    assert (facts[points[0]]["pinned"], facts[points[0]]["label"]) == (True, "before the migration")
    planned = {one["id"]: one["action"] for one in typed("prune", "--dry-run", "--json").json}
    assert planned[points[0]] == planned[points[1]] == "keep"
    refused = typed("remove", points[0])
    assert (refused.code, "is pinned" in refused.err) == (1, True)
    assert typed("unpin", points[0]).code == 0
    assert typed("remove", points[0]).code == 0
    assert not (backups / f"{points[0]}.point.json").exists()
    assert typed("list", "--points").code == 0
