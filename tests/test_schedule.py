"""Valid schedules, their due times, and the longest gap between them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backupd.schedule import Schedule
from support.zones import DAY, MINUTE, YEARS_BEGIN, YEARS_END, ZONES, local, newly_shown, transitions

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)  # a Sunday
HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")


# ---- what can be written


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("04:00", "2026-11-23 04:00"),
        ("4:00", "2026-11-23 04:00"),
        (" 23:59 ", "2026-11-22 23:59"),
        ("00:00", "2026-11-23 00:00"),
        ("sun 05:00", "2026-11-29 05:00"),
        ("SUN 13:00", "2026-11-22 13:00"),
        ("Wed  05:30", "2026-11-25 05:30"),
        ("0 6 1 * *", "2026-12-01 06:00"),
        ("0 6 L * *", "2026-11-30 06:00"),
        ("0 6 LW * *", "2026-11-30 06:00"),
        ("0 6 28 * *", "2026-11-28 06:00"),
        ("0 6 29-31,L * *", "2026-11-29 06:00"),
        ("0 6 31 1,7 *", "2027-01-31 06:00"),
        ("0 6 30 4-6 *", "2027-04-30 06:00"),
        ("0 6 31 * mon", "2026-11-23 06:00"),
        ("0 6 * * mon#2", "2026-12-14 06:00"),
        ("0 6 * * 5L", "2026-11-27 06:00"),
        ("*/15 * * * *", "2026-11-22 12:15"),
        ("0  */6  *  *  *", "2026-11-22 18:00"),
        ("0 6,18 * jan-mar mon-fri", "2027-01-01 06:00"),
    ],
)
def test_schedule_is_read_in_each_notation(text: str, following: str) -> None:
    assert Schedule.parse(text, UTC).following(NOW) == local(following, "UTC")


def test_0_and_7_and_sun_are_sunday_and_1_is_monday() -> None:
    sundays = {
        Schedule.parse(text, UTC).following(NOW) for text in ("0 5 * * 0", "0 5 * * 7", "0 5 * * sun", "sun 5:00")
    }
    assert sundays == {local("2026-11-29 05:00", "UTC")}
    assert Schedule.parse("0 5 * * 1", UTC).following(NOW) == local("2026-11-23 05:00", "UTC")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be a time"),
        ("daily", "must be a time"),
        ("@daily", "must be a time"),
        ("sunday 05:00", "must be a time"),
        ("04:00:00", "must be a time"),
        ("0 0 4 * * *", "must be a time"),
        ("24:00", "Bad hour"),
        ("04:60", "Bad minute"),
        ("0 4 * * 8", "Bad day-of-week"),
        ("0 4 0 * *", "Bad day-of-month"),
        ("0 4 30 2 *", "Bad day-of-month"),
        ("0 4 */0 * *", "Bad day-of-month"),
        ("0 4 */15 2 mon#5", "never occurs"),
        ("0 6 31 * *", "not every month has a day 31: write L"),
        ("0 6 29 * *", "not every month has a day 29: write L"),
        ("0 6 30,31 * *", "not every month has a day 30: write L"),
        ("0 6 29-31 * *", "not every month has a day 29: write L"),
        ("0 6 31 1-12 *", "not every month has a day 31: write L"),
        ("0 6 31 */2 *", "not every month has a day 31: write L"),
        ("0 6 29 2 *", "not every month has a day 29: write L"),
        ("0 6 31 * */2", "not every month has a day 31: write L"),
    ],
)
def test_invalid_or_incomplete_schedule_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Schedule.parse(text, UTC)


_FIELD = st.text("0123456789*/,-#LW jansu", max_size=8)


@given(st.text() | st.builds(" ".join, st.lists(_FIELD, min_size=5, max_size=5)))
@settings(deadline=None, max_examples=150)
def test_any_text_is_read_or_refused_with_reason(text: str) -> None:
    try:
        schedule = Schedule.parse(text, UTC)
    except ValueError as error:
        said = str(error)
    else:
        assert schedule.latest(NOW) <= NOW < schedule.following(NOW)
        return
    assert any(words in said for words in ("must be a time", "never occurs", "not every month"))


# ---- when it is due: what holds for every schedule, zone and instant

_MINUTES = st.sampled_from(["0", "30", "59", "0,30", "5-7", "*/20", "7/25", "*"])
_HOURS = st.sampled_from(["0", "1", "2", "3", "4", "23", "0,2", "1-3", "*/6", "2-23/3", "*"])
_DAYS = st.sampled_from(["*", "1", "28", "L", "1,15", "*/5"])
_WEEKDAYS = st.sampled_from(["*", "0", "7", "mon-fri", "sat,sun", "6L"])
_EXPRESSIONS = st.builds(" ".join, st.tuples(_MINUTES, _HOURS, _DAYS, st.just("*"), _WEEKDAYS))
_CHANGES = [(change, name) for name in ZONES for change in transitions(ZoneInfo(name))]


@st.composite
def moments(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    """Return a schedule in a zone and an instant, most often one near a change of that zone's clocks."""
    anywhere = st.tuples(
        st.datetimes(YEARS_BEGIN.replace(tzinfo=None), YEARS_END.replace(tzinfo=None)), st.sampled_from(ZONES)
    )
    near = st.tuples(st.sampled_from(_CHANGES), st.integers(-4 * 3600, 28 * 3600))
    if draw(st.integers(0, 3)):
        (change, name), seconds = draw(near)
        now = change + timedelta(seconds=seconds)
    else:
        naive, name = draw(anywhere)
        now = naive.replace(tzinfo=UTC)
    return Schedule.parse(draw(_EXPRESSIONS), ZoneInfo(name)), now


