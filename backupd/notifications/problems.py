"""What there is to tell of: the problems of this moment, and news; pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.catalog import RunRecord
from backupd.formatting import human_duration
from backupd.health import HealthFacts, find_problems
from backupd.model import Severity
from backupd.problems import Problem
from backupd.report import drill_of

# As long as the alert BackupdProofMissing waits: on the first day there is no proof of anything.
FIRST_DAY = timedelta(hours=6)
# A lock, or a rebuild of the catalog, is likely to be over by then.
PASSING = timedelta(minutes=15)
_NOT_NEWS_AFTER = timedelta(days=1)
_NOBODY = "-"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong: `key` (kind, subject, more) is that of the same trouble, however it is worded.

    It is not worth telling before it has lasted for `patience`; `since` None means since it was noticed. `over` is the
    sentence that will tell of its end.
    """

    key: str
    headline: str
    detail: str
    next_step: str
    over: str
    since: datetime | None = None
    patience: timedelta = timedelta()
    severity: Severity = "failure"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened once: `mark` tells it from what happened before under the same `key`."""

    key: str
    mark: str
    headline: str
    detail: str
    severity: Severity = "success"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that messages depend on beside the clock.

    Troubles of the kinds in `blind` could not be looked for, and those of subjects not in `subjects` are nobody's any
    more: that they are not among `troubles` does not mean that they are over.
    """

    troubles: tuple[Trouble, ...] = ()
    news: tuple[Occurrence, ...] = ()
    blind: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a site: what health depends on, whose subjects are ours, and how the last drills ended."""

    health: HealthFacts
    subjects: frozenset[str]
    drills: tuple[RunRecord, ...] = ()


def facts_of(look: Observation, now: datetime) -> Facts:
    """Return what there is to tell of; what could not be seen is neither a problem nor well.

    A failure that may pass by itself is told once it makes `/health` red, and not as long as it is a warning.
    """
    blind = {"late", "damaged", "unreadable", "shrunk", "generation"} if look.health.store_unreadable else set[str]()
    if look.health.catalog_error is not None:
        blind |= {"late", "failed", "missing", "unusable", "damaged"}
    problems = (one for one in find_problems(look.health, now) if one.unhealthy or one.kind != "failed")
    news = (run for run in look.drills if run.source in look.subjects)
    return Facts(tuple(map(_trouble, problems)), tuple(_proven(news, now)), frozenset(blind), look.subjects)


def subject_of(key: str) -> str | None:
    """Return whose trouble `key` is; None where it is that of the whole site."""
    subject = key.split(" ")[1]
    return None if subject == _NOBODY else subject


def kind_of(key: str) -> str:
    """Return the kind of trouble that `key` is of."""
    return key.partition(" ")[0]


def _trouble(problem: Problem) -> Trouble:
    kind, subject = problem.kind, problem.subject
    next_step = problem.advice
    match kind:
        case "store" | "catalog":
            key, patience = f"{kind} {_NOBODY}", PASSING
        case "never" | "future" | "late":  # the same proof, however it is missed
            key, patience = f"late {subject} {problem.task}", FIRST_DAY if kind == "never" else timedelta()
        case "failed":
            key, patience = f"{kind} {subject} {problem.task}", timedelta()
            next_step = f"{next_step}; it is tried again by itself"
        case "damaged" | "unreadable" | "shrunk" if problem.since:
            key, patience = f"{kind} {subject} {problem.since.isoformat()}", timedelta()  # another one each time
        case _:
            key, patience = f"{kind} {subject} {problem.reference}".rstrip(), timedelta()
    severity: Severity = "failure" if problem.unhealthy else "warning"
    return Trouble(key, str(problem), problem.detail, next_step, _over(problem), problem.since, patience, severity)


def _over(problem: Problem) -> str:
    """Return the sentence that tells of its end."""
    database = f"the database of {problem.subject}"
    return {
        "store": "the directory of the backups can be read again",
        "catalog": "the catalog works again",
        "missing": f"{database} is no longer missing",
        "unusable": f"{database} is no longer refused",
        "damaged": f"{database} is sound again, or was accepted as it is: pruning goes on",
        "unreadable": f"{database} can be read again, or was accepted as it is: pruning goes on",
        "shrunk": f"{database} has grown back, or was accepted as it is: pruning goes on",
        "never": f"there is a {problem.proof} again that is young enough",
        "future": f"there is a {problem.proof} again that is young enough",
        "late": f"there is a {problem.proof} again that is young enough",
        "failed": f"the {problem.run} succeeds again",
        "generation": f"generation {problem.reference} is gone, or was found sound",
    }[problem.kind]


def _proven(runs: Iterable[RunRecord], now: datetime) -> Iterator[Occurrence]:
    for run in runs:
        if run.outcome == "failed" or run.finished_at is None or now - run.finished_at > _NOT_NEWS_AFTER:
            continue
        took = f"in {human_duration(run.duration_s)}" if run.duration_s is not None else ""
        generation = f" of {run.generation}" if run.generation else ""
        warnings = "; ".join(run.report.warnings) if run.report else ""
        drill = drill_of(run.report)
        store = f" from {drill.store}" if drill else ""
        headline = f"the drill of {run.source}{store} has proven a restore{generation} {took}".rstrip()
        yield Occurrence(f"drill {run.source}", run.started_at.isoformat(), headline, warnings)
