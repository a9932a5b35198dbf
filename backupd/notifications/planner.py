"""Decides what is reported now, given what was reported before: pure.

A problem is reported once it has lasted for its delay, again each day while it lasts, and its end once. One that
returns within a day of its last report is reported when that day is over.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backupd.catalog import NoticeRecord, RunRecord
from backupd.formatting import human_duration
from backupd.health import HealthFacts, find_problems
from backupd.model import CLOCK_TOLERANCE, Severity
from backupd.problems import Problem
from backupd.report import drill_of
from backupd.runbook import Topic
from backupd.schedule import Schedule

REPEAT_AFTER = timedelta(days=1)
# As long as the alert BackupdProofMissing waits: on the first day there is neither copy nor drill.
FIRST_DAY = timedelta(hours=6)
# A lock, or a rebuild of the catalog, is likely to be over by then.
TRANSIENT = timedelta(minutes=15)
_MAX_OCCURRENCE_AGE = timedelta(days=1)
_NO_SUBJECT = "-"
# Prefixes of keys: a problem that lasts, one that ended less than a day after its report, an occurrence; the digest.
_PROBLEM = "problem "
_RECENT = "recent "
_OCCURRENCE = "occurrence "
_DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Notice:
    """One paragraph of a message."""

    severity: Severity
    headline: str
    detail: str = ""
    since: datetime | None = None
    next_step: str = ""
    label: str = ""  # `resolved`, `still`, or empty for what is new
    topic: Topic | None = None  # of the runbook
    lines: tuple[str, ...] = ()  # further ones, as they are


@dataclass(frozen=True, slots=True)
class Alert:
    """A problem that is to be reported once it has lasted for `delay`; without `since`, from its first observation."""

    key: str  # kind, subject, and more: the same for the same problem, however it is worded
    notice: Notice
    resolved: str  # the sentence that reports its end
    delay: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened once; `mark` distinguishes it from earlier ones with the same `key`."""

    key: str
    mark: str
    notice: Notice


@dataclass(frozen=True, slots=True)
class Observation:
    """What was read at one moment."""

    health: HealthFacts
    subjects: frozenset[str]  # the sources and stores that this daemon is responsible for
    drills: tuple[RunRecord, ...] = ()  # the last finished drill of each source


@dataclass(frozen=True, slots=True)
class Facts:
    """All that notices depend on, beside the clock and the record."""

    alerts: tuple[Alert, ...] = ()
    occurrences: tuple[Occurrence, ...] = ()
    unknown: frozenset[str] = frozenset()  # kinds that could not be looked for: their alerts are not resolved now
    subjects: frozenset[str] = frozenset()  # alerts of other subjects end without a report


@dataclass(frozen=True, slots=True)
class Plan:
    """What to report now, and the record of all that was reported by then, which is saved before anything is sent."""

    notices: tuple[Notice, ...]
    record: Mapping[str, NoticeRecord]


def facts_of(observation: Observation, now: datetime) -> Facts:
    """Return what there is to report; what could not be read is neither a problem nor healthy.

    A failure that may be transient is reported once it makes `/health` red, and not while it is a warning.
    """
    unknown = set[str]()
    if observation.health.store_unreadable:
        unknown |= {"late", "damaged", "unreadable", "shrunk", "generation", "manifest", "access", "archive"}
    if observation.health.catalog_error is not None:
        unknown |= {"late", "failed", "missing", "unusable", "damaged"}
    problems = (one for one in find_problems(observation.health, now) if one.unhealthy or one.kind != "failed")
    drills = (run for run in observation.drills if run.source in observation.subjects)
    return Facts(tuple(map(_alert, problems)), tuple(_passed(drills, now)), frozenset(unknown), observation.subjects)


def plan_notices(facts: Facts, record: Mapping[str, NoticeRecord], now: datetime) -> Plan:
    """Decide what of `facts` is reported at `now` (aware). Keys of `record` that are not the planner's stay."""
    new = {key: not_in_future(one, now) for key, one in record.items() if not _is_outdated(key, one, now)}
    notices = [*_resolved(facts, new, now), *_due(facts, new, now), *_happened(facts.occurrences, new, now)]
    return Plan(tuple(notices), new)


