"""Retention decisions about typical and odd histories, pinned by golden files.

After an intended change, write the golden files again and read the difference, line by line:

    python tests/test_retention_golden.py --write-golden && git diff tests/golden/retention
"""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from retention_histories import (
    CORRUPT_HOLD,
    DAY,
    LAST_NIGHT,
    NOW,
    SANTIAGO,
    SHRINK_HOLD,
    TOKYO,
    Case,
    counts,
    every,
    numbers,
    pinned,
    taken,
)

from backupd.formatting import written_span
from backupd.model import CLOCK_TOLERANCE, Generation
from backupd.retention import RetentionPolicy

GOLDEN = Path(__file__).parent / "golden" / "retention"


def with_damage() -> list[Generation]:
    """Return two weeks of nightly generations; the newest, a Sunday's and one in the middle are no good."""
    history = every(DAY, 14)
    history[0] = replace(history[0], verification="corrupt")
    history[4] = replace(history[4], damaged=True)
    history[7] = replace(history[7], verification="corrupt", damaged=True)
    return history


def monthly_for(years: int) -> list[Generation]:
    """Return a generation for the first of each month, up to this one."""
    return [taken(datetime(2026 - n // 12, 12 - n % 12, 1, 3, tzinfo=UTC)) for n in range(1, 12 * years)]


def with_pins() -> Case:
    """Return three weeks of nights, five of them pinned: two pins are over, one is on a damaged generation."""
    history = every(DAY, 21)
    history[12] = replace(history[12], damaged=True)
    pins = pinned(history[9], LAST_NIGHT) | pinned(history[10], LAST_NIGHT + timedelta(seconds=1))
    pins |= pinned(history[11], None, "before the migration to v2") | pinned(history[12], None)
    pins |= pinned(history[14], LAST_NIGHT - DAY) | pinned(taken(NOW - 900 * DAY), None)
    about = "Pins, beside the policy: they hold until the newest backup is as late as they say, or until released."
    return Case(about, history, counts(daily=3, weekly=1), zone=TOKYO, pins=pins)


CASES = {
    "daily-two-years": Case("One a night for two years, under the policy that is the default.", every(DAY, 730)),
    "daily-two-years-all-rules": Case(
        "One a night for two years; months and years too. Several rules keep one and the same generation.",
        every(DAY, 730),
        counts(last=3, daily=7, weekly=4, monthly=12, yearly=5),
    ),
    "several-a-day": Case(
        "Every six hours for five weeks: the newest of a day stands for the day.",
        every(timedelta(hours=6), 140, NOW),
    ),
    "several-a-day-last": Case(
        "Every six hours for a week: `last` spares today's and yesterday's.",
        every(timedelta(hours=6), 28, NOW),
        counts(last=6, daily=3, weekly=0),
    ),
    "month-off": Case(
        "Nightly until 22 October, then off for a month, then one: it takes one slot of each rule.",
        [*every(DAY, 1), *every(DAY, 40, LAST_NIGHT - 31 * DAY)],
    ),
    "once-a-week": Case(
        "One each Wednesday: seven days that have one are seven weeks, and hold more than four weekly do.",
        every(7 * DAY, 15, LAST_NIGHT - 4 * DAY),
    ),
    "fewer-than-asked": Case("Three nights: nothing goes before there is something to go for.", every(DAY, 3)),
    "tokyo": Case(
        "Every eight hours, days by the clock of Tokyo: there a day begins at 15:00 UTC.",
        every(timedelta(hours=8), 24, NOW.replace(hour=7)),
        counts(daily=4, weekly=2),
        zone=TOKYO,
    ),
    "tokyo-as-utc": Case(
        "The same history by UTC, to compare: other generations are the last of their day and week.",
        every(timedelta(hours=8), 24, NOW.replace(hour=7)),
        counts(daily=4, weekly=2),
    ),
    "santiago-spring": Case(
        "Every hour over 5 September 2026, 24:00, when Santiago jumps to 01:00: Sunday has 23 hours.",
        every(timedelta(hours=1), 60, datetime(2026, 9, 7, 15, 30, tzinfo=UTC)),
        counts(daily=3, weekly=2),
        now=datetime(2026, 9, 7, 16, tzinfo=UTC),
        zone=SANTIAGO,
    ),
    "santiago-autumn": Case(
        "Every hour over 4 April 2026, 24:00, when Santiago goes back to 23:00: Saturday has 25 hours.",
        every(timedelta(hours=1), 60, datetime(2026, 4, 6, 15, 30, tzinfo=UTC)),
        counts(daily=3, weekly=2),
        now=datetime(2026, 4, 6, 16, tzinfo=UTC),
        zone=SANTIAGO,
    ),
    "iso-weeks-at-new-year": Case(
        "Nightly over New Year 2027: 2026-W53 runs until 3 January, and is one week, not two.",
        every(DAY, 40, datetime(2027, 1, 12, 3, tzinfo=UTC)),
        counts(daily=2, weekly=6, monthly=2, yearly=2),
        now=datetime(2027, 1, 12, 12, tzinfo=UTC),
    ),
    "damaged": Case(
        "Two weeks, three nights no good, last night and a Sunday among them: the next older takes the slot.",
        with_damage(),
    ),
    "all-damaged": Case(
        "Nothing verified: nothing goes, and nothing is called the last verified.",
        [replace(generation, damaged=True) for generation in every(DAY, 10)],
    ),
    "clock-ahead": Case(
        "Ten nights; three were dated 2030 by a clock that ran ahead: they push out none of the good ones.",
        [*every(DAY, 3, datetime(2030, 1, 3, 3, tzinfo=UTC)), *every(DAY, 10)],
    ),
    "clock-slightly-ahead": Case(
        "Ten minutes ahead are forgiven, eleven are not.",
        [taken(NOW + CLOCK_TOLERANCE + timedelta(minutes=1)), taken(NOW + CLOCK_TOLERANCE), *every(DAY, 3)],
        counts(daily=2, weekly=0),
    ),
    "clock-behind": Case(
        "A machine that woke up in 1970: all others seem to come from the future, and stay.",
        [*every(timedelta(hours=1), 4, datetime(1970, 1, 1, 3, tzinfo=UTC)), *every(DAY, 10)],
        now=datetime(1970, 1, 1, 3, tzinfo=UTC),
    ),
    "all-ahead": Case(
        "All dated in the future, the newest of them damaged: the newest sound one is the last verified.",
        [replace(taken(NOW + 9 * DAY), damaged=True), *every(DAY, 3, NOW + 8 * DAY)],
        counts(last=1, daily=0, weekly=0),
    ),
    "hold-corrupt": Case(
        "The source is corrupt: nothing goes. What would stay anyway says so.",
        with_damage(),
        counts(daily=3, weekly=1),
        hold=CORRUPT_HOLD,
    ),
    "hold-shrink": Case(
        "The source shrank: nothing goes, not even under the smallest policy.",
        every(DAY, 5),
        counts(last=1, daily=0, weekly=0),
        hold=SHRINK_HOLD,
    ),
    "only-last": Case("Only the newest five.", every(DAY, 12), counts(last=5, daily=0, weekly=0)),
    "only-the-last-one": Case("Only the newest.", every(DAY, 4), counts(last=1, daily=0, weekly=0)),
    "yearly": Case(
        "One on the first of each month for five years; the newest of each of three years stays.",
        monthly_for(5),
        counts(daily=0, weekly=0, yearly=3),
    ),
    "same-minute": Case(
        "Three by hand within one minute: the id tells them apart.",
        [taken(NOW, attempt=n) for n in (1, 2, 3)],
        counts(last=2, daily=0, weekly=0),
    ),
    "second-of-the-day": Case(
        "The data broke at noon, and a second backup was taken: this morning's stays, under the default policy.",
        [taken(NOW, attempt=2), taken(NOW), *every(DAY, 9)],
    ),
    "hourly-by-default": Case(
        "Every hour for twelve days under the default policy: all of 48 hours, then one a day, then one a week.",
        every(timedelta(hours=1), 288, NOW),
    ),
    "hourly-for-a-week": Case(
        "Every twenty minutes for two days; one an hour for a day and a half, and all of two hours.",
        every(timedelta(minutes=20), 144, NOW),
        RetentionPolicy(within=timedelta(hours=2), hourly=36, daily=0, weekly=0),
    ),
    "hourly-santiago-autumn": Case(
        "Every half hour while Santiago goes from 24:00 back to 23:00: the hour that comes twice is two hours.",
        every(timedelta(minutes=30), 12, datetime(2026, 4, 5, 5, 45, tzinfo=UTC)),
        counts(hourly=9, daily=0, weekly=0),
        now=datetime(2026, 4, 5, 6, tzinfo=UTC),
        zone=SANTIAGO,
    ),
    "only-a-window": Case(
        "Nothing but a window: it ends at the newest backup, not now, so that a week without backups empties nothing.",
        every(timedelta(hours=12), 8, NOW - 7 * DAY),
        RetentionPolicy(within=timedelta(days=2), daily=0, weekly=0),
    ),
    "window-and-a-clock-ahead": Case(
        "Two were dated 2030 by a clock that ran ahead: the window ends at the newest of the others.",
        [*every(DAY, 2, datetime(2030, 1, 3, 3, tzinfo=UTC)), *every(timedelta(hours=12), 8)],
        RetentionPolicy(daily=1, weekly=0),
    ),
    "pins": with_pins(),
    "pins-while-backups-fail": Case(
        "No backup for five weeks: a pin whose date has passed holds, since nothing newer can take its place.",
        every(DAY, 12, LAST_NIGHT - 35 * DAY),
        counts(daily=2, weekly=0),
        pins=pinned(taken(LAST_NIGHT - 45 * DAY), LAST_NIGHT - 15 * DAY),
    ),
}


def as_text(case: Case) -> str:
    """Return the plan of `case` for people: newest first, times by the clock of its zone."""
    rules = [f"within={written_span(case.policy.within)}"] if case.policy.within else []
    rules += [f"{rule}={count}" for rule, count in numbers(case.policy).items() if count]
    held = f"   hold: {case.hold.kind}" if case.hold else ""
    plan = case.plan()
    fates = {kept.generation.id: ("KEEP", ", ".join(kept.reasons)) for kept in plan.keep}
    fates |= {removed.generation.id: ("REMOVE", removed.reason) for removed in plan.remove}
    lines = [
        f"# {case.about}",
        f"# policy: {' '.join(rules)}   now: {case.now:%Y-%m-%dT%H:%MZ}   zone: {case.zone}{held}",
    ]
    lines.append(f"# keeps {len(plan.keep)}, removes {len(plan.remove)}")
    width = max(map(len, fates))
    for generation in sorted(case.generations, key=lambda g: (g.taken_at, g.id), reverse=True):
        fate, why = fates[generation.id]
        local = generation.taken_at.astimezone(case.zone)
        lines.append(f"{fate:<6} {generation.id:<{width}}  {local:%a %Y-%m-%d %H:%M %z}  {why}")
    return "\n".join(lines) + "\n"


def write_golden() -> None:
    """Write all golden files again, and remove those without a case."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for path in GOLDEN.glob("*.txt"):
        path.unlink()
    for name, case in CASES.items():
        (GOLDEN / f"{name}.txt").write_text(as_text(case), encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_plan_matches_golden_file(name: str) -> None:
    assert as_text(CASES[name]) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_each_golden_file_has_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write-golden"]:
        sys.exit(f"usage: python {sys.argv[0]} --write-golden")
    write_golden()
