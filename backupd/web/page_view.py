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
from backupd.status.model import GenerationFigures, History, NextRun, Point, SourceHistory, Status
from backupd.web.drawings import Chart, Half, Series, duration_chart, halves, size_chart
from backupd.web.localizer import Localizer
from backupd.web.translations import TRANSLATIONS

MOST_SOURCES: Final = 20
MOST_ROWS: Final = 14
MOST_OTHER_DAYS: Final = 40
STATES: Final = ("verified", "degraded", "failed", "missed")
PROOFS: Final = ("backup", "replicate", "drill")
_SEVERITIES: Final[dict[str, Severity]] = {
    "healthy": "success",
    "degraded": "warning",
    "failing": "failure",
    "empty": "failure",
    "first-day": "warning",
}


@dataclass(frozen=True, slots=True)
class Card:
    """The age of the latest backup, off-site copy or drill; `share` (0 to 1) is its share of the limit."""

    title: str
    subject: str
    severity: Severity
    word: str
    age: str
    at: datetime | None
    limit: str
    share: float
    next_at: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ToDo:
    """One problem, the next step as `advice`, and as `quoted` the error text of the run, which is not translated."""

    what: str
    advice: str
    quoted: str = ""


@dataclass(frozen=True, slots=True)
class DrawnChart:
    """A chart and its description in text."""

    chart: Chart
    summary: str


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source; `other_days` are those not verified, newest first; `more_days` of them are not shown.

    The first generations are in the table, the `further` ones are folded, and `more` are in `backupd list` only.
    """

    name: str
    halves: tuple[Half, ...]
    calendar: str
    counts: dict[str, int]
    other_days: tuple[Day, ...]
    more_days: int
    sizes: DrawnChart | None
    durations: DrawnChart | None
    generations: tuple[GenerationFigures, ...]
    further: tuple[GenerationFigures, ...]
    more: int
    total: str


def severity_of(history: History) -> Severity:
    """Return the severity of the page as a whole."""
    return _SEVERITIES[history.stage]


def cards(history: History, localizer: Localizer) -> tuple[Card, ...]:
    """Return a card for each age that has a limit, and one for each task that is not set up."""
    return tuple(card for task in PROOFS for card in _cards(task, history, localizer))


def to_dos(history: History, localizer: Localizer) -> tuple[ToDo, ...]:
    """Return the problems and their next steps, the most severe first; empty where there are none."""
    found = [ToDo("", localizer.translate(key)) for key in _initial_steps(history)]
    found += [
        ToDo(localizer.translate(f"unread.{part}"), localizer.translate(f"advice.{part}")) for part in history.unread
    ]
    found += [_to_do(problem, history.status.taken_at, localizer) for problem in _problems_to_show(history)]
    found += _undelivered(history.status, localizer)
    if history.stage == "degraded" and not found:
        found += [
            ToDo("", localizer.translate("next.degraded-day", source=source.source))
            for source in history.histories
            if source.last_state not in ("none", "verified")
        ]
    return tuple(found)


def source_view(source: SourceHistory, localizer: Localizer) -> SourceView:
    """Return the view of one source."""
    counts = Counter(day.state for day in source.days)
    other = [day for day in reversed(source.days) if day.state not in ("verified", "none")]
    return SourceView(
        name=localizer.quote(source.source),
        halves=halves(source.days),
        calendar=_calendar(source, {state: counts[state] for state in STATES}, localizer),
        counts={state: counts[state] for state in STATES},
        other_days=tuple(other[:MOST_OTHER_DAYS]),
        more_days=max(0, len(other) - MOST_OTHER_DAYS),
        sizes=_sizes(source, localizer),
        durations=_durations(source, localizer),
        generations=source.generations[:MOST_ROWS],
        further=source.generations[MOST_ROWS:],
        more=source.generation_count - len(source.generations),
        total=localizer.translate(
            "generations.count", count=source.generation_count, size=human_bytes(source.stored_bytes)
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


def _initial_steps(history: History) -> tuple[str, ...]:
    if history.stage == "first-day":
        return ("next.first-day",)
    if history.stage != "empty":
        return ()
    return ("next.empty", "next.empty.replica") if history.replicas else ("next.empty",)


def _problems_to_show(history: History) -> Iterable[Problem]:
    """Return the problems, except those that the unreadable parts or the missing first copy already imply."""
    implied = {"store", "catalog"} & set(history.unread)
    problems = [problem for problem in history.status.health.problems if problem.kind not in implied]
    if history.stage == "first-day":
        return (problem for problem in problems if problem.kind != "never")
    if history.stage == "empty":
        return (problem for problem in problems if (problem.kind, problem.task) != ("never", "backup"))
    return problems


def _cards(task: str, history: History, localizer: Localizer) -> Iterator[Card]:
    found = [freshness for freshness in history.status.health.freshness if freshness.task == task]
    yield from (_card(freshness, history, localizer) for freshness in found)
    if not found:
        word, advice = localizer.translate("not-set-up"), localizer.translate(f"unset.{task}")
        yield Card(localizer.translate(f"proof.{task}"), "", "warning", word, "", None, "", 0.0, "", advice)


def _card(freshness: Freshness, history: History, localizer: Localizer) -> Card:
    now = history.status.health.checked_at
    well = within_limit(freshness, now)
    age_s = (now - freshness.last_at).total_seconds() if freshness.last_at else 0.0
    runs = (run for run in history.status.next_runs if _renews(run.task, run.source, freshness))
    due = min(runs, key=lambda run: run.at, default=None)
    return Card(
        title=localizer.translate(f"proof.{freshness.task}"),
        subject=localizer.quote(freshness.subject),
        severity="success" if well else "warning" if history.stage == "first-day" else "failure",
        word=localizer.translate(_word(freshness, well=well, age_s=age_s)),
        age=_age(freshness, age_s, localizer),
        at=freshness.last_at,
        limit=localizer.translate("limit", limit=human_duration(freshness.limit_s)),
        share=min(1.0, max(0.0, age_s / freshness.limit_s)) if freshness.last_at and freshness.limit_s else 0.0,
        next_at=_next_at(due, localizer) if due else "",
    )


def _next_at(run: NextRun, localizer: Localizer) -> str:
    if run.overdue:
        return localizer.translate("next-run.now")
    return localizer.translate("next-run.retry" if run.retry else "next-run", at=localizer.at(run.at))


def _renews(task: str, source: str, freshness: Freshness) -> bool:
    """Return whether a run renews this age; the run of a drill has the name of its source, not of its store."""
    return task == freshness.task and (task == "drill" or source == freshness.subject)


def _word(freshness: Freshness, *, well: bool, age_s: float) -> str:
    if well:
        return "within"
    if freshness.last_at is None:
        return "none"
    return "clock" if age_s < 0 else "beyond"


def _age(freshness: Freshness, age_s: float, localizer: Localizer) -> str:
    if freshness.last_at is None:
        return localizer.translate("age.never")
    return localizer.translate("age.ago" if age_s >= 0 else "age.ahead", age=human_duration(abs(age_s)))


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


def _calendar(source: SourceHistory, counts: dict[str, int], localizer: Localizer) -> str:
    if not source.days:
        return ""
    first, last = source.days[0].date.isoformat(), source.days[-1].date.isoformat()
    return localizer.translate("calendar.summary", source=source.source, first=first, last=last, **counts)


def _sizes(source: SourceHistory, localizer: Localizer) -> DrawnChart | None:
    snapshots = _series(source, lambda point: point.snapshot_bytes)
    archives = _series(source, lambda point: point.archive_bytes)
    chart = size_chart((snapshots, archives)) if snapshots and archives else None
    if chart is None:
        return None
    first, last = snapshots[0][0].isoformat(), snapshots[-1][0].isoformat()
    sizes = {"snapshot": human_bytes(snapshots[-1][1]), "archive": human_bytes(archives[-1][1])}
    return DrawnChart(
        chart, localizer.translate("chart.size-summary", source=source.source, first=first, last=last, **sizes)
    )


def _durations(source: SourceHistory, localizer: Localizer) -> DrawnChart | None:
    series = _series(source, lambda point: point.duration_s)
    chart = duration_chart(series)
    if chart is None:
        return None
    first, last, took = series[0][0].isoformat(), series[-1][0].isoformat(), human_duration(series[-1][1])
    words = localizer.translate("chart.duration-summary", source=source.source, first=first, last=last, duration=took)
    return DrawnChart(chart, words)


def _series(source: SourceHistory, value: Callable[[Point], float | None]) -> Series:
    return [(point.date, found) for point in source.points if (found := value(point)) is not None]
