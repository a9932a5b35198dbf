"""What retention promises: pinned by golden files, simulated over two years, and held as invariants.

After a change that is meant, write the golden files anew and read the difference, line by line:

    python tests/test_retention.py --write-golden && git diff tests/golden/retention
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.errors import PolicyEmpty
from backupd.model import CLOCK_TOLERANCE, Generation, Hold, RetentionPlan, RetentionPolicy, Verification, generation_id
from backupd.retention import DAMAGED, FUTURE, LAST_VERIFIED, plan_retention

GOLDEN = Path(__file__).parent / "golden" / "retention"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)  # a Sunday, the last day of 2026-W47
LAST_NIGHT = NOW.replace(hour=3)
DAY = timedelta(days=1)
SANTIAGO = ZoneInfo("America/Santiago")
TOKYO = ZoneInfo("Asia/Tokyo")
DEFAULT = RetentionPolicy()
NOTHING = RetentionPolicy(daily=0, weekly=0)
CORRUPT_HOLD = Hold("tasks", "corrupt", NOW, "integrity_check of the source failed", "tasks-20261122-0300")
SHRINK_HOLD = replace(CORRUPT_HOLD, kind="shrink", reason="half of the rows are gone")

# What each rule calls one period, told without strftime: a second opinion for the tests below.
PERIODS: dict[str, Callable[[datetime], object]] = {
    "daily": lambda local: local.date(),
    "weekly": lambda local: local.date() - timedelta(days=local.weekday()),
    "monthly": lambda local: (local.year, local.month),
    "yearly": lambda local: local.year,
}


# ---- histories


def taken(at: datetime, *, attempt: int = 1, verification: Verification = "full", damaged: bool = False) -> Generation:
    """Return the generation of `tasks` taken at `at`."""
    return Generation(
        id=generation_id("tasks", at, attempt),
        source="tasks",
        taken_at=at.astimezone(UTC),
        archive_bytes=1_000,
        snapshot_bytes=4_096,
        verification=verification,
        damaged=damaged,
    )


def every(step: timedelta, count: int, until: datetime = LAST_NIGHT) -> list[Generation]:
    """Return `count` generations, one each `step`, the newest taken at `until`."""
    return [taken(until - n * step) for n in range(count)]


def nightly(first: date, days: int, zone: tzinfo, hour: int, minute: int = 0) -> list[Generation]:
    """Return one generation for each of `days` days, at one time by the clock of `zone`; oldest first."""
    dates = (first + n * DAY for n in range(days))
    return [taken(datetime(d.year, d.month, d.day, hour, minute, tzinfo=zone)) for d in dates]


# ---- golden files


@dataclass(frozen=True)
class Case:
    """One history under one policy, and what is worth looking at in it."""

    about: str
    generations: Sequence[Generation]
    policy: RetentionPolicy = DEFAULT
    now: datetime = NOW
    zone: tzinfo = UTC
    hold: Hold | None = None

    def plan(self) -> RetentionPlan:
        """Return what retention decides."""
        return plan_retention(self.generations, self.policy, self.now, self.zone, self.hold)


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


CASES = {
    "daily-two-years": Case("One a night for two years, under the policy that is the default.", every(DAY, 730)),
    "daily-two-years-all-rules": Case(
        "One a night for two years; months and years too. Several rules keep one and the same generation.",
        every(DAY, 730),
        RetentionPolicy(last=3, daily=7, weekly=4, monthly=12, yearly=5),
    ),
    "several-a-day": Case(
        "Every six hours for five weeks: the newest of a day stands for the day.",
        every(timedelta(hours=6), 140, NOW),
    ),
    "several-a-day-last": Case(
        "Every six hours for a week: `last` spares today's and yesterday's.",
        every(timedelta(hours=6), 28, NOW),
        RetentionPolicy(last=6, daily=3, weekly=0),
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
        RetentionPolicy(daily=4, weekly=2),
        zone=TOKYO,
    ),
    "tokyo-as-utc": Case(
        "The same history by UTC, to compare: other generations are the last of their day and week.",
        every(timedelta(hours=8), 24, NOW.replace(hour=7)),
        RetentionPolicy(daily=4, weekly=2),
    ),
    "santiago-spring": Case(
        "Every hour over 5 September 2026, 24:00, when Santiago jumps to 01:00: Sunday has 23 hours.",
        every(timedelta(hours=1), 60, datetime(2026, 9, 7, 15, 30, tzinfo=UTC)),
        RetentionPolicy(daily=3, weekly=2),
        now=datetime(2026, 9, 7, 16, tzinfo=UTC),
        zone=SANTIAGO,
    ),
    "santiago-autumn": Case(
        "Every hour over 4 April 2026, 24:00, when Santiago goes back to 23:00: Saturday has 25 hours.",
        every(timedelta(hours=1), 60, datetime(2026, 4, 6, 15, 30, tzinfo=UTC)),
        RetentionPolicy(daily=3, weekly=2),
        now=datetime(2026, 4, 6, 16, tzinfo=UTC),
        zone=SANTIAGO,
    ),
    "iso-weeks-at-new-year": Case(
        "Nightly over New Year 2027: 2026-W53 runs until 3 January, and is one week, not two.",
        every(DAY, 40, datetime(2027, 1, 12, 3, tzinfo=UTC)),
        RetentionPolicy(daily=2, weekly=6, monthly=2, yearly=2),
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
        RetentionPolicy(daily=2, weekly=0),
    ),
    "clock-behind": Case(
        "A machine that woke up in 1970: all others seem to come from the future, and stay.",
        [*every(timedelta(hours=1), 4, datetime(1970, 1, 1, 3, tzinfo=UTC)), *every(DAY, 10)],
        now=datetime(1970, 1, 1, 3, tzinfo=UTC),
    ),
    "all-ahead": Case(
        "All dated in the future, the newest of them damaged: the newest sound one is the last verified.",
        [replace(taken(NOW + 9 * DAY), damaged=True), *every(DAY, 3, NOW + 8 * DAY)],
        RetentionPolicy(last=1, daily=0, weekly=0),
    ),
    "hold-corrupt": Case(
        "The source is corrupt: nothing goes. What would stay anyway says so.",
        with_damage(),
        RetentionPolicy(daily=3, weekly=1),
        hold=CORRUPT_HOLD,
    ),
    "hold-shrink": Case(
        "The source shrank: nothing goes, not even under the smallest policy.",
        every(DAY, 5),
        RetentionPolicy(last=1, daily=0, weekly=0),
        hold=SHRINK_HOLD,
    ),
    "only-last": Case("Only the newest five.", every(DAY, 12), RetentionPolicy(last=5, daily=0, weekly=0)),
    "only-the-last-one": Case("Only the newest.", every(DAY, 4), RetentionPolicy(last=1, daily=0, weekly=0)),
    "yearly": Case(
        "One on the first of each month for five years; the newest of each of three years stays.",
        monthly_for(5),
        RetentionPolicy(daily=0, weekly=0, yearly=3),
    ),
    "same-minute": Case(
        "Three by hand within one minute: the id tells them apart.",
        [taken(NOW, attempt=n) for n in (1, 2, 3)],
        RetentionPolicy(last=2, daily=0, weekly=0),
    ),
}


def as_text(case: Case) -> str:
    """Return the plan of `case` for people: newest first, times by the clock of its zone."""
    counts = " ".join(f"{rule}={count}" for rule, count in asdict(case.policy).items() if count)
    held = f"   hold: {case.hold.kind}" if case.hold else ""
    plan = case.plan()
    fates = {kept.generation.id: ("KEEP", ", ".join(kept.reasons)) for kept in plan.keep}
    fates |= {removed.generation.id: ("REMOVE", removed.reason) for removed in plan.remove}
    lines = [
        f"# {case.about}",
        f"# policy: {counts}   now: {case.now:%Y-%m-%dT%H:%MZ}   zone: {case.zone}{held}",
    ]
    lines.append(f"# keeps {len(plan.keep)}, removes {len(plan.remove)}")
    width = max(map(len, fates))
    for generation in sorted(case.generations, key=lambda g: (g.taken_at, g.id), reverse=True):
        fate, why = fates[generation.id]
        local = generation.taken_at.astimezone(case.zone)
        lines.append(f"{fate:<6} {generation.id:<{width}}  {local:%a %Y-%m-%d %H:%M %z}  {why}")
    return "\n".join(lines) + "\n"


def write_golden() -> None:
    """Write each golden file anew, and take away those without a case."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for path in GOLDEN.glob("*.txt"):
        path.unlink()
    for name, case in CASES.items():
        (GOLDEN / f"{name}.txt").write_text(as_text(case), encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_the_one_in_the_golden_file(name: str) -> None:
    assert as_text(CASES[name]) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_each_golden_file_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


# ---- single promises


def survivors(plan: RetentionPlan) -> list[Generation]:
    """Return all that stay, newest first."""
    return [kept.generation for kept in plan.keep]


def removed_ids(plan: RetentionPlan) -> set[str]:
    """Return the ids of all that go."""
    return {removed.generation.id for removed in plan.remove}


def held_under(rule: str, plan: RetentionPlan) -> set[str]:
    """Return the ids of those that stay on account of `rule`."""
    return {key for key, reasons in plan.reasons().items() if any(r.split()[0] == rule for r in reasons)}


def test_a_policy_that_keeps_nothing_is_refused_with_a_hint() -> None:
    with pytest.raises(PolicyEmpty, match="keeps nothing") as refused:
        plan_retention(every(DAY, 3), NOTHING, NOW)
    assert "to 1 or more" in refused.value.hint


@pytest.mark.parametrize("rule", asdict(DEFAULT))
def test_a_negative_count_is_refused_by_name_even_beside_a_good_one(rule: str) -> None:
    policy = replace(RetentionPolicy(last=1, daily=1), **{rule: -1})
    with pytest.raises(PolicyEmpty, match=f"{rule} = -1") as refused:
        plan_retention([], policy, NOW)
    assert "none below 0" in refused.value.hint


def test_an_empty_policy_is_refused_under_a_hold_too() -> None:
    with pytest.raises(PolicyEmpty):
        plan_retention(every(DAY, 3), NOTHING, NOW, hold=CORRUPT_HOLD)


def test_two_sources_in_one_plan_are_refused() -> None:
    other = replace(taken(NOW), source="users")
    with pytest.raises(ValueError, match="one source at a time, not for tasks, users"):
        plan_retention([*every(DAY, 2), other], DEFAULT, NOW)


def test_a_hold_of_another_source_is_refused() -> None:
    with pytest.raises(ValueError, match="one source at a time, not for tasks, users"):
        plan_retention(every(DAY, 2), DEFAULT, NOW, hold=replace(CORRUPT_HOLD, source="users"))


def test_one_generation_given_twice_is_refused_for_its_removal_would_take_the_kept_one_along() -> None:
    with pytest.raises(ValueError, match="share an id"):
        plan_retention(every(DAY, 2) * 2, DEFAULT, NOW)


@pytest.mark.parametrize("hold", [None, CORRUPT_HOLD])
def test_nothing_to_decide_gives_an_empty_plan(hold: Hold | None) -> None:
    assert plan_retention([], DEFAULT, NOW, hold=hold) == RetentionPlan((), ())


def test_generations_may_come_from_an_iterator() -> None:
    assert plan_retention(iter(every(DAY, 20)), DEFAULT, NOW) == plan_retention(every(DAY, 20), DEFAULT, NOW)


def test_one_backup_after_a_month_off_pushes_out_one_day_and_one_week_and_no_more() -> None:
    """offen/docker-volume-backup#631: there, every older backup was deleted, "as intended"."""
    before = plan_retention(every(DAY, 60, LAST_NIGHT - 31 * DAY), DEFAULT, NOW)
    after = plan_retention([*survivors(before), taken(NOW)], DEFAULT, NOW)
    assert before.reasons()["tasks-20261016-0300"] == ("daily 2026-10-16",)
    assert before.reasons()["tasks-20261004-0300"] == ("weekly 2026-W40",)
    assert removed_ids(after) == {"tasks-20261016-0300", "tasks-20261004-0300"}


def test_the_tolerance_for_a_clock_that_runs_ahead_ends_with_the_tenth_minute() -> None:
    edge = taken(NOW + CLOCK_TOLERANCE)
    beyond = replace(edge, taken_at=edge.taken_at + timedelta(microseconds=1))
    assert FUTURE not in plan_retention([edge], DEFAULT, NOW).keep[0].reasons
    assert FUTURE in plan_retention([beyond], DEFAULT, NOW).keep[0].reasons


def test_a_day_that_comes_back_after_midnight_still_has_one_slot() -> None:
    """St. John's put its clocks back at 00:01 until 2011: Sunday began, was Saturday again, began again."""
    zone = ZoneInfo("America/St_Johns")
    midnight = datetime(2010, 11, 7, 2, 30, tzinfo=UTC)  # 00:00 NDT, one minute before 23:01 NST
    times = [midnight - timedelta(minutes=1), midnight, midnight + timedelta(minutes=30)]
    assert [t.astimezone(zone).day for t in times] == [6, 7, 6]
    plan = plan_retention(map(taken, times), RetentionPolicy(daily=9, weekly=0), NOW, zone)
    assert [kept.reasons[0] for kept in plan.keep] == ["daily 2010-11-06", "daily 2010-11-07"]
    assert [removed.reason for removed in plan.remove] == ["a newer one of 2010-11-06 stays"]


# ---- two years, day by day: back up, then prune


def live(
    generations: Iterable[Generation], policy: RetentionPolicy, zone: tzinfo
) -> Iterator[tuple[datetime, RetentionPlan]]:
    """Back up and prune, night after night; yield each night's time and plan, once it is carried out."""
    store: list[Generation] = []
    for generation in generations:
        plan = plan_retention([*store, generation], policy, generation.taken_at, zone)
        store = survivors(plan)
        yield generation.taken_at, plan


def test_two_years_of_nights_leave_the_seven_last_days_and_the_four_last_sundays() -> None:
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


# ---- invariants of any history


def by_hand(generations: Iterable[Generation], rule: str, count: int, zone: tzinfo) -> set[str]:
    """Return the ids of the newest of each of the `count` newest periods: by another way than retention's."""
    newest: dict[object, Generation] = {}
    for generation in sorted(generations, key=lambda g: (g.taken_at, g.id)):
        period = PERIODS[rule](generation.taken_at.astimezone(zone))
        newest.pop(period, None)  # what is put in again goes to the end, where the newest periods are
        newest[period] = generation
    return {generation.id for generation in list(newest.values())[-count:]} if count else set()


grades: tuple[Verification, ...] = ("full", "full", "full", "structural", "corrupt")
verifications = st.sampled_from(grades)
damages = st.sampled_from((False, False, False, True))


@st.composite
def histories(draw: st.DrawFn, *, sound: bool = False) -> list[Generation]:
    """Draw generations in any order, from 900 days old to 5 days ahead; with `sound`, verified past ones."""
    minutes = st.integers(0 if sound else -5 * 24 * 60, 900 * 24 * 60)
    ages = draw(st.lists(minutes | st.integers(0, 400).map(lambda n: n * 360), max_size=60))
    attempts: dict[int, int] = {}
    generations = []
    for age in ages:
        attempts[age] = attempts.get(age, 0) + 1
        generation = taken(NOW - timedelta(minutes=age), attempt=attempts[age])
        if not sound:
            generation = replace(generation, verification=draw(verifications), damaged=draw(damages))
        generations.append(generation)
    return generations


counts = st.integers(0, 6)
policies = st.builds(RetentionPolicy, counts, counts, counts, counts, counts).filter(lambda p: p != NOTHING)
zones = st.sampled_from((UTC, TOKYO, SANTIAGO, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Pacific/Pago_Pago")))
cases = st.builds(Case, st.just("drawn"), histories(), policies, zone=zones)
sound_cases = st.builds(Case, st.just("drawn"), histories(sound=True), policies, zone=zones)


def holds_for_any(
    *strategies: st.SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Do as `given` does, without a deadline: a busy machine breaks no promise."""
    return lambda test: settings(deadline=None)(given(*strategies)(test))


def age(generation: Generation) -> tuple[datetime, str]:
    """Return what generations are ordered by."""
    return generation.taken_at, generation.id


def countable(case: Case) -> list[Generation]:
    """Return those that may take slots, newest first."""
    past = [g for g in case.generations if g.verified and g.taken_at <= case.now + CLOCK_TOLERANCE]
    return sorted(past, key=age, reverse=True)


def rules_in_use(case: Case) -> int:
    """Return how many rules keep anything."""
    return sum(count > 0 for count in asdict(case.policy).values())


@holds_for_any(cases)
def test_each_rule_holds_just_the_newest_of_its_newest_periods(case: Case) -> None:
    plan = case.plan()
    ranked = countable(case)
    assert held_under("last", plan) == {generation.id for generation in ranked[: case.policy.last]}
    for rule in PERIODS:
        assert held_under(rule, plan) == by_hand(ranked, rule, asdict(case.policy)[rule], case.zone)


@holds_for_any(cases)
def test_each_generation_either_stays_or_goes_and_says_why(case: Case) -> None:
    plan = case.plan()
    decided = survivors(plan) + [removed.generation for removed in plan.remove]
    assert len(decided) == len(case.generations)
    assert set(decided) == set(case.generations)
    assert all(kept.reasons and all(kept.reasons) for kept in plan.keep)
    assert all(len(set(kept.reasons)) == len(kept.reasons) for kept in plan.keep)
    assert all(removed.reason for removed in plan.remove)


@holds_for_any(cases)
def test_both_lists_are_newest_first(case: Case) -> None:
    plan = case.plan()
    for generations in (survivors(plan), [removed.generation for removed in plan.remove]):
        assert generations == sorted(generations, key=age, reverse=True)


@holds_for_any(cases)
def test_the_reason_of_a_removal_is_true(case: Case) -> None:
    """Either a newer one of that very period holds a slot, or newer ones hold all the slots there are."""
    plan = case.plan()
    slots = {reason: kept.generation for kept in plan.keep for reason in kept.reasons}
    held = {rule: held_under(rule, plan) for rule in asdict(case.policy)}
    holders = [generation for generation in survivors(plan) if generation.id in set().union(*held.values())]
    for removed in plan.remove:
        if removed.reason.startswith("a newer one of "):
            period = removed.reason.split()[4]
            same = [generation for reason, generation in slots.items() if reason.endswith(f" {period}")]
            assert same
            assert all(age(generation) > age(removed.generation) for generation in same)
        else:
            assert removed.reason.startswith("older than the ")
            assert all(age(generation) > age(removed.generation) for generation in holders)
            assert {rule: len(ids) for rule, ids in held.items()} == asdict(case.policy)


@holds_for_any(cases)
def test_the_newest_verified_one_stays_under_any_policy(case: Case) -> None:
    ranked = countable(case) or countable(replace(case, now=NOW + 10 * DAY))
    assert held_under(LAST_VERIFIED, case.plan()) == {generation.id for generation in ranked[:1]}


@holds_for_any(cases)
def test_damaged_and_future_ones_stay_say_so_and_take_no_slot(case: Case) -> None:
    reasons = case.plan().reasons()
    for generation in case.generations:
        ahead = generation.taken_at > NOW + CLOCK_TOLERANCE
        stated = reasons.get(generation.id, ())
        assert (DAMAGED in stated) == (not generation.verified)
        assert (FUTURE in stated) == ahead
        if ahead or not generation.verified:
            assert set(stated) <= {DAMAGED, FUTURE, LAST_VERIFIED}


@holds_for_any(cases)
def test_damaged_and_future_ones_change_nothing_for_the_others(case: Case) -> None:
    assert case.plan().remove == replace(case, generations=countable(case)).plan().remove


@holds_for_any(cases, st.sampled_from((CORRUPT_HOLD, SHRINK_HOLD)))
def test_a_hold_removes_nothing_and_hides_no_reason(case: Case, hold: Hold) -> None:
    free, held = case.plan().reasons(), replace(case, hold=hold).plan()
    assert held.remove == ()
    assert held.reasons() == {g.id: (*free.get(g.id, ()), f"frozen: {hold.kind}") for g in case.generations}


@holds_for_any(cases, st.randoms(use_true_random=False))
def test_the_order_given_does_not_matter(case: Case, random: Random) -> None:
    shuffled = random.sample(case.generations, len(case.generations))
    assert replace(case, generations=shuffled).plan() == case.plan()


@holds_for_any(cases)
def test_a_plan_that_was_carried_out_has_no_successor(case: Case) -> None:
    first = case.plan()
    assert replace(case, generations=survivors(first)).plan() == replace(first, remove=())


@holds_for_any(cases, policies)
def test_a_larger_policy_keeps_all_that_a_smaller_one_keeps(case: Case, other: RetentionPolicy) -> None:
    larger = RetentionPolicy(*map(max, zip(astuple(case.policy), astuple(other), strict=True)))
    few, many = case.plan().reasons(), replace(case, policy=larger).plan().reasons()
    assert few.keys() <= many.keys()
    assert all(set(reasons) <= set(many[key]) for key, reasons in few.items())


@holds_for_any(cases, st.floats(0, 1))
def test_one_newer_generation_shifts_one_slot_of_each_rule_at_most(case: Case, part: float) -> None:
    """What goes by it was the newest (of the same day, week, …) or the oldest that one of the rules held."""
    ranked = countable(case)
    newest = ranked[0].taken_at if ranked else NOW - 900 * DAY
    newer = taken(newest + (NOW + CLOCK_TOLERANCE - newest) * part, attempt=99)
    before, after = case.plan(), replace(case, generations=[*case.generations, newer]).plan()
    shifted = removed_ids(after) - removed_ids(before)
    held = [[g.id for g in ranked if g.id in held_under(rule, before)] for rule in asdict(case.policy)]
    assert removed_ids(before) <= removed_ids(after)
    assert len(shifted) <= rules_in_use(case)
    assert shifted <= {g.id for g in ranked[:1]} | {ids[-1] for ids in held if ids}


@holds_for_any(cases, st.sets(st.integers(0, 59)))
def test_damage_found_later_makes_others_stay_and_none_go(case: Case, found: set[int]) -> None:
    worse = [replace(g, damaged=g.damaged or n in found) for n, g in enumerate(case.generations)]
    assert removed_ids(replace(case, generations=worse).plan()) <= removed_ids(case.plan())


@holds_for_any(sound_cases)
def test_pruning_after_each_backup_ends_where_pruning_once_does(case: Case) -> None:
    plans = [plan for _, plan in live(sorted(case.generations, key=age), case.policy, case.zone)]
    assert (plans[-1].keep if plans else ()) == case.plan().keep


@holds_for_any(cases, st.timedeltas(timedelta(0), 8 * DAY))
def test_time_alone_removes_nothing_but_by_those_no_longer_in_the_future(case: Case, passed: timedelta) -> None:
    later = replace(case, now=NOW + passed)
    arrived = len(countable(later)) - len(countable(case))
    gone = removed_ids(later.plan()) - removed_ids(case.plan())
    assert len(gone) <= rules_in_use(case) * arrived


@holds_for_any(sound_cases, st.timedeltas(timedelta(0), 5000 * DAY))
def test_years_later_a_store_without_new_backups_is_left_as_it_was(case: Case, passed: timedelta) -> None:
    assert replace(case, now=NOW + passed).plan() == case.plan()


if __name__ == "__main__":
    if sys.argv[1:] != ["--write-golden"]:
        sys.exit(f"usage: python {sys.argv[0]} --write-golden")
    write_golden()
