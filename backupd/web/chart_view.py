"""The charts of a source as values: lines, their description in text, and the values at their points; pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

from backupd.formatting import human_bytes, human_duration
from backupd.status.model import Point, SourceHistory
from backupd.web.drawings import BYTES, SECONDS, Chart, Series, Spot, Units, draw
from backupd.web.localizer import Localizer


@dataclass(frozen=True, slots=True)
class ChartView:
    """A chart, its `summary`, the names of its lines, and its spots, each with its values as text."""

    chart: Chart
    summary: str
    names: tuple[str, ...]
    spots: tuple[tuple[Spot, str], ...]


def size_chart(source: SourceHistory, localizer: Localizer) -> ChartView | None:
    """Draw the sizes of database and archive, or of a set of files, whose archive is a list; None without any."""
    serieses = {"snapshot": _series(source, lambda point: point.snapshot_bytes)}
    if source.files is not None:
        return _view("chart.files-summary", source, serieses, (), BYTES, human_bytes, localizer)
    serieses["archive"] = _series(source, lambda point: point.archive_bytes)
    names = ("chart.database", "chart.archive")
    return _view("chart.size-summary", source, serieses, names, BYTES, human_bytes, localizer)


def duration_chart(source: SourceHistory, localizer: Localizer) -> ChartView | None:
    """Draw the durations of backups; None without any."""
    serieses = {"duration": _series(source, lambda point: point.duration_s)}
    return _view("chart.duration-summary", source, serieses, (), SECONDS, human_duration, localizer)


def _series(source: SourceHistory, value: Callable[[Point], float | None]) -> Series:
    return [(point.date, found) for point in source.points if (found := value(point)) is not None]


def _view(
    summary: str,
    source: SourceHistory,
    serieses: Mapping[str, Series],
    names: tuple[str, ...],
    units: Units,
    human: Callable[[float], str],
    localizer: Localizer,
) -> ChartView | None:
    """Draw `serieses`, by the placeholders of `summary`; `names` are those of the lines where there are several."""
    chart = draw(serieses.values(), units) if all(serieses.values()) else None
    if chart is None:
        return None
    days = [day for day, _ in next(iter(serieses.values()))]
    latest = {name: human(series[-1][1]) for name, series in serieses.items()}
    titles = tuple(map(localizer.translate, names))
    by_day = [dict(series) for series in serieses.values()]

    def words(day: date) -> str:
        values = [human(of_day[day]) if day in of_day else "" for of_day in by_day]
        named = [f"{title} {value}" for title, value in zip(titles, values, strict=True)] if titles else values
        return f"{day.isoformat()}: {', '.join(named)}"

    first, last = days[0].isoformat(), days[-1].isoformat()
    return ChartView(
        chart=chart,
        summary=localizer.translate(summary, source=source.source, first=first, last=last, **latest),
        names=titles,
        spots=tuple((spot, words(spot.day)) for spot in chart.spots),
    )
