"""The geometry of charts and calendar, by value."""

from datetime import date, timedelta
from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.status.calendar import WEEKS, Day
from backupd.web import drawings
from backupd.web.drawings import BYTES, SECONDS, Series, Units, draw, halves, nice_ticks

FIRST = date(2025, 11, 24)


def days(count: int) -> tuple[Day, ...]:
    return tuple(Day(FIRST + timedelta(days=n), "none") for n in range(count))


@pytest.mark.parametrize(
    ("highest", "units", "labels"),
    [
        (0, SECONDS, ["0.0 s", "0.5 s", "1.0 s"]),
        (0.9, SECONDS, ["0.0 s", "0.5 s", "1.0 s"]),
        (7.3, SECONDS, ["0 s", "2 s", "4 s", "6 s", "8 s"]),
        (41, SECONDS, ["0 s", "20 s", "40 s", "60 s"]),
        (300, SECONDS, ["0 min", "2 min", "4 min", "6 min"]),
        (86_400, SECONDS, ["0 h", "10 h", "20 h", "30 h"]),
        (100, BYTES, ["0 B", "50 B", "100 B"]),
        (118 << 20, BYTES, ["0 MiB", "50 MiB", "100 MiB", "150 MiB"]),
        (1536, BYTES, ["0.0 KiB", "0.5 KiB", "1.0 KiB", "1.5 KiB"]),
    ],
)
def test_axis_has_round_numbers_of_suitable_unit(highest: float, units: Units, labels: list[str]) -> None:
    assert [label for _, label in nice_ticks(highest, units)] == labels


@given(st.floats(0, 1e18))
def test_axis_reaches_highest_value_in_few_steps(highest: float) -> None:
    ticks = nice_ticks(highest, BYTES)
    assert ticks[0][0] == 0
    assert ticks[-1][0] >= highest * (1 - 1e-6)
    assert 2 <= len(ticks) <= 6
    assert len({label for _, label in ticks}) == len(ticks)


def test_chart_spans_first_to_last_day_and_starts_at_zero() -> None:
    drawn = draw([[(FIRST, 0.0), (FIRST + timedelta(days=10), 4.0), (FIRST + timedelta(days=20), 8.0)]], SECONDS)
    assert drawn is not None
    left, right = drawings.LEFT, drawings.WIDTH - drawings.RIGHT
    bottom, top = drawings.HEIGHT - drawings.BOTTOM, drawings.TOP
    middle = f"{(left + right) / 2:g},{(top + bottom) / 2:g}"
    assert drawn.lines[0].points == f"{left},{bottom} {middle} {right},{top}"
    assert (drawn.lines[0].end_x, drawn.lines[0].end_y) == (right, top)
    assert [tick.label for tick in drawn.x_ticks] == ["11-24", "11-28", "12-02", "12-06", "12-10", "12-14"]


def test_long_chart_is_labelled_by_months() -> None:
    drawn = draw([[(FIRST, 1.0), (FIRST + timedelta(days=364), 1.0)]], SECONDS)
    assert drawn is not None
    assert [tick.label for tick in drawn.x_ticks] == ["2025-12", "2026-02", "2026-04", "2026-06", "2026-08", "2026-10"]


def test_single_day_is_point_in_middle() -> None:
    drawn = draw([[(FIRST, 3.0)]], SECONDS)
    assert drawn is not None
    assert drawn.lines[0].end_x == (drawings.LEFT + drawings.WIDTH - drawings.RIGHT) / 2


def test_two_series_share_axes() -> None:
    drawn = draw(([(FIRST, 1 << 30)], [(FIRST, 1 << 29)]), BYTES)
    assert drawn is not None
    high, low = (line.end_y for line in drawn.lines)
    assert high < low
    assert drawn.y_ticks[-1].label == "1.0 GiB"


@pytest.mark.parametrize("series", [[], [(FIRST, nan)], [(FIRST, inf)], [(FIRST, -1.0)]])
def test_empty_series_has_no_chart(series: Series) -> None:
    assert draw([series], SECONDS) is None


@given(st.lists(st.tuples(st.dates(date(2024, 1, 1), date(2026, 12, 31)), st.floats(0, 1e15)), min_size=1))
def test_chart_stays_inside_its_box(series: list[tuple[date, float]]) -> None:
    drawn = draw([sorted(series)], BYTES)
    assert drawn is not None
    points = [tuple(map(float, point.split(","))) for point in drawn.lines[0].points.split()]
    assert all(drawings.LEFT <= x <= drawings.WIDTH - drawings.RIGHT for x, _ in points)
    assert all(drawings.TOP - 0.1 <= y <= drawings.HEIGHT - drawings.BOTTOM for _, y in points)
    assert len(drawn.x_ticks) <= 6


def test_calendar_has_column_for_each_week_and_row_for_each_weekday() -> None:
    older, newer = halves(days((WEEKS - 1) * 7 + 3))
    assert len(older.cells) == drawings.HALF_WEEKS * 7
    assert (older.cells[0].x, older.cells[0].y) == (drawings.CALENDAR_LEFT, drawings.CALENDAR_TOP)
    assert (older.cells[6].x, older.cells[6].y) == (
        drawings.CALENDAR_LEFT,
        drawings.CALENDAR_TOP + 6 * drawings.CALENDAR_PITCH,
    )
    assert older.cells[7].x == drawings.CALENDAR_LEFT + drawings.CALENDAR_PITCH
    assert newer.cells[0].day.date == older.cells[-1].day.date + timedelta(days=1)
    assert max(cell.x for cell in (*older.cells, *newer.cells)) + drawings.CALENDAR_CELL <= drawings.CALENDAR_WIDTH


def test_months_label_their_first_week_and_never_overlap() -> None:
    for shift in range(0, 365, 7):
        start = FIRST + timedelta(days=shift)
        for half in halves(tuple(Day(start + timedelta(days=n), "none") for n in range(WEEKS * 7))):
            places = [month.at for month in half.months]
            assert all(right - left >= 3 * drawings.CALENDAR_PITCH for left, right in pairwise(places))
            assert places[-1] + 3 * drawings.CALENDAR_PITCH <= drawings.CALENDAR_WIDTH
            assert len(half.months) >= 5


def test_calendar_without_days_is_empty() -> None:
    assert halves(()) == ()
