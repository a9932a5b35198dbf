"""The geometry of the drawings of the page, pure: line charts over days, and the calendar of a year."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from backupd.status.calendar import WEEKS, Day

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 10, 26
_Y_TICKS: Final = 4
_X_TICKS: Final = 6
MOST_SPOTS: Final = 20
_SHORT_DAYS: Final = 62
_STEPS: Final = (1, 2, 5, 10)
BYTES: Final = (("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40))
SECONDS: Final = (("s", 1), ("min", 60), ("h", 3600))

CALENDAR_PITCH: Final = 13
CALENDAR_CELL: Final = 11
CALENDAR_LEFT, CALENDAR_TOP = 30, 14
HALF_WEEKS: Final = (WEEKS + 1) // 2
CALENDAR_WIDTH: Final = CALENDAR_LEFT + HALF_WEEKS * CALENDAR_PITCH
CALENDAR_HEIGHT: Final = CALENDAR_TOP + 7 * CALENDAR_PITCH
_LABEL_WEEKS: Final = 3

Series = Sequence[tuple[date, float]]
Units = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis, or a month of the calendar (`2026-03`) above the first week that begins in it."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One series: the `points` attribute of a polyline, and its end."""

    points: str
    end_x: float
    end_y: float


@dataclass(frozen=True, slots=True)
class Spot:
    """A day whose values can be read: the points of all lines at it."""

    day: date
    x: float
    ys: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of `WIDTH` by `HEIGHT` with the axes' ticks and a line for each series, in their order.

    `spots` are at most `MOST_SPOTS` days, evenly apart, and the highest of each line.
    """

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    spots: tuple[Spot, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One day, and the upper left corner of its square."""

    day: Day
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Half:
    """Half of the calendar, a drawing of `CALENDAR_WIDTH` by `CALENDAR_HEIGHT`."""

    cells: tuple[Cell, ...]
    months: tuple[Tick, ...]


def draw(serieses: Iterable[Series], units: Units) -> Chart | None:
    """Draw series of values of these units; None without values that can be drawn."""
    clean = [[(day, value) for day, value in series if math.isfinite(value) and value >= 0] for series in serieses]
    days = sorted({day for series in clean for day, _ in series})
    if not days:
        return None
    values = nice_ticks(max(value for series in clean for _, value in series), units)
    first, span, highest = days[0], (days[-1] - days[0]).days, values[-1][0]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(day: date) -> float:
        return round(LEFT + (width * (day - first).days / span if span else width / 2), 1)

    def y(value: float) -> float:
        return round(TOP + height * (1 - value / highest), 1)

    return Chart(
        x_ticks=tuple(Tick(x(day), label) for day, label in _days_to_mark(first, span)),
        y_ticks=tuple(Tick(y(value), label) for value, label in values),
        lines=tuple(_line([(x(day), y(value)) for day, value in series]) for series in clean if series),
        spots=tuple(
            Spot(day, x(day), tuple(y(value) for series in clean for on, value in series if on == day))
            for day in _days_to_read(days, clean)
        ),
    )


def nice_ticks(highest: float, units: Units) -> list[tuple[float, str]]:
    """Return values from 0 to `highest` or just above it, a round number of a suitable unit apart, with labels."""
    highest = highest or 1
    name, unit = max((pair for pair in units if pair[1] <= highest), key=lambda pair: pair[1], default=units[0])
    wanted = max(highest / unit, 1e-3) / _Y_TICKS  # no axis needs finer steps than thousandths
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(factor * power for factor in _STEPS if factor * power >= wanted * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    count = math.ceil(highest / unit / step - 1e-9) or 1
    return [(index * step * unit, f"{index * step:.{digits}f} {name}") for index in range(count + 1)]


def _line(points: Sequence[tuple[float, float]]) -> Line:
    return Line(" ".join(f"{x:g},{y:g}" for x, y in points), *points[-1])


def _days_to_read(days: Sequence[date], serieses: Iterable[Series]) -> list[date]:
    """Return the days of the spots: each one a stop of the Tab key, so not too many."""
    step = -(-len(days) // MOST_SPOTS)
    highest = {max(series, key=lambda point: point[1])[0] for series in serieses if series}
    return sorted(highest | set(days[::-1][::step]))


def _days_to_mark(first: date, span: int) -> list[tuple[date, str]]:
    """Return at most `_X_TICKS` days for the axis: beginnings of months, or single days where there are few."""
    days = [first + timedelta(days=n) for n in range(span + 1)]
    if span <= _SHORT_DAYS:
        return [(day, day.isoformat()[5:]) for day in days[:: math.ceil(len(days) / _X_TICKS)]]
    months = [day for day in days[1:] if day.day == 1]
    return [(day, day.isoformat()[:7]) for day in months[:: math.ceil(len(months) / _X_TICKS)]]


def halves(days: Sequence[Day]) -> tuple[Half, ...]:
    """Lay out `days`, which begin on a Monday and have no gap, from the older half to the newer one."""
    return tuple(_half(days[at : at + HALF_WEEKS * 7]) for at in range(0, len(days), HALF_WEEKS * 7))


def _half(days: Sequence[Day]) -> Half:
    cells = tuple(
        Cell(day, CALENDAR_LEFT + index // 7 * CALENDAR_PITCH, CALENDAR_TOP + index % 7 * CALENDAR_PITCH)
        for index, day in enumerate(days)
    )
    months = [
        Tick(cell.x, f"{cell.day.date:%Y-%m}")
        for week, cell in enumerate(cells[::7])
        if cell.day.date.day <= (7 if week else 7 * (5 - _LABEL_WEEKS))
    ]
    last = CALENDAR_LEFT + (HALF_WEEKS - _LABEL_WEEKS) * CALENDAR_PITCH
    return Half(cells, tuple(month for month in months if month.at <= last))
