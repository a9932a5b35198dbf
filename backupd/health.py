"""Whether all is well: one pure function finds the problems, and every surface shows these and no others.

`backupd status`, `/health`, the page, metrics, messages and the daily ping derive from `find_problems`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from backupd.errors import BackupdError, ErrorKind
from backupd.model import CLOCK_TOLERANCE, Hold, Task
from backupd.problems import Problem, ProblemKind, ProblemSeverity
from backupd.schedule import Schedule

# Failures that may pass repeat when so many runs in a row failed over so long: retries come after 2, 4 and 8 minutes.
REPEATED_RUNS: Final = 3
REPEATED_FOR: Final = timedelta(minutes=15)
# One that no run has ended for so long repeats as well: where no daemon tries again, the next run may be a week away.
LASTING: Final = timedelta(hours=6)
# What a failed backup found wrong with its source.
SOURCE_ERRORS: Final[Mapping[ErrorKind, ProblemKind]] = {
    "missing": "missing",
    "unusable": "unusable",
    "corrupt": "damaged",
}
_LEAST_GRACE = timedelta(hours=2)
_SHARE_OF_GRACE = 12


@dataclass(frozen=True, slots=True)
class Limit:
    """How old the last success of a task may be, in seconds; see `Freshness`."""

    task: Task
    subject: str
    limit_s: float
    of_files: bool = False  # the source is a set of files


@dataclass(frozen=True, slots=True)
class Freshness:
    """When a task last succeeded: `last_at` (aware; None: never) may be `limit_s` seconds ago.

    `subject` is the source for `backup`, the replica for `replicate` and the store for `drill`.
    """

    task: Task
    subject: str
    last_at: datetime | None
    limit_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The last `runs` runs of a task of a subject failed; the first of them ended at `since` (aware).

    Kind, error and hint are those of the last one, and the store that a drill restored from; the words may name paths.
    """

    task: Task
    subject: str
    kind: ErrorKind
    since: datetime
    runs: int = 1
    error: str = ""
    hint: str = ""
    store: str = ""


