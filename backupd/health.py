"""Whether all is well: a pure judgement of how old the last proofs are, told in words.

What it says may be read by strangers: it names sources and replicas, never a path or a host.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backupd.model import CLOCK_TOLERANCE, Hold, Task
from backupd.schedule import Schedule
from backupd.spans import human_span

STORE_UNREADABLE = "the directory of the backups cannot be read"
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
class Trouble:
    """One thing that is not well, as a value: `str` tells it in English, who speaks otherwise has its own words.

    `never`, `future` and `late` are of the proof of `task` and `subject`, `damaged` and `shrunk` of the source
    `subject`; `unknown` says in `words` what could not be found out. `age_s` and `limit_s` come with `late`.
    """

    kind: Literal["never", "future", "late", "damaged", "shrunk", "unknown"]
    task: Task | None = None
    subject: str = ""
    age_s: float = 0.0
    limit_s: float = 0.0
    words: str = ""

    def __str__(self) -> str:
        """Tell it in English."""
        what = _WHAT.get(str(self.task), f"{self.task} of {{}}").format(self.subject)
        match self.kind:
            case "never":
                return f"there is no {what} yet"
            case "future":
                return f"the last {what} is dated in the future: check the clock"
            case "late":
                return f"the last {what} is {human_span(self.age_s)} old, more than {human_span(self.limit_s)}"
            case "damaged":
                return f"{self.subject} is damaged: nothing is pruned"
            case "shrunk":
                return f"{self.subject} has shrunk: nothing is pruned until an operator accepts it"
            case _:
                return self.words


@dataclass(frozen=True, slots=True)
class Health:
    """The judgement: `reasons` are why it is not well, `warnings` what an operator should look at all the same.

    `troubles` are both, as values.
    """

    checked_at: datetime
    standings: tuple[Standing, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    troubles: tuple[Trouble, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every proof is within its limit, and no source is known to be damaged."""
        return not self.reasons

    @classmethod
    def of(cls, facts: HealthFacts, now: datetime) -> "Health":
        """Judge `facts` at `now` (aware)."""
        late = (trouble for standing in facts.standings if (trouble := _lateness(standing, now)))
        unknown = (Trouble("unknown", words=words) for words in facts.unknown)
        damaged = (Trouble("damaged", "backup", hold.source) for hold in facts.holds if hold.kind == "corrupt")
        shrunk = tuple(Trouble("shrunk", "backup", hold.source) for hold in facts.holds if hold.kind == "shrink")
        grave = (*unknown, *late, *damaged)
        return cls(now, facts.standings, tuple(map(str, grave)), tuple(map(str, shrunk)), (*grave, *shrunk))


def health_limit(schedule: Schedule, now: datetime) -> timedelta:
    """Return how old a proof may be that `schedule` brings anew: its longest gap and a twelfth, at least 2 hours, more.

    So a daily backup is missed after 26 to 27 hours, a weekly one after 7 days and 14 hours.
    """
    gap = schedule.longest_gap(now)
    return gap + max(gap / _SHARE_OF_GRACE, _LEAST_GRACE)


def within_limit(standing: Standing, now: datetime) -> bool:
    """Tell whether the proof is young enough; one dated in the future proves nothing."""
    return not _lateness(standing, now)


def _lateness(standing: Standing, now: datetime) -> Trouble | None:
    task, subject = standing.task, standing.subject
    if standing.last_at is None:
        return Trouble("never", task, subject)
    age = now - standing.last_at
    if age < -CLOCK_TOLERANCE:
        return Trouble("future", task, subject)
    if age.total_seconds() > standing.limit_s:
        return Trouble("late", task, subject, age.total_seconds(), standing.limit_s)
    return None
