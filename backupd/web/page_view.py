"""What the page shows, as values: cards, and each source with its drawings and commands; pure."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Final

from backupd.formatting import human_bytes, human_duration
from backupd.health import Freshness, within_limit
from backupd.model import Severity, is_generation_id
from backupd.status.calendar import Day
from backupd.status.history import NOT_CONFIGURED
from backupd.status.model import FilesFigures, GenerationFigures, History, NextRun, PointFigures, SourceHistory
from backupd.web.chart_view import ChartView, duration_chart, size_chart
from backupd.web.drawings import Half, halves
from backupd.web.localizer import Localizer
from backupd.web.verdict import PROOFS, due_run, first_run

MOST_SOURCES: Final = 20
_SECOND_MS: Final = 1000
STATES: Final = ("verified", "degraded", "failed", "missed")
SEVERITIES: Final[dict[str, Severity]] = {
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
    age: str = ""
    at: datetime | None = None
    limit: str = ""
    share: float = 0.0
    next_at: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source; `other_days` are those not verified, newest first; each chart has its description in text."""

    history: SourceHistory
    halves: tuple[Half, ...]
    calendar: str
    counts: dict[str, int]
    other_days: tuple[Day, ...]
    sizes: ChartView | None
    durations: ChartView | None
    coming: str  # when its first backup starts, in place of what there is nothing to show for; empty once there is one
    files: str = ""  # of a set of files: how many there are, their growth, and the last change


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


def source_view(source: SourceHistory, history: History, localizer: Localizer) -> SourceView:
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
        sizes=size_chart(source, localizer),
        durations=duration_chart(source, localizer),
        coming=_coming(source, history, localizer),
        files=_files_text(source.files, localizer) if source.files else "",
    )


def restore_commands(generation: GenerationFigures, exec_prefix: str) -> tuple[str, ...]:
    """Return the command that restores a generation, for each store that has it; none for one that is damaged here."""
    usable = generation.verification not in ("corrupt", "unknown")
    ways = [*([""] if usable else []), *(f" --from {quote(store)}" for store in generation.stores[1:])]
    if not is_generation_id(generation.id) or generation.kind == "files":  # those come back with their restore point
        return ()
    to = " --to NEW_FILE" if NOT_CONFIGURED in generation.kept_for else ""
    return tuple(f"{exec_prefix}backupd restore {quote(generation.id)}{way}{to}" for way in ways)


def point_commands(point: PointFigures, exec_prefix: str) -> tuple[str, ...]:
    """Return the command that restores a whole restore point, for each store that has it; locally if it is sound."""
    ways = [*([""] if point.sound else []), *(f" --from {quote(store)}" for store in point.stores[1:])]
    return tuple(f"{exec_prefix}backupd restore --point {quote(point.id)}{way}" for way in ways)


def spread_text(spread_ms: int) -> str:
    """Return how far apart the parts of a restore point are: `12 ms`, `1.5 s`."""
    return human_duration(spread_ms / 1000) if spread_ms >= _SECOND_MS else f"{spread_ms} ms"


def day_words(day: Day, localizer: Localizer) -> str:
    """Return one day as text: `2026-11-25: failed (3 of 3 runs failed)`."""
    words = f"{day.date.isoformat()}: {localizer.translate(f'day.{day.state}')}"
    if not day.failed:
        return words
    return f"{words} ({localizer.translate('day.runs', failed=day.failed, runs=day.runs)})"


def _card(freshness: Freshness, history: History, localizer: Localizer) -> Card:
    now = history.status.health.checked_at
    well = within_limit(freshness, now)
    if freshness.last_at is None:
        age_s, word, age = 0.0, "none", localizer.translate("age.never")
    else:
        age_s = (now - freshness.last_at).total_seconds()
        word = "beyond" if age_s >= 0 else "clock"
        age = localizer.translate("age.ago" if age_s >= 0 else "age.ahead", age=human_duration(abs(age_s)))
    due = due_run(history, freshness.task, freshness.subject)
    planned = history.stage == "first-day" and freshness.last_at is None
    if due and planned:
        age, word = localizer.translate("soon") if due.overdue else localizer.at(due.at), "planned"
    return Card(
        title=localizer.translate(f"proof.{freshness.task}"),
        subject=localizer.quote(freshness.subject),
        severity="success" if well else "warning" if history.stage == "first-day" else "failure",
        word=localizer.translate("within" if well else word),
        age=age,
        at=freshness.last_at,
        limit=localizer.translate("limit", limit=human_duration(freshness.limit_s)),
        share=min(1.0, max(0.0, age_s / freshness.limit_s)) if freshness.limit_s else 0.0,
        next_at="" if planned or not due else _next_at(due, localizer),
    )


def _files_text(files: FilesFigures, localizer: Localizer) -> str:
    count, size, at = f"{files.files:,}", human_bytes(files.size_bytes), localizer.at(files.changed_at)
    text = localizer.translate("files.figures", count=count, size=size, at=at)
    if files.more_files is None or files.more_bytes is None:
        return text
    grown = f"{'-' if files.more_bytes < 0 else '+'}{human_bytes(abs(files.more_bytes))}"
    return f"{text} {localizer.translate('files.growth', files=f'{files.more_files:+,}', size=grown)}"


def _coming(source: SourceHistory, history: History, localizer: Localizer) -> str:
    if source.generation_count or source.last_state != "none":
        return ""
    due = first_run(due_run(history, "backup", source.source), localizer)
    return localizer.translate("source.coming", when=due) if due else ""


def _next_at(run: NextRun, localizer: Localizer) -> str:
    if run.overdue:
        return localizer.translate("next-run.now")
    return localizer.translate("next-run.retry" if run.retry else "next-run", at=localizer.at(run.at))
