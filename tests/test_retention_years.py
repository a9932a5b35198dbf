"""Two years of retention, day by day: back up, then prune."""

from dataclasses import asdict
from datetime import UTC, date, timedelta, tzinfo

import pytest
from retention_histories import (
    DAY,
    DEFAULT,
    PERIODS,
    SANTIAGO,
    TOKYO,
    by_hand,
    held_under,
    live,
    nightly,
    survivors,
)

from backupd.retention import RetentionPolicy, plan_retention

pytestmark = pytest.mark.no_cover


def test_two_years_of_nights_leave_last_seven_days_and_last_four_sundays() -> None:
    """Expected from the calendar alone: today and six days before, and the Sundays of three weeks before."""
    first = date(2024, 11, 23)  # a Saturday
    for at, plan in live(nightly(first, 730, UTC, hour=3), DEFAULT, UTC):
        today = at.date()
        monday = today - timedelta(days=today.weekday())
        days = {today - n * DAY for n in range(7)}
        sundays = {monday - timedelta(days=1 + 7 * n) for n in range(3)}
        stay = {d for d in days | sundays if d >= first}
        assert [generation.taken_at.date() for generation in survivors(plan)] == sorted(stay, reverse=True)
        assert plan_retention(survivors(plan), DEFAULT, at).remove == (), "pruning again finds nothing to do"


@pytest.mark.parametrize(
    "policy",
    [
        DEFAULT,
        RetentionPolicy(last=2, daily=5, weekly=3, monthly=6, yearly=2),
        RetentionPolicy(daily=0, weekly=8),
    ],
    ids=["default", "all rules", "weekly alone"],
)
@pytest.mark.parametrize(
    ("zone", "hour", "minute"),
    [(UTC, 3, 0), (SANTIAGO, 23, 30), (SANTIAGO, 0, 30), (TOKYO, 23, 59)],
    ids=["UTC", "Santiago before midnight", "Santiago after midnight", "Tokyo"],
)
def test_two_years_of_pruning_lose_no_slot(policy: RetentionPolicy, zone: tzinfo, hour: int, minute: int) -> None:
    """Each rule holds the newest of its newest periods among all ever made, not only among those left."""
    nights = nightly(date(2024, 11, 23), 730, zone, hour, minute)
    sizes = dict.fromkeys(PERIODS, 0)
    for night, (_, plan) in enumerate(live(nights, policy, zone), start=1):
        for rule in PERIODS:
            held = held_under(rule, plan)
            assert held == by_hand(nights[:night], rule, asdict(policy)[rule], zone)
            assert len(held) >= sizes[rule], "a rule never holds fewer than the night before"
            sizes[rule] = len(held)
        assert len(plan.remove) <= len(PERIODS) + 1, "one backup shifts one slot of each rule at most"
    assert sizes == {rule: asdict(policy)[rule] for rule in PERIODS}, "two years fill every slot"
