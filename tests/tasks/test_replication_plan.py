"""What is sent to a replica and removed there, decided from its own listing and policy."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.model import Generation, Hold, PointPart, RestorePoint, generation_id
from backupd.retention import Kept, RetentionPolicy
from backupd.tasks.provenance import ForeignGenerations
from backupd.tasks.replication_plan import PointsPlan, ReplicationPlan, ReplicationPlans, plan_replication
from backupd.tasks.requests import ReplicationRequest, RetentionRule
from support.catalog_values import manifest

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WEEK = ReplicationRequest("nas", RetentionRule(RetentionPolicy(within=timedelta(), daily=3, weekly=0)))


def taken(days_ago: int, *, damaged: bool = False) -> Generation:
    at = NOW - timedelta(days=days_ago)
    return Generation(generation_id("app", at), "app", at, 100, 1000, "full", damaged=damaged)


def plan(
    here: list[Generation], there: list[Generation], order: ReplicationRequest = WEEK, hold: Hold | None = None
) -> ReplicationPlan:
    return plan_replication(here, there, order, NOW, hold)


def ids(generations: list[Generation]) -> list[str]:
    return [generation.id for generation in generations]


def sent(decided: ReplicationPlan) -> list[str]:
    return [kept.generation.id for kept in decided.send]


def removed(decided: ReplicationPlan) -> list[str]:
    return [gone.generation.id for gone in decided.remove]


def test_empty_replica_gets_generations_of_its_policy_newest_first() -> None:
    here = [taken(days) for days in range(9)]
    assert sent(plan(here, [])) == ids(here[:3])
    assert removed(plan(here, [])) == []


def test_only_missing_generations_are_sent() -> None:
    here = [taken(days) for days in range(3)]
    assert sent(plan(here, here[1:])) == ids(here[:1])


def test_generation_to_be_pruned_at_once_is_not_sent() -> None:
    assert sent(plan([taken(days) for days in range(3, 9)], [taken(days) for days in range(3)])) == []


def test_new_generation_prunes_oldest_at_replica() -> None:
    decided = plan([taken(0)], [taken(1), taken(2), taken(3)])
    assert (sent(decided), removed(decided)) == (ids([taken(0)]), ids([taken(3)]))


def test_empty_local_store_removes_nothing_at_replica() -> None:
    there = [taken(days) for days in range(3)]
    decided = plan([], there)
    assert (sent(decided), removed(decided)) == ([], [])


def test_locally_damaged_generation_is_not_planned_and_damaged_copy_is_replaced() -> None:
    assert sent(plan([taken(0, damaged=True)], [])) == []
    decided = plan([taken(0)], [taken(0, damaged=True)])
    assert (sent(decided), removed(decided)) == (ids([taken(0)]), [])


def test_damaged_copy_without_local_original_is_kept_and_takes_no_slot() -> None:
    decided = plan([], [taken(0, damaged=True), taken(1), taken(2), taken(3)])
    assert removed(decided) == []


def test_append_only_replica_is_never_pruned() -> None:
    order = ReplicationRequest("nas", WEEK.retention, append_only=True)
    decided = plan([taken(0)], [taken(days) for days in range(1, 9)], order)
    assert (sent(decided), removed(decided)) == (ids([taken(0)]), [])


def test_held_source_prunes_nothing_at_replica() -> None:
    hold = Hold("app", "corrupt", NOW, "integrity_check failed", None)
    assert removed(plan([taken(0)], [taken(days) for days in range(1, 9)], hold=hold)) == []


@pytest.mark.parametrize("append_only", [True, False])
@given(
    here=st.sets(st.integers(0, 60), max_size=30),
    there=st.sets(st.integers(0, 60), max_size=30),
    damaged=st.sets(st.integers(0, 60)),
)
def test_newest_sound_generation_is_at_replica_after_any_plan(
    here: set[int], there: set[int], damaged: set[int], append_only: bool
) -> None:
    mine = [taken(days) for days in here]
    theirs = [taken(days, damaged=days in damaged) for days in there]
    order = ReplicationRequest("nas", WEEK.retention, append_only=append_only)
    decided = plan(mine, theirs, order)
    after = ({g.id for g in theirs if g.verified} | set(sent(decided))) - set(removed(decided))
    good = sorted({g.id for g in mine} | {g.id for g in theirs if g.verified}, reverse=True)
    assert set(good[:3]) <= after
    assert not set(removed(decided)) & set(sent(decided))
    assert set(removed(decided)) <= {g.id for g in theirs}
    held = {g.id: g for g in theirs} | {g.id: g for g in mine if g.id in sent(decided)}
    again = plan(mine, [g for key, g in held.items() if key not in removed(decided)], order)
    assert sent(again) == []


def made_elsewhere(generations: list[Generation]) -> tuple[ForeignGenerations, ...]:
    """Return generations as those that another store has made."""
    manifests = tuple(manifest(generation.id) for generation in generations)
    return (ForeignGenerations("app", manifests[0].store, manifests),)


def test_replica_of_another_store_gets_and_loses_nothing() -> None:
    others = [taken(days) for days in range(9)]
    decided = plan_replication([taken(0.5)], others, WEEK, NOW, foreign=made_elsewhere(others))
    assert (decided.send, decided.keep, decided.remove, decided.refused) == ((), (), (), True)


@given(
    here=st.sets(st.integers(0, 40), max_size=20),
    there=st.sets(st.integers(0, 40), max_size=20),
    elsewhere=st.sets(st.integers(0, 40), min_size=1, max_size=20),
)
def test_generations_of_other_stores_take_no_slot_and_prevent_removal(
    here: set[int], there: set[int], elsewhere: set[int]
) -> None:
    others = [taken(days + 0.5) for days in elsewhere]
    mine, theirs = [taken(days) for days in here], [taken(days) for days in there]
    decided = plan_replication(mine, theirs + others, WEEK, NOW, foreign=made_elsewhere(others))
    assert decided.remove == ()
    assert not {kept.generation.id for kept in decided.keep} & {g.id for g in others}
    assert decided.refused == (not there)
    alone = plan_replication(mine, theirs, WEEK, NOW)
    assert sent(decided) == (sent(alone) if there else [])


def test_newest_whole_point_is_sent_before_older_ones_and_each_part_once() -> None:
    here = [taken(days) for days in range(4)]
    sources = ReplicationPlan(tuple(Kept(one, ("daily",)) for one in here), (), ())

    def point(days_ago: int, *parts: Generation) -> RestorePoint:
        at = NOW - timedelta(days=days_ago)
        found = tuple(PointPart("app", "database", part.id, "0" * 64, at, at) for part in parts)
        return RestorePoint(1, generation_id("point", at), "f" * 16, at, "1.0", found)

    newest, older = point(1, here[1], here[3]), point(2, here[2], here[3])
    plans = ReplicationPlans((sources,), PointsPlan(send=(older, newest)))
    assert [([one.id for one in parts], sent) for parts, sent in plans.in_order()] == [
        (ids([here[0]]), None),
        (sorted(ids([here[1], here[3]])), newest),
        (ids([here[2]]), older),
    ]
