"""Which generations of one source are kept and which are removed, each with its reasons: a pure decision.

Rules count the generations that exist, not calendar windows (as restic's `forget` does): `daily=7` means the 7 newest
days that have a verified generation, so that the first backup after a month without any removes one day, not all of
them. For the same reason the window of `within` and the end of pins are measured from the newest verified generation,
not from the clock: while backups fail, nothing expires.
The window also keeps the newest generation before it: it is the state of the database when the window began. Otherwise
the first backup after a month, or of a database that had not changed for a month, would remove the one verified copy.

Restore points are planned first, as if they were the generations of one more source; what is part of one that stays,
stays too, whatever the plan of its own source says.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from backupd.errors import PolicyEmpty
from backupd.formatting import printable, written_span
from backupd.model import CLOCK_TOLERANCE, Generation, Hold, Pin, source_of

DAMAGED = "damaged: not counted; backupd remove deletes it"
UNREADABLE = "its manifest cannot be read now: not counted"
FUTURE = "dated in the future"
LAST_VERIFIED = "last-verified"
NO_PINS: Final[Mapping[str, Pin]] = {}
NO_HOLDS: Final[Mapping[str, Hold]] = {}
Parts = Mapping[str, Collection[str]]  # the ids of the generations of each restore point, by its id


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which generations stay: some of the newest, and the newest of each hour, day, week, month and year.

    All stay that were taken within `within` before the newest verified one, and the newest that was taken earlier.
    """

    last: int = 0
    within: timedelta = timedelta(hours=48)
    hourly: int = 0
    daily: int = 7
    weekly: int = 4
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A generation that stays, with every reason for it."""

    generation: Generation
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """A generation that goes, with the reason."""

    generation: Generation
    reason: str


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """A retention decision for one source, newest first; nothing has been deleted yet."""

    keep: tuple[Kept, ...]
    remove: tuple[Removed, ...]

    @property
    def removed_ids(self) -> tuple[str, ...]:
        """Ids of the generations that go."""
        return tuple(removed.generation.id for removed in self.remove)

    def reasons(self) -> Mapping[str, tuple[str, ...]]:
        """Reasons by id of each generation that stays."""
        return {kept.generation.id: kept.reasons for kept in self.keep}


def _week(day: date) -> str:
    """Return the ISO week with the year it belongs to: 2027-01-03 lies in 2026-W53."""
    year, week, _ = day.isocalendar()
    return f"{year:04}-W{week:02}"


def _hour(time: datetime) -> str:
    """Return the local hour; in the second pass of a repeated hour, with the offset from UTC."""
    hour = f"{time.date().isoformat()} {time.hour:02}:00"
    return f"{hour} {time:%z}" if time.fold else hour


# The period of a local time under each rule; without strftime, which is several times slower.
_PERIODS: Mapping[str, Callable[[datetime], str]] = {
    "hourly": _hour,
    "daily": lambda time: time.date().isoformat(),
    "weekly": lambda time: _week(time.date()),
    "monthly": lambda time: time.date().isoformat()[:7],
    "yearly": lambda time: time.date().isoformat()[:4],
}


class _Slot(NamedTuple):
    """One period of a rule, which keeps one generation; under `last` each generation is a period of its own."""

    rule: str
    period: str

    def __str__(self) -> str:
        return self.rule if self.rule == "last" else f"{self.rule} {self.period}"


def plan_retention(
    generations: Iterable[Generation],
    policy: RetentionPolicy,
    now: datetime,
    timezone: tzinfo = UTC,
    hold: Hold | None = None,
    pins: Mapping[str, Pin] = NO_PINS,
) -> RetentionPlan:
    """Decide which `generations` of one source, in any order, `policy` keeps; the plan has the newest first.

    Only verified generations that are not dated after `now` (aware; plus CLOCK_TOLERANCE) take slots or lie in the
    window, and only they are ever removed; the newest of them is kept under any policy. Hours, days, ISO weeks, months
    and years are those of `timezone`. A `hold` keeps every generation, and each of the `pins` (by id, of any source)
    its own until it ends; neither changes what the policy keeps.
    Raises PolicyEmpty when `policy` keeps nothing or has a value below 0; ValueError when generations or `hold` are of
    several sources, or two generations share an id.
    """
    counts = _counts(policy)
    ordered = sorted(generations, key=lambda generation: (generation.taken_at, generation.id), reverse=True)
    _require_one_source(ordered, hold)
    counted = [g for g in ordered if g.verified and not _in_future(g, now)]
    claims = {g.id: _claims(g, counts, timezone) for g in counted}
    holders = _holders(claims, counts)
    reasons = _reasons_by_policy(ordered, counted, holders, policy.within)
    reached = counted[0].taken_at if counted else now
    for generation in ordered:
        reasons[generation.id] += _pinned(pins.get(generation.id), reached, timezone)
        reasons[generation.id] += _reasons_beside_policy(generation, now, hold)
    keep = (Kept(g, tuple(reasons[g.id])) for g in ordered if reasons[g.id])
    older = _older_than(counts, policy.within)
    remove = (Removed(g, _why_removed(claims[g.id], holders, older)) for g in ordered if not reasons[g.id])
    return RetentionPlan(tuple(keep), tuple(remove))


def plan_points(
    points: Iterable[Generation],
    parts: Parts,
    policy: RetentionPolicy,
    now: datetime,
    timezone: tzinfo = UTC,
    holds: Mapping[str, Hold] = NO_HOLDS,
    pins: Mapping[str, Pin] = NO_PINS,
) -> RetentionPlan:
    """Decide which restore points stay, as `plan_retention` does for the generations of a source.

    A point counts if all its parts do. It stays as well if a source of one of its parts is in `holds`, and if it is the
    one that held a pinned generation when that was pinned: the newest then, or the first one since. Raises PolicyEmpty,
    ValueError.
    """
    ordered = sorted(points, key=lambda point: (point.taken_at, point.id), reverse=True)
    plan = plan_retention(ordered, policy, now, timezone, pins=pins)
    counted = [point for point in ordered if point.verified and not _in_future(point, now)]
    reached = counted[0].taken_at if counted else now
    more: dict[str, list[str]] = {
        point.id: [f"held: {holds[s].kind} ({s})" for s in sorted(set(map(source_of, parts[point.id])) & holds.keys())]
        for point in ordered
    }
    for pin in pins.values():
        with_it = [point for point in ordered if pin.generation in parts[point.id]]
        held = next((point for point in with_it if point.taken_at <= pin.since), with_it[-1] if with_it else None)
        if held is not None:
            more[held.id] += _pinned(pin, reached, timezone)
    return keep_more(plan, more)


def keep_parts(plan: RetentionPlan, points: RetentionPlan, parts: Parts) -> RetentionPlan:
    """Return the `plan` of a source that keeps what is part of a restore point that stays by the plan `points`.

    A point that is damaged, as one that lacks a part, keeps none.
    """
    return keep_more(plan, reasons_of_parts(points, parts))


def reasons_of_parts(points: RetentionPlan, parts: Parts) -> Mapping[str, Sequence[str]]:
    """Return why each part of a restore point stays that stays by the plan `points`, by its id; see `keep_parts`."""
    in_points: dict[str, list[str]] = {}
    for kept in points.keep:
        for part in () if kept.generation.damaged else parts[kept.generation.id]:
            in_points.setdefault(part, []).append(kept.generation.id)
    return {part: [_part_of(ids)] for part, ids in in_points.items()}


def keep_all(plan: RetentionPlan, reason: str) -> RetentionPlan:
    """Return the `plan` with nothing removed, for that reason."""
    return keep_more(plan, {removed.generation.id: [reason] for removed in plan.remove})


def _part_of(points: Sequence[str]) -> str:
    """Return why a part of restore points stays, given their ids, the newest first."""
    return f"part of {points[0]}{f' and {len(points) - 1} more' if len(points) > 1 else ''}"


def keep_more(plan: RetentionPlan, more: Mapping[str, Sequence[str]]) -> RetentionPlan:
    """Return the `plan` with `more` reasons to keep, by id of generation; each is given once."""
    found = [(kept.generation, [*kept.reasons, *more.get(kept.generation.id, ())]) for kept in plan.keep]
    found += [(one.generation, [*more[one.generation.id]]) for one in plan.remove if more.get(one.generation.id)]
    found.sort(key=lambda one: (one[0].taken_at, one[0].id), reverse=True)
    remove = tuple(removed for removed in plan.remove if not more.get(removed.generation.id))
    return RetentionPlan(
        tuple(Kept(generation, tuple(dict.fromkeys(reasons))) for generation, reasons in found), remove
    )


def _counts(policy: RetentionPolicy) -> dict[str, int]:
    """Return the rules of `policy` that keep a number of generations, finest first. Raises PolicyEmpty."""
    hint = 'set one of last, hourly, daily, weekly, monthly, yearly to 1 or more, or within to "48h", and none below 0'
    counts: dict[str, int] = asdict(policy)
    del counts["within"]
    for rule, count in counts.items():
        if count < 0:
            raise PolicyEmpty(f"the retention policy says {rule} = {count}", hint=hint)
    if policy.within < timedelta():
        raise PolicyEmpty(f"the retention policy says within = {policy.within.total_seconds():.0f}s", hint=hint)
    active = {rule: count for rule, count in counts.items() if count}
    if not active and not policy.within:
        raise PolicyEmpty("the retention policy keeps nothing: every count is 0", hint=hint)
    return active


def _require_one_source(generations: Sequence[Generation], hold: Hold | None) -> None:
    """Require one source, so that none removes or holds the copies of another. Raises ValueError."""
    sources = {generation.source for generation in generations} | ({hold.source} if hold else set())
    if len(sources) > 1:
        raise ValueError(f"retention is planned for one source at a time, not for {', '.join(sorted(sources))}")
    # Generations are removed by id: with two of one id, both would be removed.
    if len({generation.id for generation in generations}) < len(generations):
        raise ValueError("two generations share an id")


def _in_future(generation: Generation, now: datetime) -> bool:
    return generation.taken_at - now > CLOCK_TOLERANCE


def _claims(generation: Generation, rules: Iterable[str], timezone: tzinfo) -> list[_Slot]:
    """Return the slots that `generation` may take: one under each of `rules`, in their order."""
    local = generation.taken_at.astimezone(timezone)
    return [_Slot(rule, generation.id if rule == "last" else _PERIODS[rule](local)) for rule in rules]


def _holders(claims: Mapping[str, Sequence[_Slot]], counts: Mapping[str, int]) -> dict[_Slot, str]:
    """Return the first generation that claims each slot while its rule has slots; `claims` is newest first."""
    left = dict(counts)
    holders: dict[_Slot, str] = {}
    for generation_id, slots in claims.items():
        for slot in slots:
            if left[slot.rule] and slot not in holders:
                holders[slot] = generation_id
                left[slot.rule] -= 1
    return holders


def _reasons_by_policy(
    ordered: Sequence[Generation], counted: Sequence[Generation], holders: Mapping[_Slot, str], within: timedelta
) -> dict[str, list[str]]:
    """Return by id why the policy keeps each generation: its slots, the window, and being the last verified one."""
    reasons: dict[str, list[str]] = {generation.id: [] for generation in ordered}
    for slot, generation_id in holders.items():
        reasons[generation_id].append(str(slot))
    for generation in counted if within else ():
        if counted[0].taken_at - generation.taken_at > within:
            reasons[generation.id].append(f"window-start {written_span(within)}")
            break
        reasons[generation.id].append(f"within {written_span(within)}")
    verified = counted or [generation for generation in ordered if generation.verified]
    if verified:
        reasons[verified[0].id].append(LAST_VERIFIED)
    return reasons


def _pinned(pin: Pin | None, at: datetime, timezone: tzinfo) -> Iterator[str]:
    """Yield why a generation with this `pin` is kept, unless the pin had ended at `at`."""
    if pin is not None and pin.holds(at):
        until = f"{pin.until.astimezone(timezone).date().isoformat()}" if pin.until else "released"
        label = f" ({pin.label})" if pin.label else ""
        yield printable(f"pinned until {until}: {pin.reason}{label}")


def _reasons_beside_policy(generation: Generation, now: datetime, hold: Hold | None) -> Iterator[str]:
    """Yield why `generation` is kept regardless of the policy."""
    if not generation.verified:
        yield UNREADABLE if generation.verification == "unknown" else DAMAGED
    if _in_future(generation, now):
        yield FUTURE
    if hold:
        yield f"held: {hold.kind}"


def _why_removed(claimed: Iterable[_Slot], holders: Mapping[_Slot, str], older: str) -> str:
    """Return why a generation is removed: a newer one has its finest slot, or it is too old for any."""
    for slot in claimed:
        if slot in holders:
            return f"a newer one of {slot.period} stays"
    return older


def _older_than(counts: Mapping[str, int], within: timedelta) -> str:
    """Return the reason for generations older than all that the rules keep."""
    window = f"window of {written_span(within)}" if within else ""
    if not counts:
        return f"older than the {window}"
    rules = ", ".join(f"{count} {'newest' if rule == 'last' else rule}" for rule, count in counts.items())
    noun = "generation that stays" if sum(counts.values()) == 1 else "generations that stay"
    return f"older than the {f'{window} and the ' if window else ''}{rules} {noun}"
