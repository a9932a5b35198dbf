"""Histories of one source for the tests of retention, and second opinions about what should stay."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from backupd.model import Generation, Hold, Pin, Verification, generation_id
from backupd.retention import RetentionPlan, RetentionPolicy, plan_retention

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)  # a Sunday, the last day of 2026-W47
LAST_NIGHT = NOW.replace(hour=3)
DAY = timedelta(days=1)
SANTIAGO = ZoneInfo("America/Santiago")
TOKYO = ZoneInfo("Asia/Tokyo")
DEFAULT = RetentionPolicy()
NOTHING = RetentionPolicy(within=timedelta(), daily=0, weekly=0)
CORRUPT_HOLD = Hold("tasks", "corrupt", NOW, "integrity_check of the source failed", "tasks-20261122-0300")
SHRINK_HOLD = replace(CORRUPT_HOLD, kind="shrink", reason="half of the rows are gone")

# What each rule calls one period, told without strftime: a second opinion for the tests.
PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda local: (local.date(), local.hour, local.utcoffset()),
    "daily": lambda local: local.date(),
    "weekly": lambda local: local.date() - timedelta(days=local.weekday()),
    "monthly": lambda local: (local.year, local.month),
    "yearly": lambda local: local.year,
}


def counts(**by_rule: int) -> RetentionPolicy:
    """Return a policy that keeps these numbers of generations (else the default ones), and none for its age."""
    return replace(DEFAULT, within=timedelta(), **by_rule)


def numbers(policy: RetentionPolicy) -> dict[str, int]:
    """Return how many generations `policy` keeps by each rule that counts."""
    return {rule: count for rule, count in asdict(policy).items() if rule != "within"}


def pinned(generation: Generation, until: datetime | None, label: str = "") -> dict[str, Pin]:
    """Return a pin on one generation that was made by hand."""
    return {generation.id: Pin(generation.id, generation.taken_at, until, "made by hand", label)}


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


@dataclass(frozen=True)
class Case:
    """One history under one policy, and what is worth looking at in it."""

    about: str
    generations: Sequence[Generation]
    policy: RetentionPolicy = DEFAULT
    now: datetime = NOW
    zone: tzinfo = UTC
    hold: Hold | None = None
    pins: Mapping[str, Pin] = field(default_factory=dict)

    def plan(self) -> RetentionPlan:
        """Return what retention decides."""
        return plan_retention(self.generations, self.policy, self.now, self.zone, self.hold, self.pins)


def age(generation: Generation) -> tuple[datetime, str]:
    """Return what generations are ordered by."""
    return generation.taken_at, generation.id


def survivors(plan: RetentionPlan) -> list[Generation]:
    """Return all that stay, newest first."""
    return [kept.generation for kept in plan.keep]


def removed_ids(plan: RetentionPlan) -> set[str]:
    """Return the ids of all that go."""
    return {removed.generation.id for removed in plan.remove}


def held_under(rule: str, plan: RetentionPlan) -> set[str]:
    """Return the ids of those that stay on account of `rule`."""
    return {key for key, reasons in plan.reasons().items() if any(r.split()[0] == rule for r in reasons)}


def by_hand(generations: Iterable[Generation], rule: str, count: int, zone: tzinfo) -> set[str]:
    """Return the ids of the newest of each of the `count` newest periods: by another way than retention's."""
    newest: dict[object, Generation] = {}
    for generation in sorted(generations, key=lambda g: (g.taken_at, g.id)):
        period = PERIODS[rule](generation.taken_at.astimezone(zone))
        newest.pop(period, None)  # what is put in again goes to the end, where the newest periods are
        newest[period] = generation
    return {generation.id for generation in list(newest.values())[-count:]} if count else set()


def live(
    generations: Iterable[Generation], policy: RetentionPolicy, zone: tzinfo
) -> Iterator[tuple[datetime, RetentionPlan]]:
    """Back up and prune, night after night; yield each night's time and plan, once it is carried out."""
    store: list[Generation] = []
    for generation in generations:
        plan = plan_retention([*store, generation], policy, generation.taken_at, zone)
        store = survivors(plan)
        yield generation.taken_at, plan