@given(moments())
@example((Schedule.parse("30 2 * * *", BERLIN), local("2026-10-25 02:10", "Europe/Berlin", fold=1)))
@example((Schedule.parse("0 0 * * *", BERLIN), local("2026-03-30 00:00", "Europe/Berlin")))
@settings(deadline=None, max_examples=60)
def test_no_due_time_lies_between_latest_and_following(moment: tuple[Schedule, datetime]) -> None:
    schedule, now = moment
    latest, following = schedule.latest(now), schedule.following(now)
    assert latest <= now < following
    assert schedule.following(latest) == following
    assert schedule.latest(following) == following
    assert schedule.latest(following - timedelta(microseconds=1)) == latest
    assert (latest.tzinfo, following.tzinfo) == (UTC, UTC)
    assert latest.second == latest.microsecond == 0


@given(moments(), st.timedeltas(timedelta(), 40 * HOUR))
@settings(deadline=None, max_examples=60)
def test_later_time_never_gives_earlier_due_time(moment: tuple[Schedule, datetime], passed: timedelta) -> None:
    schedule, now = moment
    later = now + passed
    assert schedule.latest(now) <= schedule.latest(later)
    assert schedule.following(now) <= schedule.following(later)
    assert schedule.following(now) <= schedule.latest(later) or schedule.latest(now) == schedule.latest(later)


@given(moments(), st.sampled_from(ZONES))
@settings(deadline=None, max_examples=60)
def test_due_times_are_independent_of_zone_of_argument(moment: tuple[Schedule, datetime], name: str) -> None:
    schedule, now = moment
    elsewhere = now.astimezone(ZoneInfo(name))
    assert schedule.latest(elsewhere) == schedule.latest(now)
    assert schedule.following(elsewhere) == schedule.following(now)


@given(
    st.sampled_from(_CHANGES),
    st.sampled_from(["0", "30", "*/20"]),
    st.sampled_from(["0", "2", "23", "0,1", "1-3", "*/6"]),
)
@settings(deadline=None, max_examples=40)
def test_due_minutes_first_show_or_skip_scheduled_times(changed: tuple[datetime, str], minute: str, hour: str) -> None:
    """A second opinion that knows nothing of cron: it looks at a clock of the zone each minute for a day and a half."""
    change, name = changed
    zone = ZoneInfo(name)
    start, end = change - 12 * HOUR, change + 27 * HOUR
    times = {(h, m) for h in _numbers(hour, 24) for m in _numbers(minute, 60)}
    shown = newly_shown(start, end, zone)
    expected = [now for now, walls in shown if any((wall.hour, wall.minute) in times for wall in walls)]
    assert _due(Schedule.parse(f"{minute} {hour} * * *", zone), start, end) == expected


def _numbers(field: str, count: int) -> set[int]:
    if field.startswith("*/"):
        return set(range(0, count, int(field[2:])))
    if "-" in field:
        first, last = field.split("-")
        return set(range(int(first), int(last) + 1))
    return {int(part) for part in field.split(",")}


def _due(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """Return all due instants from `start` to `end`, both told."""
    found = []
    at = schedule.following(start - MINUTE)
    while at <= end:
        found.append(at)
        at = schedule.following(at)
    return found


# ---- the longest gap


@pytest.mark.parametrize(
    ("text", "name", "longest"),
    [
        ("04:00", "UTC", DAY),
        ("04:00", "Europe/Berlin", DAY + HOUR),
        ("04:00", "Australia/Lord_Howe", DAY + HOUR / 2),
        ("sun 05:00", "UTC", 7 * DAY),
        ("sun 05:00", "Europe/Berlin", 7 * DAY + HOUR),
        ("0 5 * * mon-fri", "UTC", 3 * DAY),
        ("0 6 1 * *", "UTC", 31 * DAY),
        ("0 6 L * *", "Europe/Berlin", 31 * DAY + HOUR),
        ("0 6 1 1 *", "UTC", 366 * DAY),
        ("0 */6 * * *", "UTC", 6 * HOUR),
        ("0 */6 * * *", "Europe/Berlin", 7 * HOUR),
        ("0 * * * *", "Europe/Berlin", HOUR),
        ("* * * * *", "Europe/Berlin", MINUTE),
        ("*/5 * * * *", "UTC", 5 * MINUTE),
        ("* 0-22 * * *", "UTC", HOUR + MINUTE),
        ("*/10 9-17 * * mon-fri", "UTC", 2 * DAY + 15 * HOUR + 10 * MINUTE),
        ("* * * 1 *", "UTC", 335 * DAY + MINUTE),
        ("* * 1 * *", "UTC", 30 * DAY + MINUTE),
    ],
)
def test_longest_gap_is_found_for_frequent_and_rare_schedules(text: str, name: str, longest: timedelta) -> None:
    assert Schedule.parse(text, ZoneInfo(name)).longest_gap(NOW) == longest


@given(moments(), st.timedeltas(timedelta(), 2 * 365 * DAY))
@settings(deadline=None, max_examples=15)
def test_gap_of_two_years_exceeds_longest_gap_by_two_hours_at_most(
    moment: tuple[Schedule, datetime], passed: timedelta
) -> None:
    schedule, now = moment
    told = schedule.longest_gap(now)
    assert schedule.following(now) - schedule.latest(now) <= told
    assert schedule.following(now + passed) - schedule.latest(now + passed) <= told + 2 * HOUR
