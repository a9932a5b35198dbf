"""The geometry of the calendar: pure, a column for each week and a row for each weekday, in two halves of a year."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from backupd.status.calendar import WEEKS, Day

PITCH: Final = 13
CELL: Final = 11
LEFT, TOP = 30, 14
HALF: Final = (WEEKS + 1) // 2
WIDTH: Final = LEFT + HALF * PITCH
HEIGHT: Final = TOP + 7 * PITCH
_ROOM_OF_A_LABEL: Final = 3  # weeks


@dataclass(frozen=True, slots=True)
class Cell:
    """One day, and the upper left corner of its square."""

    day: Day
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Month:
    """The label of a month (`2026-03`) above the first week that begins in it."""

    label: str
    x: int


@dataclass(frozen=True, slots=True)
class Half:
    """Half of the calendar, a drawing of `WIDTH` by `HEIGHT`."""

    cells: tuple[Cell, ...]
    months: tuple[Month, ...]


def halves(days: Sequence[Day]) -> tuple[Half, ...]:
    """Lay out `days`, which begin on a Monday and have no gap, from the older half to the newer one."""
    return tuple(_half(days[at : at + HALF * 7]) for at in range(0, len(days), HALF * 7))


def _half(days: Sequence[Day]) -> Half:
    cells = tuple(Cell(day, LEFT + index // 7 * PITCH, TOP + index % 7 * PITCH) for index, day in enumerate(days))
    mondays = cells[::7]
    months = [
        Month(f"{cell.day.date:%Y-%m}", cell.x)
        for week, cell in enumerate(mondays)
        if (week == 0 and cell.day.date.day <= 7 * (5 - _ROOM_OF_A_LABEL))
        or (week and (cell.day.date - timedelta(days=7)).month != cell.day.date.month)
    ]
    last = LEFT + (HALF - _ROOM_OF_A_LABEL) * PITCH
    return Half(cells, tuple(month for month in months if month.x <= last))
