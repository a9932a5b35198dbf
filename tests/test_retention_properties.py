"""Properties of retention for any history, drawn by hypothesis and compared with independent calculations."""

from collections.abc import Callable
from dataclasses import astuple, replace
from datetime import UTC, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retention_histories import (
    CORRUPT_HOLD,
    DAY,
    DEFAULT,
    NOTHING,
    NOW,
    PERIODS,
    SANTIAGO,
    SHRINK_HOLD,
    TOKYO,
    Case,
    age,
    by_hand,
    counts,
    held_under,
    live,
    numbers,
    pinned,
    removed_ids,
    survivors,
    taken,
)

from backupd.model import CLOCK_TOLERANCE, Generation, Hold, Verification
from backupd.retention import DAMAGED, FUTURE, LAST_VERIFIED, RetentionPolicy

pytestmark = pytest.mark.no_cover

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
    for minutes_ago in ages:
        attempts[minutes_ago] = attempts.get(minutes_ago, 0) + 1
        generation = taken(NOW - timedelta(minutes=minutes_ago), attempt=attempts[minutes_ago])
        if not sound:
            generation = replace(generation, verification=draw(verifications), damaged=draw(damages))
        generations.append(generation)
    return generations


few = st.integers(0, 6)
rules = dict.fromkeys(numbers(DEFAULT), few)
count_policies = st.builds(counts, **rules).filter(lambda p: p != NOTHING)
windows = st.just(timedelta()) | st.timedeltas(timedelta(), 3 * DAY)
policies = st.builds(RetentionPolicy, within=windows, **rules).filter(lambda p: p != NOTHING)
zones = st.sampled_from((UTC, TOKYO, SANTIAGO, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Pacific/Pago_Pago")))
cases = st.builds(Case, st.just("drawn"), histories(), policies, zone=zones)
count_cases = st.builds(Case, st.just("drawn"), histories(), count_policies, zone=zones)
sound_cases = st.builds(Case, st.just("drawn"), histories(sound=True), policies, zone=zones)


def holds_for_any(
    *strategies: st.SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Do as `given` does, without a deadline: a busy machine breaks no promise."""
    return lambda test: settings(deadline=None)(given(*strategies)(test))


def countable(case: Case) -> list[Generation]:
    """Return those that may take slots, newest first."""
    past = [g for g in case.generations if g.verified and g.taken_at <= case.now + CLOCK_TOLERANCE]
    return sorted(past, key=age, reverse=True)


def rules_in_use(case: Case) -> int:
    """Return how many rules keep anything."""
    return sum(count > 0 for count in numbers(case.policy).values())


def in_window(case: Case) -> set[str]:
    """Return the ids of those that are not older than the newest by more than the window."""
    ranked = countable(case) if case.policy.within else []
    return {g.id for g in ranked if g.taken_at >= ranked[0].taken_at - case.policy.within}


def pin_some(case: Case, random: Random) -> Case:
    """Return `case` with some of its generations pinned: permanently, or until some day between the oldest and now."""
    chosen = [g for g in case.generations if random.random() < 0.3]
    ends = [None, *(NOW - n * DAY for n in (0, 1, 30, 300))]
    return replace(case, pins={key: pin for g in chosen for key, pin in pinned(g, random.choice(ends)).items()})


@holds_for_any(cases)
def test_each_rule_holds_newest_of_its_newest_periods(case: Case) -> None:
    plan = case.plan()
    ranked = countable(case)
    assert held_under("last", plan) == {generation.id for generation in ranked[: case.policy.last]}
    for rule in PERIODS:
        assert held_under(rule, plan) == by_hand(ranked, rule, numbers(case.policy)[rule], case.zone)
    assert held_under("within", plan) == in_window(case)
    earlier = [g.id for g in ranked if g.id not in in_window(case)] if case.policy.within else []
    assert held_under("window-start", plan) == {*earlier[:1]}


@holds_for_any(cases)
def test_each_generation_is_kept_or_removed_with_reason(case: Case) -> None:
    plan = case.plan()
    decided = survivors(plan) + [removed.generation for removed in plan.remove]
    assert len(decided) == len(case.generations)
    assert set(decided) == set(case.generations)
    assert all(kept.reasons and all(kept.reasons) for kept in plan.keep)
    assert all(len(set(kept.reasons)) == len(kept.reasons) for kept in plan.keep)
    assert all(removed.reason for removed in plan.remove)


@holds_for_any(cases)
def test_kept_and_removed_lists_are_newest_first(case: Case) -> None:
    plan = case.plan()
    for generations in (survivors(plan), [removed.generation for removed in plan.remove]):
        assert generations == sorted(generations, key=age, reverse=True)


@holds_for_any(cases)
def test_reason_of_removal_is_true(case: Case) -> None:
    """Either a newer one of that very period holds a slot, or newer ones hold all the slots there are."""
    plan = case.plan()
    slots = {reason: kept.generation for kept in plan.keep for reason in kept.reasons}
    held = {rule: held_under(rule, plan) for rule in numbers(case.policy)}
    holders = [generation for generation in survivors(plan) if generation.id in set().union(*held.values())]
    for removed in plan.remove:
        if removed.reason.startswith("a newer one of "):
            period = removed.reason.removeprefix("a newer one of ").removesuffix(" stays")
            same = [generation for reason, generation in slots.items() if reason.endswith(f" {period}")]
            assert same
            assert all(age(generation) > age(removed.generation) for generation in same)
        else:
            assert removed.reason.startswith("older than the ")
            assert all(age(generation) > age(removed.generation) for generation in holders)
            assert {rule: len(ids) for rule, ids in held.items()} == numbers(case.policy)


@holds_for_any(cases)
def test_newest_verified_generation_is_kept_under_any_policy(case: Case) -> None:
    ranked = countable(case) or countable(replace(case, now=NOW + 10 * DAY))
    assert held_under(LAST_VERIFIED, case.plan()) == {generation.id for generation in ranked[:1]}


@holds_for_any(cases)
def test_damaged_and_future_generations_are_kept_with_reason_and_take_no_slot(case: Case) -> None:
    reasons = case.plan().reasons()
    for generation in case.generations:
        ahead = generation.taken_at > NOW + CLOCK_TOLERANCE
        stated = reasons.get(generation.id, ())
        assert (DAMAGED in stated) == (not generation.verified)
        assert (FUTURE in stated) == ahead
        if ahead or not generation.verified:
            assert set(stated) <= {DAMAGED, FUTURE, LAST_VERIFIED}


@holds_for_any(cases)
def test_damaged_and_future_generations_do_not_affect_others(case: Case) -> None:
    assert case.plan().remove == replace(case, generations=countable(case)).plan().remove


@holds_for_any(cases, st.sampled_from((CORRUPT_HOLD, SHRINK_HOLD)))
def test_hold_removes_nothing_and_keeps_reasons(case: Case, hold: Hold) -> None:
    free, held = case.plan().reasons(), replace(case, hold=hold).plan()
    assert held.remove == ()
    assert held.reasons() == {g.id: (*free.get(g.id, ()), f"held: {hold.kind}") for g in case.generations}


@holds_for_any(cases, st.randoms(use_true_random=False))
def test_plan_is_independent_of_order(case: Case, random: Random) -> None:
    shuffled = random.sample(case.generations, len(case.generations))
    assert replace(case, generations=shuffled).plan() == case.plan()


@holds_for_any(cases)
def test_executed_plan_is_followed_by_empty_plan(case: Case) -> None:
    first = case.plan()
    assert replace(case, generations=survivors(first)).plan() == replace(first, remove=())


@holds_for_any(cases, policies)
def test_larger_policy_keeps_all_generations_of_smaller_one(case: Case, other: RetentionPolicy) -> None:
    larger = RetentionPolicy(*map(max, zip(astuple(case.policy), astuple(other), strict=True)))
    fewer, many = case.plan().reasons(), replace(case, policy=larger).plan().reasons()
    assert fewer.keys() <= many.keys()
    for key, reasons in fewer.items():
        assert {r for r in reasons if not r.startswith(("within ", "window-start "))} <= set(many[key])
    assert held_under("within", case.plan()) <= held_under("within", replace(case, policy=larger).plan())


@holds_for_any(cases, st.randoms(use_true_random=False))
def test_pin_keeps_generation_until_end_and_changes_nothing_else(case: Case, random: Random) -> None:
    with_pins, ranked = pin_some(case, random), countable(case)
    reached = ranked[0].taken_at if ranked else NOW
    holding = {key for key, pin in with_pins.pins.items() if pin.until is None or reached < pin.until}
    free, plan = case.plan(), with_pins.plan()
    assert held_under("pinned", plan) == holding
    assert removed_ids(plan) == removed_ids(free) - holding
    others = {key: reasons for key, reasons in plan.reasons().items() if key not in holding}
    assert others == {key: reasons for key, reasons in free.reasons().items() if key not in holding}


@holds_for_any(cases, st.randoms(use_true_random=False), st.integers(-5, 900), st.integers(0, 24 * 60))
def test_additional_generation_removes_none_in_window_and_no_pinned_one(
    case: Case, random: Random, days: int, minutes: int
) -> None:
    """Whether it is the newest, fills a gap, or is dated in the future."""
    more = taken(NOW - days * DAY - timedelta(minutes=minutes), attempt=98)
    after = pin_some(replace(case, generations=[*case.generations, more]), random)
    newest = countable(after)[0].taken_at if countable(after) else NOW
    holding = {key for key, pin in after.pins.items() if pin.until is None or newest < pin.until}
    assert not removed_ids(after.plan()) & (in_window(after) | holding)


@holds_for_any(count_cases, st.floats(0, 1))
def test_newer_generation_shifts_at_most_one_slot_of_each_rule(case: Case, part: float) -> None:
    """What goes by it was the newest (of the same day, week, …) or the oldest that one of the rules held."""
    ranked = countable(case)
    newest = ranked[0].taken_at if ranked else NOW - 900 * DAY
    newer = taken(newest + (NOW + CLOCK_TOLERANCE - newest) * part, attempt=99)
    before, after = case.plan(), replace(case, generations=[*case.generations, newer]).plan()
    shifted = removed_ids(after) - removed_ids(before)
    held = [[g.id for g in ranked if g.id in held_under(rule, before)] for rule in numbers(case.policy)]
    assert removed_ids(before) <= removed_ids(after)
    assert len(shifted) <= rules_in_use(case)
    assert shifted <= {g.id for g in ranked[:1]} | {ids[-1] for ids in held if ids}


@holds_for_any(cases, st.sets(st.integers(0, 59)))
def test_damage_found_later_removes_no_other_generation(case: Case, found: set[int]) -> None:
    worse = [replace(g, damaged=g.damaged or n in found) for n, g in enumerate(case.generations)]
    assert removed_ids(replace(case, generations=worse).plan()) <= removed_ids(case.plan())


@holds_for_any(sound_cases)
def test_pruning_after_each_backup_equals_pruning_once(case: Case) -> None:
    plans = [plan for _, plan in live(sorted(case.generations, key=age), case.policy, case.zone)]
    assert (plans[-1].keep if plans else ()) == case.plan().keep


@holds_for_any(count_cases, st.timedeltas(timedelta(0), 8 * DAY))
def test_passing_time_removes_generations_only_for_those_no_longer_in_future(case: Case, passed: timedelta) -> None:
    later = replace(case, now=NOW + passed)
    arrived = len(countable(later)) - len(countable(case))
    gone = removed_ids(later.plan()) - removed_ids(case.plan())
    assert len(gone) <= rules_in_use(case) * arrived


@holds_for_any(sound_cases, st.timedeltas(timedelta(0), 5000 * DAY))
def test_store_without_new_backups_is_unchanged_years_later(case: Case, passed: timedelta) -> None:
    assert replace(case, now=NOW + passed).plan() == case.plan()
