"""What the page shows of each source: its calendar, its charts, its generations; pure."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backupd.status.calendar import Day
from backupd.status.model import GenerationFigures, Point, SourceHistory
from backupd.web.calendar_view import Half, halves
from backupd.web.chart import Chart, Series, duration_chart, size_chart
from backupd.web.localizer import Localizer

MOST_SOURCES: Final = 20
MOST_ROWS: Final = 14
MOST_OTHER_DAYS: Final = 40
STATES: Final = ("verified", "degraded", "failed", "missed")


@dataclass(frozen=True, slots=True)
class DrawnChart:
    """A chart, and in words what it shows."""

    chart: Chart
    summary: str


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source; `other_days` are those that were not verified, newest first, `more_days` of them not shown.

    The first generations stand in the table, the `further` ones behind a fold, and `more` only in `backupd list`.
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


def source_view(history: SourceHistory, tongue: Localizer) -> SourceView:
    """Lay out what is known of one source."""
    counts = Counter(day.state for day in history.days)
    other = [day for day in reversed(history.days) if day.state not in ("verified", "none")]
    return SourceView(
        name=tongue.quote(history.source),
        halves=halves(history.days),
        calendar=_calendar(history, {state: counts[state] for state in STATES}, tongue),
        counts={state: counts[state] for state in STATES},
        other_days=tuple(other[:MOST_OTHER_DAYS]),
        more_days=max(0, len(other) - MOST_OTHER_DAYS),
        sizes=_sizes(history, tongue),
        durations=_durations(history, tongue),
        generations=history.generations[:MOST_ROWS],
        further=history.generations[MOST_ROWS:],
        more=history.generation_count - len(history.generations),
        total=tongue.say("generations.count", count=history.generation_count, size=tongue.size(history.stored_bytes)),
    )


def day_words(day: Day, tongue: Localizer) -> str:
    """Tell one day: `2026-11-25: failed (3 of 3 runs failed)`."""
    words = f"{day.date.isoformat()}: {tongue.say(f'day.{day.state}')}"
    if not day.failed:
        return words
    return f"{words} ({tongue.say('day.runs', failed=day.failed, runs=day.runs)})"


def _calendar(history: SourceHistory, counts: dict[str, int], tongue: Localizer) -> str:
    if not history.days:
        return ""
    first, last = history.days[0].date.isoformat(), history.days[-1].date.isoformat()
    return tongue.say("calendar.summary", source=history.source, first=first, last=last, **counts)


def _sizes(history: SourceHistory, tongue: Localizer) -> DrawnChart | None:
    snapshots = _series(history, lambda point: point.snapshot_bytes)
    archives = _series(history, lambda point: point.archive_bytes)
    chart = size_chart((snapshots, archives)) if snapshots and archives else None
    if chart is None:
        return None
    first, last = snapshots[0][0].isoformat(), snapshots[-1][0].isoformat()
    sizes = {"snapshot": tongue.size(snapshots[-1][1]), "archive": tongue.size(archives[-1][1])}
    return DrawnChart(chart, tongue.say("chart.size-summary", source=history.source, first=first, last=last, **sizes))


def _durations(history: SourceHistory, tongue: Localizer) -> DrawnChart | None:
    series = _series(history, lambda point: point.duration_s)
    chart = duration_chart(series)
    if chart is None:
        return None
    first, last, took = series[0][0].isoformat(), series[-1][0].isoformat(), tongue.took(series[-1][1])
    words = tongue.say("chart.duration-summary", source=history.source, first=first, last=last, duration=took)
    return DrawnChart(chart, words)


def _series(history: SourceHistory, value: Callable[[Point], float | None]) -> Series:
    return [(point.date, found) for point in history.points if (found := value(point)) is not None]