def plan_digest(
    schedule: Schedule, record: Mapping[str, NoticeRecord], now: datetime
) -> tuple[bool, Mapping[str, NoticeRecord]]:
    """Return whether the digest is due, and the new record; the first digest is sent at the first scheduled time."""
    last = not_in_future(record.get(_DIGEST, NoticeRecord("", now, now)), now)
    due = schedule.following(last.notified_at or now) <= now
    return due, {**record, _DIGEST: replace(last, notified_at=now) if due else last}


def not_in_future(one: NoticeRecord, now: datetime) -> NoticeRecord:
    """Return `one` without times in the future, which a clock running ahead has set."""
    until = now + CLOCK_TOLERANCE
    since = now if one.since > until else one.since
    return replace(one, since=since, notified_at=one.notified_at if (one.notified_at or now) <= until else None)


def _alert(problem: Problem) -> Alert:
    kind, subject, delay, next_step = str(problem.kind), problem.subject, timedelta(), problem.advice
    match kind:
        case "store" | "catalog":
            key, delay = f"{kind} {_NO_SUBJECT}", TRANSIENT
        case "never" | "future" | "late":  # one problem, whatever its form
            key, delay = f"late {subject} {problem.task}", FIRST_DAY if kind == "never" else timedelta()
        case "failed":
            key, next_step = f"{kind} {subject} {problem.task}", f"{next_step}; backupd retries automatically"
        case "damaged" | "unreadable" | "shrunk" if problem.since:
            key = f"{kind} {subject} {problem.since.isoformat()}"  # each hold is another problem
        case _:
            key = f"{kind} {subject} {problem.reference}".rstrip()
    severity: Severity = "failure" if problem.unhealthy else "warning"
    notice = Notice(severity, str(problem), problem.detail, problem.since, next_step, topic=problem.topic)
    return Alert(key, notice, problem.resolved, delay)


def _passed(drills: Iterable[RunRecord], now: datetime) -> Iterator[Occurrence]:
    for run in drills:
        if run.outcome == "failed" or run.finished_at is None or now - run.finished_at > _MAX_OCCURRENCE_AGE:
            continue
        took = f" in {human_duration(run.duration_s)}" if run.duration_s is not None else ""
        generation = f": {run.generation} was restored" if run.generation else ""
        warnings = "; ".join(run.report.warnings) if run.report else ""
        drill = drill_of(run.report)
        store = f" from {drill.store}" if drill else ""
        headline = f"the drill of {run.source}{store} passed{took}{generation}"
        yield Occurrence(f"drill {run.source}", run.started_at.isoformat(), Notice("success", headline, warnings))


def _is_outdated(key: str, one: NoticeRecord, now: datetime) -> bool:
    """Return whether `one` is a problem that ended, and whose last report is a day ago: a new one is reported."""
    return key.startswith(_RECENT) and (one.notified_at is None or now - one.notified_at >= REPEAT_AFTER)


def _resolved(facts: Facts, record: dict[str, NoticeRecord], now: datetime) -> Iterator[Notice]:
    present = {_PROBLEM + alert.key for alert in facts.alerts}
    for key in sorted(key for key in record if key.startswith(_PROBLEM) and key not in present):
        name = key.removeprefix(_PROBLEM)
        kind, subject = name.split(" ")[:2]
        if kind in facts.unknown:
            continue
        was = record.pop(key)
        if was.notified_at is None or subject not in (_NO_SUBJECT, *facts.subjects):
            continue
        if now - was.notified_at < REPEAT_AFTER:
            record[_RECENT + name] = was
        yield Notice("success", was.value, since=was.since, label="resolved")


def _due(facts: Facts, record: dict[str, NoticeRecord], now: datetime) -> Iterator[Notice]:
    for alert in facts.alerts:
        key, recent_key = _PROBLEM + alert.key, _RECENT + alert.key
        known = record.get(key)
        since = alert.notice.since or (known.since if known else now)
        notified_at = known.notified_at if known else None
        if notified_at is not None:
            due = now - notified_at >= REPEAT_AFTER
        else:
            due = recent_key not in record and now - since >= alert.delay
        record[key] = NoticeRecord(alert.resolved, since, now if due else notified_at)
        if due:
            record.pop(recent_key, None)
            yield replace(alert.notice, since=since, label="still" if notified_at else "")


def _happened(occurrences: tuple[Occurrence, ...], record: dict[str, NoticeRecord], now: datetime) -> Iterator[Notice]:
    for one in occurrences:
        known = record.get(_OCCURRENCE + one.key)
        if known is None or known.value != one.mark:
            record[_OCCURRENCE + one.key] = NoticeRecord(one.mark, now, now)
            yield one.notice
