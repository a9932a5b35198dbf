"""What the page shows, as values: cards, things to do, and each source with its drawings; pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backupd.formatting import human_bytes, human_duration
from backupd.health import Freshness, within_limit
from backupd.model import Severity
from backupd.problems import Problem
from backupd.status.calendar import Day
from backupd.status.model import History, NextRun, Point, SourceHistory, Status
from backupd.web.drawings import BYTES, SECONDS, Chart, Half, Units, draw, halves
from backupd.web.localizer import Localizer
from backupd.web.translations import TRANSLATIONS

MOST_SOURCES: Final = 20
STATES: Final = ("verified", "degraded", "failed", "missed")
PROOFS: Final = ("backup", "replicate", "drill")
SEVERITIES: Final[dict[str, Severity]] = {
    "healthy": "success",
    "degraded": "warning",
    "failing": "failure",
    "empty": "failure",
    "first-day": "warning",
}
# The second step is for those who have a replica.
_INITIAL_STEPS: Final = {"first-day": ("next.first-day",), "empty": ("next.empty", "next.empty.replica")}


@dataclass(frozen=True, slots=True)
class Card:
    """The age of the latest backup, off-site copy or drill; `share` (0 to 1) is its share of the limit."""

    title: str
    subject: str
    severity: Severity
    word: str
    age: str = ""
    at: datetime | None = None
    limit: str = ""
    share: float = 0.0
    next_at: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ToDo:
    """One problem, the next step as `advice`, and as `quoted` the error text of the run, which is not translated."""

    what: str
    advice: str
    quoted: str = ""


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source; `other_days` are those not verified, newest first; each chart has its description in text."""

    history: SourceHistory
    halves: tuple[Half, ...]
    calendar: str
    counts: dict[str, int]
    other_days: tuple[Day, ...]
    sizes: tuple[Chart, str] | None
    durations: tuple[Chart, str] | None


def cards(history: History, localizer: Localizer) -> tuple[Card, ...]:
    """Return a card for each age that has a limit, and one for each task that is not set up."""
    found: list[Card] = []
    for task in PROOFS:
        ages = [freshness for freshness in history.status.health.freshness if freshness.task == task]
        found += [_card(freshness, history, localizer) for freshness in ages]
        if not ages:
            title, word = localizer.translate(f"proof.{task}"), localizer.translate("not-set-up")
            found.append(Card(title, "", "warning", word, advice=localizer.translate(f"unset.{task}")))
    return tuple(found)


def to_dos(history: History, localizer: Localizer) -> tuple[ToDo, ...]:
    """Return the problems and their next steps, the most severe first; empty where there are none."""
    steps = _INITIAL_STEPS.get(history.stage, ())[: 2 if history.replicas else 1]
    found = [ToDo("", localizer.translate(key)) for key in steps]
    found += [
        ToDo(localizer.translate(f"unread.{part}"), localizer.translate(f"advice.{part}")) for part in history.unread
    ]
    found += [_to_do(problem, history.status.taken_at, localizer) for problem in _problems_to_show(history)]
    found += _undelivered(history.status, localizer)
    if history.exposed:
        found.append(ToDo(localizer.translate("exposed"), localizer.translate("advice.exposed")))
    if history.stage == "degraded" and not found:
        found += [
            ToDo("", localizer.translate("next.degraded-day", source=source.source))
            for source in history.histories
            if source.last_state not in ("none", "verified")
        ]
    return tuple(found)


def source_view(source: SourceHistory, localizer: Localizer) -> SourceView:
    """Return the view of one source."""
    number = Counter(day.state for day in source.days)
    counts = {state: number[state] for state in STATES}
    calendar = ""
    if source.days:
        first, last = source.days[0].date.isoformat(), source.days[-1].date.isoformat()
        calendar = localizer.translate("calendar.summary", source=source.source, first=first, last=last, **counts)
    return SourceView(
        history=source,
        halves=halves(source.days),
        calendar=calendar,
        counts=counts,
        other_days=tuple(day for day in reversed(source.days) if day.state not in ("verified", "none")),
        sizes=_drawn(
            "chart.size-summary",
            source,
            (BYTES, human_bytes),
            localizer,
            snapshot=lambda point: point.snapshot_bytes,
            archive=lambda point: point.archive_bytes,
        ),
        durations=_drawn(
            "chart.duration-summary",
            source,
            (SECONDS, human_duration),
            localizer,
            duration=lambda point: point.duration_s,
        ),
    )


def day_words(day: Day, localizer: Localizer) -> str:
    """Return one day as text: `2026-11-25: failed (3 of 3 runs failed)`."""
    words = f"{day.date.isoformat()}: {localizer.translate(f'day.{day.state}')}"
    if not day.failed:
        return words
    return f"{words} ({localizer.translate('day.runs', failed=day.failed, runs=day.runs)})"


