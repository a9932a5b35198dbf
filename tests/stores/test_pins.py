"""A pin lasts until its time or its release; an unreadable one pins too."""

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.model import Pin
from backupd.stores.state import Pins

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MONTH = timedelta(days=30)
ID = "tasks-20261123-0400"
BY_HAND = Pin(ID, NOON, NOON + MONTH, "made by hand")
RESTORED = Pin(ID, NOON + timedelta(hours=1), None, "restored from")
OWNER = (4321, 8765)


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the pin on the generation is."""
    return tmp_path / "pins" / f"{ID}.json"


def test_pins_are_returned_as_set_by_generation(pins: Pins) -> None:
    other = replace(RESTORED, generation=f"{ID}-2", label='before the "big" migration')
    assert pins.all() == {}
    assert (pins.set(BY_HAND), pins.set(other)) == (BY_HAND, other)
    assert pins.all() == {ID: BY_HAND, f"{ID}-2": other}
    assert pins.get(ID) == BY_HAND
    assert pins.get("tasks-20261123-0401") is None


def test_pin_holds_until_its_time_or_indefinitely() -> None:
    assert BY_HAND.holds(NOON + MONTH - timedelta(microseconds=1))
    assert not BY_HAND.holds(NOON + MONTH)
    assert RESTORED.holds(NOON + 10_000 * MONTH)


def test_second_pin_never_shortens_first_and_keeps_start_and_label(pins: Pins) -> None:
    pins.set(replace(BY_HAND, label="v2"))
    assert pins.set(RESTORED) == replace(RESTORED, since=NOON, label="v2")
    later = replace(BY_HAND, since=NOON + MONTH, until=NOON + 2 * MONTH, label="v3")
    assert pins.set(later) == replace(RESTORED, since=NOON, label="v3")
    assert pins.all() == {ID: replace(RESTORED, since=NOON, label="v3")}


def test_expired_pin_does_not_affect_next(pins: Pins) -> None:
    pins.set(replace(BY_HAND, label="old"))
    later = replace(BY_HAND, since=NOON + 2 * MONTH, until=NOON + 3 * MONTH)
    assert pins.set(later) == later


def test_released_pin_is_gone_and_its_neighbour_is_not(pins: Pins) -> None:
    pins.set(BY_HAND)
    pins.set(replace(BY_HAND, generation=f"{ID}-2"))
    assert (pins.release(ID), pins.release(ID)) == (True, False)
    assert [*pins.all()] == [f"{ID}-2"]


@pytest.mark.parametrize("generation", ["../lock", "", "tasks", f"{ID}/../x"])
def test_pin_with_invalid_id_is_not_written(pins: Pins, tmp_path: Path, generation: str) -> None:
    (tmp_path / "lock.json").touch()
    with pytest.raises(ValueError, match="not a generation id"):
        pins.set(replace(BY_HAND, generation=generation))
    assert not pins.release(generation)
    assert [file.name for file in tmp_path.iterdir()] == ["lock.json"]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"since": "2026-11-23T12:00:00+00:00", "until": "soon", "reason": "x", "label": ""}',
        b'{"since": "2026-11-23T12:00:00+00:00", "until": "2026-11-24", "reason": "x", "label": ""}',
        b'{"since": "2026-11-23T12:00:00+00:00", "until": null, "reason": "x"}',
        b'{"since": "2026-11-23T12:00:00+00:00", "until": null, "reason": 7, "label": ""}',
        b"[" * 100_000,
    ],
)
def test_unreadable_pin_pins_until_released(pins: Pins, path: Path, damaged: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damaged)
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    expected = Pin(ID, NOON, None, f"{path} cannot be read")
    assert pins.all() == {ID: expected}
    pins.set(BY_HAND)
    assert pins.all() == {ID: expected}, "a shorter pin unpinned it"
    assert pins.release(ID)
    assert pins.all() == {}


def test_pin_has_mode_0600_and_leaves_no_temporary_file(pins: Pins, path: Path) -> None:
    path.parent.mkdir()
    for killed in (path, path.with_name("tasks-20261101-0400.json")):
        killed.with_suffix(".new").write_text("half of a pin")
    for _ in range(2):
        pins.set(BY_HAND)
    assert [file.name for file in path.parent.iterdir()] == [f"{ID}.json"]
    assert json.loads(path.read_bytes())["reason"] == "made by hand"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.root
def test_pin_created_by_root_belongs_to_owner_of_store(tmp_path: Path) -> None:
    os.chown(tmp_path, *OWNER)
    Pins(tmp_path).set(BY_HAND)
    for made in (tmp_path / "pins", tmp_path / "pins" / f"{ID}.json"):
        assert (made.stat().st_uid, made.stat().st_gid) == OWNER
