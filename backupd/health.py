"""Whether all is well: a pure judgement of how old the last proofs are, told in words.

What it says may be read by strangers: it names sources and replicas, never a path or a host.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.model import CLOCK_TOLERANCE, Hold, Task
from backupd.schedule import Schedule
from backupd.spans import human_span

_WHAT = {"backup": "verified backup of {}", "replicate": "off-site copy at {}", "drill": "proven restore from {}"}
_LEAST_GRACE = timedelta(hours=2)
_SHARE_OF_GRACE = 12


@dataclass(frozen=True, slots=True)
class Limit:
    """How old one kind of proof may be, in seconds; see `Standing`."""

    task: Task
    subject: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How old one kind of proof is: `last_at` (aware; None: there was never one) may be `limit_s` seconds ago.

    `subject` is the source for `backup`, the replica for `replicate` and the store for `drill`.
    """

    task: Task
    subject: str
    last_at: datetime | None
    limit_s: float


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """All that health depends on beside the clock; `unknown` says in words what could not be found out."""

    standings: tuple[Standing, ...]
    holds: tuple[Hold, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The judgement: `reasons` are why it is not well, `warnings` what an operator should look at all the same."""

    checked_at: datetime
    standings: tuple[Standing, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether every proof is within its limit, and no source is known to be damaged."""
        return not self.reasons

    @classmethod
    def of(cls, facts: HealthFacts, now: datetime) -> "Health":
        """Judge `facts` at `now` (aware)."""
        late = (why for standing in facts.standings if (why := _lateness(standing, now)))
        damaged = (f"{hold.source} is damaged: nothing is pruned" for hold in facts.holds if hold.kind == "corrupt")
        return cls(now, facts.standings, (*facts.unknown, *late, *damaged), tuple(_warnings(facts)))


def health_limit(schedule: Schedule, now: datetime) -> timedelta:
    """Return how old a proof may be that `schedule` brings anew: its longest gap and a twelfth, at least 2 hours, more.

    So a daily backup is missed after 26 to 27 hours, a weekly one after 7 days and 14 hours.
    """
    gap = schedule.longest_gap(now)
    return gap + max(gap / _SHARE_OF_GRACE, _LEAST_GRACE)


def within_limit(standing: Standing, now: datetime) -> bool:
    """Tell whether the proof is young enough; one dated in the future proves nothing."""
    return not _lateness(standing, now)


def _lateness(standing: Standing, now: datetime) -> str:
    what = _WHAT.get(standing.task, f"{standing.task} of {{}}").format(standing.subject)
    if standing.last_at is None:
        return f"there is no {what} yet"
    age = now - standing.last_at
    if age < -CLOCK_TOLERANCE:
        return f"the last {what} is dated in the future: check the clock"
    if age.total_seconds() > standing.limit_s:
        return f"the last {what} is {human_span(age.total_seconds())} old, more than {human_span(standing.limit_s)}"
    return ""


def _warnings(facts: HealthFacts) -> Iterator[str]:
    for hold in facts.holds:
        if hold.kind == "shrink":
            yield f"{hold.source} has shrunk: nothing is pruned until an operator accepts it"