@dataclass(frozen=True, slots=True)
class RefusedGeneration:
    """A generation that does not count: its manifest cannot be used or read (`access`), or its archive is gone."""

    id: str
    source: str
    reason: str
    kind: Literal["manifest", "access", "archive"]


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """All that health depends on beside the clock.

    `damaged` are generations that a check found damaged, each id with its source. Where the store could not be read
    (`store_unreadable`), or the catalog could not (`catalog_error`), what they alone know is missing from the rest.
    `files` are the sources that are sets of files, `points` the newest restore point with each generation of these.
    """

    freshness: tuple[Freshness, ...]
    holds: tuple[Hold, ...] = ()
    failures: tuple[Failure, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    refused: tuple[RefusedGeneration, ...] = ()
    store_unreadable: bool = False
    catalog_error: BackupdError | None = None
    files: frozenset[str] = frozenset()
    points: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """The judgement: `problems` as values, the unhealthy ones first."""

    checked_at: datetime
    freshness: tuple[Freshness, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no problem is more than a warning."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not well, in sentences."""
        return tuple(str(problem) for problem in self.problems if problem.unhealthy)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should look at all the same, in sentences."""
        return tuple(str(problem) for problem in self.problems if not problem.unhealthy)

    @classmethod
    def of(cls, facts: HealthFacts, now: datetime) -> "Health":
        """Judge `facts` at `now` (aware)."""
        return cls(now, facts.freshness, find_problems(facts, now))


def find_problems(facts: HealthFacts, now: datetime) -> tuple[Problem, ...]:
    """Return all that is wrong at `now` (aware), the unhealthy problems first."""
    problems = (
        *_unknown(facts),
        *_of_sources(facts),
        *_failing(facts, now),
        *_late(facts, now),
        *(Problem("generation", "warning", None, source, reference=one) for one, source in facts.damaged),
        *_refused(facts),
    )
    return tuple(sorted(problems, key=lambda problem: not problem.unhealthy))  # sorting keeps the order of the rest


def health_limit(schedule: Schedule, now: datetime) -> timedelta:
    """Return how old the last success by `schedule` may be: its longest gap and a twelfth, at least 2 hours, more.

    So a daily backup is missed after 26 to 27 hours, a weekly one after 7 days and 14 hours.
    """
    gap = schedule.longest_gap(now)
    return gap + max(gap / _SHARE_OF_GRACE, _LEAST_GRACE)


def within_limit(freshness: Freshness, now: datetime) -> bool:
    """Tell whether the last success is recent enough; one that is dated in the future does not count."""
    return not _lateness(freshness, now)


def _unknown(facts: HealthFacts) -> Iterator[Problem]:
    if facts.store_unreadable:
        yield Problem("store", "unhealthy")
    if facts.catalog_error is not None:
        error = facts.catalog_error
        yield Problem("catalog", "unhealthy", detail=error.message, hint=error.hint)


def _refused(facts: HealthFacts) -> Iterator[Problem]:
    for one in facts.refused:
        yield Problem(one.kind, "warning", None, one.source, reference=one.id, detail=one.reason)


def _of_sources(facts: HealthFacts) -> Iterator[Problem]:
    """Yield what is wrong with a source itself, by its hold or by its last backup."""
    for hold in facts.holds:
        if hold.kind == "missing":  # which the failed backup says
            continue
        kind: ProblemKind = "shrunk" if hold.kind == "shrink" else "unreadable" if hold.unreadable else "damaged"
        reference = hold.reference or ""
        command = _restore_command(hold.source, facts, reference)
        yield Problem(
            kind,
            "unhealthy",
            "backup",
            hold.source,
            hold.since,
            reference=reference,
            restore=command,
            detail=hold.reason,
            of_files=hold.source in facts.files,
        )
    held = {hold.source for hold in facts.holds if hold.kind == "corrupt"}
    for failure in facts.failures:
        kind_of_source = _source_kind(failure)
        if kind_of_source == "missing" or (kind_of_source and failure.subject not in held):
            problem = _problem(failure, kind_of_source, "unhealthy", _restore_command(failure.subject, facts))
            yield replace(problem, of_files=failure.subject in facts.files)


def _failing(facts: HealthFacts, now: datetime) -> Iterator[Problem]:
    for failure in facts.failures:
        if _source_kind(failure) is None:
            problem = _problem(failure, "failed", "unhealthy" if repeats(failure, now) else "warning")
            yield replace(problem, of_files=failure.subject in facts.files)


def repeats(failure: Failure, now: datetime) -> bool:
    """Tell whether a failure occurred so often, or lasted for so long, that it does not pass by itself."""
    lasted = now - failure.since
    return lasted >= LASTING or (failure.runs >= REPEATED_RUNS and lasted >= REPEATED_FOR)


def _late(facts: HealthFacts, now: datetime) -> Iterator[Problem]:
    """Yield the successes that are missing or too old, but none that is missing because it could not be read."""
    for freshness in facts.freshness:
        unknown = facts.store_unreadable or (facts.catalog_error is not None and freshness.task != "backup")
        problem = _lateness(freshness, now)
        if problem and not (problem.kind == "never" and unknown):
            yield problem


def _lateness(freshness: Freshness, now: datetime) -> Problem | None:
    task, subject, limit_s = freshness.task, freshness.subject, freshness.limit_s
    if freshness.last_at is None:
        return Problem("never", "unhealthy", task, subject)
    age_s = (now - freshness.last_at).total_seconds()
    if age_s < -CLOCK_TOLERANCE.total_seconds():
        return Problem("future", "unhealthy", task, subject)
    if age_s > limit_s:
        since = freshness.last_at + timedelta(seconds=limit_s)
        return Problem("late", "unhealthy", task, subject, since, age_s=age_s, limit_s=limit_s)
    return None


def _source_kind(failure: Failure) -> ProblemKind | None:
    return SOURCE_ERRORS.get(failure.kind) if failure.task == "backup" else None


def _problem(failure: Failure, kind: ProblemKind, severity: ProblemSeverity, restore: str = "") -> Problem:
    problem = Problem(kind, severity, failure.task, failure.subject, failure.since, failure.kind, failure.runs)
    return replace(problem, store=failure.store, restore=restore, detail=failure.error, hint=failure.hint)


def _restore_command(source: str, facts: HealthFacts, generation: str = "") -> str:
    """Return the command that restores `source`, of that generation or the newest: from here, else from a replica.

    It is empty where there is no copy. A set of files is restored with its restore point alone.
    """
    if source in facts.files and generation and generation not in facts.points:
        return "backupd list --points"
    if generation and source not in facts.files:
        return f"backupd restore {generation}"
    command = f"backupd restore latest --source {source}"
    if source in facts.files:
        command = f"backupd restore --point {facts.points.get(generation, 'latest')} --only {source}"
    if any((one.task, one.subject) == ("backup", source) and one.last_at for one in facts.freshness):
        return command
    replica = next((one.subject for one in facts.freshness if one.task == "replicate"), "")
    return f"{command} --from {replica}" if replica else ""
