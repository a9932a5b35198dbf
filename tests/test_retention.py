"""The rules of retention, one at a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from retention_histories import (
    CORRUPT_HOLD,
    DAY,
    DEFAULT,
    LAST_NIGHT,
    NOTHING,
    NOW,
    counts,
    every,
    numbers,
    removed_ids,
    survivors,
    taken,
)

from backupd.errors import PolicyEmpty
from backupd.model import CLOCK_TOLERANCE, Hold, Pin
from backupd.retention import FUTURE, RetentionPlan, RetentionPolicy, plan_retention


def test_policy_that_keeps_nothing_is_refused_with_hint() -> None:
    with pytest.raises(PolicyEmpty, match="keeps nothing") as refused:
        plan_retention(every(DAY, 3), NOTHING, NOW)
    assert "to 1 or more" in refused.value.hint


@pytest.mark.parametrize("rule", numbers(DEFAULT))
def test_negative_count_is_refused_by_name_beside_valid_one(rule: str) -> None:
    policy = replace(RetentionPolicy(last=1, daily=1), **{rule: -1})
    with pytest.raises(PolicyEmpty, match=f"{rule} = -1") as refused:
        plan_retention([], policy, NOW)
    assert "none below 0" in refused.value.hint


def test_negative_window_is_refused_and_window_alone_is_policy() -> None:
    with pytest.raises(PolicyEmpty, match="within = -60s"):
        plan_retention([], replace(DEFAULT, within=timedelta(minutes=-1)), NOW)
    plan = plan_retention(every(DAY, 5), replace(NOTHING, within=timedelta(days=1)), NOW)
    assert [kept.reasons[0] for kept in plan.keep] == ["within 24h", "within 24h", "window-start 24h"]
    assert {removed.reason for removed in plan.remove} == {"older than the window of 24h"}


def test_window_ends_with_last_microsecond() -> None:
    edge = taken(NOW - DEFAULT.within)
    beyond = replace(edge, id=f"{edge.id}-2", taken_at=edge.taken_at - timedelta(microseconds=1))
    plan = plan_retention([taken(NOW), edge, beyond], replace(DEFAULT, daily=1, weekly=0), NOW)
    reasons = plan.reasons()
    assert (reasons[edge.id], reasons[beyond.id]) == (("within 48h",), ("window-start 48h",))


def test_window_keeps_state_at_its_start_at_any_age() -> None:
    good, broken = taken(NOW - 31 * DAY), taken(NOW)
    assert plan_retention([good, broken], replace(NOTHING, last=1, within=timedelta(hours=1)), NOW).remove == ()


def test_label_in_reason_has_no_control_characters() -> None:
    only = taken(NOW)
    pin = Pin(only.id, NOW, None, "made by hand", "\x1b[2Jv2\n")
    assert plan_retention([only], DEFAULT, NOW, pins={only.id: pin}).keep[0].reasons[-1].isprintable()


def test_empty_policy_under_hold_is_refused() -> None:
    with pytest.raises(PolicyEmpty):
        plan_retention(every(DAY, 3), NOTHING, NOW, hold=CORRUPT_HOLD)


def test_two_sources_in_one_plan_are_refused() -> None:
    other = replace(taken(NOW), source="users")
    with pytest.raises(ValueError, match="one source at a time, not for tasks, users"):
        plan_retention([*every(DAY, 2), other], DEFAULT, NOW)


def test_hold_of_another_source_is_refused() -> None:
    with pytest.raises(ValueError, match="one source at a time, not for tasks, users"):
        plan_retention(every(DAY, 2), DEFAULT, NOW, hold=replace(CORRUPT_HOLD, source="users"))


def test_generation_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="share an id"):
        plan_retention(every(DAY, 2) * 2, DEFAULT, NOW)


@pytest.mark.parametrize("hold", [None, CORRUPT_HOLD])
def test_no_generations_give_empty_plan(hold: Hold | None) -> None:
    assert plan_retention([], DEFAULT, NOW, hold=hold) == RetentionPlan((), ())


def test_generations_may_come_from_iterator() -> None:
    assert plan_retention(iter(every(DAY, 20)), DEFAULT, NOW) == plan_retention(every(DAY, 20), DEFAULT, NOW)


def test_backup_after_a_month_without_removes_one_day_and_one_week_at_most() -> None:
    """offen/docker-volume-backup#631: there, every older backup was deleted, "as intended"."""
    before = plan_retention(every(DAY, 60, LAST_NIGHT - 31 * DAY), DEFAULT, NOW)
    after = plan_retention([*survivors(before), taken(NOW)], DEFAULT, NOW)
    assert before.reasons()["tasks-20261016-0300"] == ("daily 2026-10-16",)
    assert before.reasons()["tasks-20261004-0300"] == ("weekly 2026-W40",)
    assert removed_ids(after) == {"tasks-20261016-0300", "tasks-20261004-0300"}


def test_tolerance_for_clock_ahead_ends_with_tenth_minute() -> None:
    edge = taken(NOW + CLOCK_TOLERANCE)
    beyond = replace(edge, taken_at=edge.taken_at + timedelta(microseconds=1))
    assert FUTURE not in plan_retention([edge], DEFAULT, NOW).keep[0].reasons
    assert FUTURE in plan_retention([beyond], DEFAULT, NOW).keep[0].reasons


def test_day_repeated_after_midnight_has_one_slot() -> None:
    """St. John's put its clocks back at 00:01 until 2011: Sunday began, was Saturday again, began again."""
    zone = ZoneInfo("America/St_Johns")
    midnight = datetime(2010, 11, 7, 2, 30, tzinfo=UTC)  # 00:00 NDT, one minute before 23:01 NST
    times = [midnight - timedelta(minutes=1), midnight, midnight + timedelta(minutes=30)]
    assert [t.astimezone(zone).day for t in times] == [6, 7, 6]
    plan = plan_retention(map(taken, times), counts(daily=9, weekly=0), NOW, zone)
    assert [kept.reasons[0] for kept in plan.keep] == ["daily 2010-11-06", "daily 2010-11-07"]
    assert [removed.reason for removed in plan.remove] == ["a newer one of 2010-11-06 stays"]
