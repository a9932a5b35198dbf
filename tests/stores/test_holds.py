"""A hold on pruning lasts until an operator releases it; the first and the last damaged copy are kept."""

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.model import Hold
from backupd.retention import RetentionPolicy
from backupd.stores.state import Holds, Quarantine
from backupd.tasks.context import TaskContext
from backupd.tasks.prune import prune
from backupd.tasks.requests import RetentionRule
from support.held import held

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOLD = Hold("tasks", "shrink", NOON, "task went from 900 to 3 rows", "tasks-20261122-0400")
LATER = datetime(2026, 11, 24, 12, tzinfo=UTC)
OWNER = (4321, 8765)


@pytest.fixture
def holds(tmp_path: Path) -> Holds:
    return Holds(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the hold on `tasks` is."""
    return tmp_path / "holds" / "tasks.json"


# --- Holds ---


def test_hold_is_returned_as_set(holds: Holds) -> None:
    assert holds.get("tasks") is None
    assert holds.set(HOLD) == HOLD
    assert holds.get("tasks") == HOLD


def test_hold_concerns_only_its_source(holds: Holds) -> None:
    holds.set(HOLD)
    assert holds.get("task") is None
    assert holds.get("tasks2") is None
    assert not holds.release("tasks2")
    assert holds.get("tasks") == HOLD


def test_hold_lasts_until_released(holds: Holds) -> None:
    assert not holds.release("tasks")
    holds.set(HOLD)
    assert holds.release("tasks")
    assert holds.get("tasks") is None
    assert not holds.release("tasks")


def test_older_hold_keeps_its_start_and_reference(holds: Holds) -> None:
    holds.set(HOLD)
    newer = Hold("tasks", "corrupt", LATER, "malformed", "tasks-20261123-0400")
    assert holds.set(newer) == replace(newer, since=NOON, reference=HOLD.reference)
    assert holds.get("tasks") == replace(newer, since=NOON, reference=HOLD.reference)


def test_older_hold_without_reference_gets_one(holds: Holds) -> None:
    holds.set(replace(HOLD, reference=None))
    assert holds.set(replace(HOLD, since=LATER)).reference == HOLD.reference


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"null",
        b"[]",
        b'"tasks"',
        b"{}",
        b'{"since": "yesterday"}',
        b'{"since": 7}',
        b'{"source": "tasks", "kind": "shrink", "since": "2026-11-23T12:00:00+00:00", "reason": "x"}',
        b'{"source": "tasks", "kind": "shrink", "since": "2026-11-23", "reason": "x", "reference": null, "more": 1}',
        b"[" * 100_000,
    ],
)
def test_unreadable_hold_still_holds(holds: Holds, path: Path, damaged: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damaged)
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    hold = holds.get("tasks")
    assert hold is not None
    assert (hold.source, hold.since, hold.reference) == ("tasks", NOON, None)
    assert str(path) in hold.reason


def test_directory_named_as_hold_still_holds(holds: Holds, path: Path) -> None:
    path.mkdir(parents=True)
    assert holds.get("tasks") is not None


def test_hold_belongs_to_source_in_its_file_name(holds: Holds, path: Path) -> None:
    holds.set(replace(HOLD, source="other"))
    (path.parent / "other.json").rename(path)
    hold = holds.get("tasks")
    assert hold is not None
    assert hold.source == "tasks"


def test_unreadable_hold_is_replaced_and_keeps_its_start(holds: Holds, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    assert holds.set(replace(HOLD, since=LATER)) == HOLD
    assert holds.get("tasks") == HOLD


def test_unreadable_hold_can_be_released(holds: Holds, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    assert holds.release("tasks")
    assert holds.get("tasks") is None


def test_no_temporary_file_is_left_beside_hold(holds: Holds, path: Path) -> None:
    for _ in range(3):
        holds.set(HOLD)
    assert [p.name for p in path.parent.iterdir()] == ["tasks.json"]
    assert json.loads(path.read_bytes())["kind"] == "shrink"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.root
def test_hold_created_by_root_belongs_to_owner_of_store(tmp_path: Path) -> None:
    os.chown(tmp_path, *OWNER)
    Holds(tmp_path).set(HOLD)
    for path in (tmp_path / "holds", tmp_path / "holds" / "tasks.json"):
        assert (path.stat().st_uid, path.stat().st_gid) == OWNER


def test_prune_removes_nothing_under_unreadable_hold(context: TaskContext) -> None:
    place = context.store.hidden / "holds"
    place.mkdir()
    (place / "tasks.json").write_bytes(b"garbage")
    report, _ = prune("tasks", RetentionRule(RetentionPolicy(daily=1)), context)
    assert (report.outcome, report.details.removed) == ("done", ())
    assert (place / "tasks.json").exists()


# --- Quarantine ---


def quarantine(tmp_path: Path, name: str, source: str = "tasks") -> Path:
    """Put a damaged copy aside whose content is its name."""
    snapshot = tmp_path / "copy.sqlite3"
    snapshot.write_text(name)
    return Quarantine(tmp_path).add(source, name, held(snapshot), [f"{name} is malformed", "on page 7"])


def kept(tmp_path: Path, source: str = "tasks") -> list[str]:
    return sorted(path.name for path in (tmp_path / "quarantine" / source).iterdir())


def test_damaged_copy_is_quarantined_with_its_findings(tmp_path: Path) -> None:
    place = quarantine(tmp_path, "tasks-20261121-040000")
    assert place.read_text() == "tasks-20261121-040000"
    assert (place.parent / "findings.txt").read_text() == "tasks-20261121-040000 is malformed\non page 7\n"
    assert not (tmp_path / "copy.sqlite3").exists(), "it was copied, which takes twice the space"


def test_first_and_last_of_many_damaged_copies_are_kept(tmp_path: Path) -> None:
    names = [f"tasks-202611{day}-040000" for day in range(10, 16)]
    for name in names:
        quarantine(tmp_path, name)
        assert kept(tmp_path) == sorted({names[0], name})


def test_each_source_has_own_quarantine(tmp_path: Path) -> None:
    quarantine(tmp_path, "other-20261101-040000", "other")
    for day in range(10, 14):
        quarantine(tmp_path, f"tasks-202611{day}-040000")
    assert kept(tmp_path, "other") == ["other-20261101-040000"]


def test_other_files_in_quarantine_are_kept(tmp_path: Path) -> None:
    quarantine(tmp_path, "tasks-20261110-040000")
    (tmp_path / "quarantine" / "tasks" / "notes.txt").write_text("mine")
    for day in range(11, 14):
        quarantine(tmp_path, f"tasks-202611{day}-040000")
    assert (tmp_path / "quarantine" / "tasks" / "notes.txt").read_text() == "mine"


def test_second_copy_of_same_second_replaces_first(tmp_path: Path) -> None:
    quarantine(tmp_path, "tasks-20261110-040000")
    place = quarantine(tmp_path, "tasks-20261110-040000")
    assert place.is_file()
    assert kept(tmp_path) == ["tasks-20261110-040000"]


def test_quarantine_has_private_modes(tmp_path: Path) -> None:
    place = quarantine(tmp_path, "tasks-20261110-040000").parent
    assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in (place, place.parent, place / "findings.txt")] == [
        "0o700",
        "0o700",
        "0o600",
    ]


@pytest.mark.root
def test_quarantine_created_by_root_belongs_to_owner_of_store(tmp_path: Path) -> None:
    os.chown(tmp_path, *OWNER)
    quarantine(tmp_path, "tasks-20261110-040000")
    made = [tmp_path / "quarantine", *(tmp_path / "quarantine").rglob("*")]
    assert len(made) == 5
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {OWNER}