def _undelivered(status: Status, localizer: Localizer) -> Iterator[ToDo]:
    """Yield messages and pings that failed: their receivers cannot notice."""
    advice = localizer.translate("advice.unheard")
    if status.messages.failing:
        yield ToDo(localizer.translate("unheard.messages", count=status.messages.waiting), advice)
    for ping in status.pings:
        if ping.failing:
            name = ", ".join(filter(None, (localizer.task(ping.task), ping.source)))
            yield ToDo(localizer.translate("unheard.ping", ping=name), advice, localizer.quote(ping.reason))


def _problems_to_show(history: History) -> Iterable[Problem]:
    """Return the problems, except those that the unreadable parts or the missing first copy already imply."""
    implied = {"store", "catalog"} & set(history.unread)
    no_copy = {"first-day": PROOFS, "empty": ("backup",)}.get(history.stage, ())
    return [
        problem
        for problem in history.status.health.problems
        if problem.kind not in implied and not (problem.kind == "never" and problem.task in no_copy)
    ]


def _card(freshness: Freshness, history: History, localizer: Localizer) -> Card:
    now = history.status.health.checked_at
    well = within_limit(freshness, now)
    if freshness.last_at is None:
        age_s, word, age = 0.0, "none", localizer.translate("age.never")
    else:
        age_s = (now - freshness.last_at).total_seconds()
        word = "beyond" if age_s >= 0 else "clock"
        age = localizer.translate("age.ago" if age_s >= 0 else "age.ahead", age=human_duration(abs(age_s)))
    runs = [run for run in history.status.next_runs if run.task == freshness.task]
    if freshness.task != "drill":  # whose runs have the name of their source, not of its store
        runs = [run for run in runs if run.source == freshness.subject]
    due = min(runs, key=lambda run: run.at, default=None)
    return Card(
        title=localizer.translate(f"proof.{freshness.task}"),
        subject=localizer.quote(freshness.subject),
        severity="success" if well else "warning" if history.stage == "first-day" else "failure",
        word=localizer.translate("within" if well else word),
        age=age,
        at=freshness.last_at,
        limit=localizer.translate("limit", limit=human_duration(freshness.limit_s)),
        share=min(1.0, max(0.0, age_s / freshness.limit_s)) if freshness.limit_s else 0.0,
        next_at=_next_at(due, localizer) if due else "",
    )


def _next_at(run: NextRun, localizer: Localizer) -> str:
    if run.overdue:
        return localizer.translate("next-run.now")
    return localizer.translate("next-run.retry" if run.retry else "next-run", at=localizer.at(run.at))


def _to_do(problem: Problem, now: datetime, localizer: Localizer) -> ToDo:
    """Return a problem by the text of its kind, or of its kind and task."""
    what, advice = (_phrase(part, problem) for part in ("problem", "advice"))
    lasted_s = (now - problem.since).total_seconds() if problem.since else 0.0
    values: dict[str, object] = {
        "subject": problem.subject,
        "task": localizer.task(problem.task or ""),
        "runs": problem.runs,
        "reference": problem.reference,
        "age": human_duration(problem.age_s or max(0.0, lasted_s)),
        "limit": human_duration(problem.limit_s),
    }
    steps = [localizer.translate(advice, **values)] if advice else []
    if problem.restore:
        steps.append(localizer.translate("advice.restore", command=problem.restore))
    if problem.hint:
        steps.append(localizer.translate("to-do.says", hint=problem.hint))
    return ToDo(
        what=localizer.translate(what, **values) if what else localizer.quote(str(problem)),
        advice=" ".join(steps),
        quoted=localizer.quote(problem.detail),
    )


def _phrase(part: str, problem: Problem) -> str:
    keys = (f"{part}.{problem.kind}", f"{part}.{problem.kind}.{problem.task}", f"{part}.{problem.task}")
    return next((key for key in keys if key in TRANSLATIONS), "")


def _drawn(
    summary: str,
    source: SourceHistory,
    units: tuple[Units, Callable[[float], str]],
    localizer: Localizer,
    **values: Callable[[Point], float | None],
) -> tuple[Chart, str] | None:
    """Draw a line for each of `values`, which `summary` names; `units` are those of the axis, and of the text."""
    serieses = {
        name: [(point.date, found) for point in source.points if (found := value(point)) is not None]
        for name, value in values.items()
    }
    chart = draw(serieses.values(), units[0]) if all(serieses.values()) else None
    if chart is None:
        return None
    days = [day.isoformat() for day, _ in next(iter(serieses.values()))]
    latest = {name: units[1](series[-1][1]) for name, series in serieses.items()}
    return chart, localizer.translate(summary, source=source.source, first=days[0], last=days[-1], **latest)
