"""Retention of restore points: each stays whole or goes whole, and keeps what is part of it; pure decisions.

After an intended change: `python tests/test_retention_points.py --write-golden && git diff tests/golden/points`.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from retention_histories import DAY, NOW, counts

from backupd.model import CLOCK_TOLERANCE, POINT, Generation, Hold, Pin, Verification, generation_id, source_of
from backupd.retention import (
    LAST_VERIFIED,
    RetentionPlan,
    RetentionPolicy,
    keep_all,
    keep_parts,
    plan_points,
    plan_retention,
)

GOLDEN = Path(__file__).parent / "golden" / "points"
SOURCES = ("tasks", "settings", "uploads")
LITTLE = counts(last=1, daily=2, weekly=0)


def made(source: str, at: datetime, verification: Verification = "full", *, damaged: bool = False) -> Generation:
    """Return the generation of `source` taken at `at`."""
    return Generation(generation_id(source, at), source, at, 1000, 4096, verification, damaged)


@dataclass
class App:
    """What a store holds of an app: the generations of its sources, and the parts of each restore point."""

    generations: dict[str, Generation] = field(default_factory=dict)
    parts: dict[str, frozenset[str]] = field(default_factory=dict)

    def run(self, at: datetime, changed: Iterable[str], *, whole: bool = True) -> str:
        """Back up; what is not `changed` has its newest generation for its part, if there is one."""
        newest = {g.source: g.id for g in sorted(self.generations.values(), key=lambda g: g.taken_at)}
        for source in changed:
            new = made(source, at)
            self.generations[new.id] = new
            newest[source] = new.id
        point = generation_id(POINT, at)
        if whole:
            self.parts[point] = frozenset(newest.values())
        return point

    def points(self) -> list[Generation]:
        """Return the points as retention sees them."""
        return [self._point(key, parts) for key, parts in self.parts.items()]

    def _point(self, key: str, parts: frozenset[str]) -> Generation:
        taken_at = datetime.strptime(f"{key} +0000", "point-%Y%m%d-%H%M %z")
        sound = all(part in self.generations and self.generations[part].verified for part in parts)
        return made(POINT, taken_at, "full" if sound else "corrupt", damaged=not sound)

    def plans(
        self,
        policy: RetentionPolicy,
        now: datetime,
        holds: Mapping[str, Hold] | None = None,
        pins: Mapping[str, Pin] | None = None,
    ) -> tuple[RetentionPlan, dict[str, RetentionPlan]]:
        """Return the plan of the points, and of each source."""
        holds, pins = holds or {}, pins or {}
        points = plan_points(self.points(), self.parts, policy, now, holds=holds, pins=pins)
        by_source = {}
        for source in sorted({g.source for g in self.generations.values()}):
            own = [g for g in self.generations.values() if g.source == source]
            plan = plan_retention(own, policy, now, hold=holds.get(source), pins=pins)
            by_source[source] = keep_parts(plan, points, self.parts)
        return points, by_source

    def carry_out(self, points: RetentionPlan, plans: Mapping[str, RetentionPlan]) -> None:
        """Remove what goes."""
        for key in points.removed_ids:
            del self.parts[key]
        for plan in plans.values():
            for key in plan.removed_ids:
                del self.generations[key]


def kept_ids(plan: RetentionPlan) -> set[str]:
    return {kept.generation.id for kept in plan.keep}


def nights(app: App, count: int, *, settings_every: int = 5) -> list[str]:
    """Back up each night; `settings` changes rarely. Returns the points, newest last."""
    found = []
    for n in reversed(range(count)):
        changed = ["tasks", "uploads", *(["settings"] if (count - 1 - n) % settings_every == 0 else [])]
        found.append(app.run(NOW - n * DAY, changed))
    return found


def test_part_of_kept_point_is_kept_although_its_source_would_let_it_go() -> None:
    app = App()
    nights(app, 4, settings_every=9)
    app.run(NOW + timedelta(hours=1), ["settings"], whole=False)
    app.run(NOW + timedelta(hours=2), ["settings"], whole=False)
    points, plans = app.plans(counts(last=2, daily=0, weekly=0), NOW + timedelta(hours=3))
    (first,) = [g.id for g in app.generations.values() if g.source == "settings" and g.taken_at < NOW]
    newest = generation_id(POINT, NOW)
    assert len(points.keep) == 2
    assert plans["settings"].reasons()[first] == (f"part of {newest} and 1 more",)
    assert first in {part for point in points.keep for part in app.parts[point.generation.id]}


def test_removed_point_lets_its_parts_go() -> None:
    app = App()
    nights(app, 6)
    points, plans = app.plans(LITTLE, NOW)
    assert len(points.remove) == 4
    assert len(plans["tasks"].keep) == len(plans["uploads"].keep) == 2
    assert len(plans["settings"].keep) == 2


def test_point_of_held_source_stays_with_all_its_parts() -> None:
    app = App()
    found = nights(app, 6)
    hold = Hold("uploads", "shrink", NOW, "many files are gone", None)
    points, plans = app.plans(LITTLE, NOW, holds={"uploads": hold})
    assert kept_ids(points) == set(found)
    assert "held: shrink (uploads)" in points.reasons()[found[0]]
    assert all(not plan.remove for plan in plans.values())


def test_pinned_point_stays_with_all_its_parts() -> None:
    app = App()
    found = nights(app, 8)
    points, plans = app.plans(LITTLE, NOW, pins={found[1]: Pin(found[1], NOW, None, "by an operator")})
    assert found[1] in kept_ids(points)
    assert app.parts[found[1]] <= set().union(*(kept_ids(plan) for plan in plans.values()))
    assert found[0] not in kept_ids(points)


def test_pins_of_all_parts_are_one_reason_for_their_point() -> None:
    app = App()
    point = app.run(NOW, SOURCES)
    points, _ = app.plans(LITTLE, NOW, pins={part: Pin(part, NOW, None, "made by hand") for part in app.parts[point]})
    assert points.reasons()[point].count("pinned until released: made by hand") == 1


def test_pinned_generation_keeps_the_one_point_that_held_it_when_it_was_pinned() -> None:
    app = App()
    found = nights(app, 9, settings_every=20)
    (part,) = [key for key in app.generations if source_of(key) == "settings"]
    pin = Pin(part, NOW - 5 * DAY + timedelta(hours=1), None, "made by hand")
    points, _ = app.plans(LITTLE, NOW, pins={part: pin})
    assert kept_ids(points) == {found[3], *found[-2:]}
    earlier = replace(pin, since=NOW - 50 * DAY)
    assert kept_ids(app.plans(LITTLE, NOW, pins={part: earlier})[0]) == {found[0], *found[-2:]}
    over = replace(pin, until=NOW - DAY)
    assert kept_ids(app.plans(LITTLE, NOW, pins={part: over})[0]) == {*found[-2:]}


def test_point_that_lacks_a_part_takes_no_slot_and_keeps_nothing() -> None:
    app = App()
    found = nights(app, 5)
    lost = generation_id("tasks", NOW)
    del app.generations[lost]
    points, plans = app.plans(LITTLE, NOW)
    assert points.reasons()[found[-1]] == ("damaged: not counted; backupd remove deletes it",)
    assert LAST_VERIFIED in points.reasons()[found[-2]]
    assert {found[-2], found[-3]} <= kept_ids(points)
    assert not any(found[-1] in reason for plan in plans.values() for kept in plan.keep for reason in kept.reasons)


def test_store_without_points_is_planned_as_ever() -> None:
    app = App()
    for n in range(9):
        app.run(NOW - n * DAY, ["tasks"], whole=False)
    points, plans = app.plans(LITTLE, NOW)
    assert points == RetentionPlan((), ())
    assert plans["tasks"] == plan_retention(app.generations.values(), LITTLE, NOW)


def test_keep_all_keeps_all_with_the_reason() -> None:
    plan = keep_all(plan_retention([made("tasks", NOW - n * DAY) for n in range(9)], LITTLE, NOW), "not now")
    assert len(plan.keep) == 9
    assert plan.remove == ()
    assert plan.keep[-1].reasons == ("not now",)


@st.composite
def apps(draw: st.DrawFn) -> App:
    """Draw runs of three sources, some for all, and damage."""
    app = App()
    times = sorted(draw(st.sets(st.integers(-2 * 24 * 60, 200 * 24 * 60), min_size=1, max_size=25)), reverse=True)
    for number, minutes_ago in enumerate(times):
        changed = SOURCES if not number else draw(st.sets(st.sampled_from(SOURCES)))
        app.run(NOW - timedelta(minutes=minutes_ago), sorted(changed), whole=draw(st.booleans()))
    for key in draw(st.sets(st.sampled_from(sorted(app.generations)), max_size=3)):
        app.generations[key] = replace(app.generations[key], damaged=True)
    return app


policies = st.builds(
    RetentionPolicy,
    within=st.sampled_from((timedelta(), DAY)),
    last=st.integers(0, 3),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 2),
).filter(lambda p: p != RetentionPolicy(within=timedelta(), daily=0, weekly=0))


@st.composite
def cases(draw: st.DrawFn) -> tuple[App, RetentionPolicy, dict[str, Hold], dict[str, Pin]]:
    app = draw(apps())
    held = draw(st.sets(st.sampled_from(SOURCES), max_size=1))
    holds = {source: Hold(source, "shrink", NOW, "files are gone", None) for source in held}
    ends = st.sampled_from((None, NOW, NOW - 30 * DAY))
    pinned = draw(st.sets(st.sampled_from(sorted({*app.generations, *app.parts})), max_size=3))
    pins = {key: Pin(key, NOW - draw(st.integers(0, 100)) * DAY, draw(ends), "by hand") for key in sorted(pinned)}
    return app, draw(policies), holds, pins


@settings(deadline=None)
@given(cases())
def test_kept_point_has_all_its_parts_and_newest_complete_one_is_never_removed(
    case: tuple[App, RetentionPolicy, dict[str, Hold], dict[str, Pin]],
) -> None:
    app, policy, holds, pins = case
    complete = [point for point in app.points() if point.verified and point.taken_at <= NOW + CLOCK_TOLERANCE]
    points, plans = app.plans(policy, NOW, holds, pins)
    kept = set().union(*(kept_ids(plan) for plan in plans.values()))
    gone = set().union(*(set(plan.removed_ids) for plan in plans.values()))
    assert kept | gone == set(app.generations)
    assert not kept & gone
    assert kept_ids(points) | set(points.removed_ids) == set(app.parts)
    for point in points.keep:
        if not point.generation.damaged:
            assert app.parts[point.generation.id] <= kept
    if complete:
        assert max(complete, key=lambda point: point.taken_at).id in kept_ids(points)
    for source in holds:
        assert not plans[source].remove
        assert not any(source in map(source_of, app.parts[key]) for key in points.removed_ids)
    for key, pin in pins.items():
        if pin.until is None:
            assert key in kept | kept_ids(points)


@settings(deadline=None)
@given(cases())
def test_plan_that_is_carried_out_removes_nothing_more_and_damages_no_point(
    case: tuple[App, RetentionPolicy, dict[str, Hold], dict[str, Pin]],
) -> None:
    app, policy, holds, pins = case
    before = {point.id for point in app.points() if point.verified}
    points, plans = app.plans(policy, NOW, holds, pins)
    app.carry_out(points, plans)
    assert {point.id for point in app.points() if point.verified} == before & set(app.parts)
    again, plans_again = app.plans(policy, NOW, holds, pins)
    assert again.remove == ()
    assert all(not plan.remove for plan in plans_again.values())


def as_text() -> str:
    """Return the plans of an app after five weeks of nights, for people."""
    app = App()
    found = nights(app, 35, settings_every=12)
    app.run(NOW + timedelta(hours=2), ["settings"], whole=False)
    pins = {found[9]: Pin(found[9], NOW, None, "by an operator", "before the migration")}
    points, plans = app.plans(RetentionPolicy(daily=3, weekly=2), NOW + timedelta(hours=3), pins=pins)
    lines = ["Nightly for five weeks, settings changes rarely; one point is pinned."]
    for name, plan in {POINT: points, **plans}.items():
        lines += ["", f"{name}: {len(plan.keep)} stay, {len(plan.remove)} go"]
        lines += [f"  + {kept.generation.id}  {', '.join(kept.reasons)}" for kept in plan.keep]
    return "\n".join(lines) + "\n"


def test_plan_of_an_app_is_as_written_down() -> None:
    assert as_text() == (GOLDEN / "nightly.txt").read_text()


if __name__ == "__main__" and "--write-golden" in sys.argv:
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "nightly.txt").write_text(as_text())
