"""One backup on each due day through all clock changes: five years of each zone, and the hours around changes."""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from backupd.schedule import Schedule
from support.simulated_daemon import SimulatedDaemon
from support.zones import DAY, MINUTE, ZONES, due_days, local, minutes, transitions

pytestmark = pytest.mark.no_cover

HOUR = timedelta(hours=1)


def _always(_: date) -> bool:
    return True


def _on_sunday(day: date) -> bool:
    return day.weekday() == 6


def _ends_month(day: date) -> bool:
    return (day + DAY).day == 1


SCHEDULES: dict[str, tuple[time, Callable[[date], bool]]] = {
    "04:00": (time(4), _always),
    "00:00": (time(0), _always),
    "00:30": (time(0, 30), _always),
    "02:30": (time(2, 30), _always),
    "03:00": (time(3), _always),
    "sun 02:30": (time(2, 30), _on_sunday),
    "0 6 L * *": (time(6), _ends_month),
}


def _ticks(begin: datetime, end: datetime, changes: list[datetime]) -> list[datetime]:
    """Return instants worth a tick from `begin` to just after `end`: around both, and around changes of the clocks.

    None is on most days that are far from a change: one is as the other.
    """
    near = [change for change in changes if begin - DAY < change < end + HOUR]
    if not near and end.toordinal() % 60:
        return []
    worth = {begin + MINUTE, end - MINUTE, end, end + MINUTE}
    for change in near:
        worth.update(minutes(change - HOUR, change + 3 * HOUR, 20 * MINUTE))
    return sorted(tick for tick in worth if begin < tick <= end + MINUTE)


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("text", SCHEDULES)
def test_five_years_have_one_backup_on_each_due_day(name: str, text: str) -> None:
    zone = ZoneInfo(name)
    due = due_days(zone, *SCHEDULES[text])
    daemon = SimulatedDaemon(Schedule.parse(text, zone), succeeded=due[:1])
    for last, following in pairwise(due):
        ticks = _ticks(last, following, transitions(zone))
        for tick in ticks:
            daemon.tick(tick)
        if not ticks:
            daemon.succeeded.append(following)
    assert daemon.succeeded == due
    assert len(due) in {1825, 1826, 261, 260, 60}


def test_zones_have_every_kind_of_change() -> None:
    changes = [(change, ZoneInfo(name)) for name in ZONES for change in transitions(ZoneInfo(name))]
    steps = {_wall(change, zone) - _wall(change - MINUTE, zone) - MINUTE for change, zone in changes}
    hours = {_wall(change - MINUTE, zone).hour for change, zone in changes}
    assert steps == {-2 * HOUR, -HOUR, -HOUR / 2, HOUR / 2, HOUR, 2 * HOUR}
    assert {0, 1, 2, 23} <= hours


def _wall(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("name", "text", "begin", "end"),
    [
        pytest.param("Europe/Berlin", "02:30", "2026-10-25 01:00", "2026-10-25 05:00", id="repeated hour"),
        pytest.param("Europe/Berlin", "02:30", "2026-03-29 01:00", "2026-03-29 05:00", id="skipped hour"),
        pytest.param(
            "Europe/Berlin", "00:00", "2026-03-29 22:00", "2026-03-30 03:00", id="hour 0 after a spring change"
        ),
        pytest.param("America/Santiago", "00:00", "2026-09-05 22:00", "2026-09-06 03:00", id="skipped midnight"),
        pytest.param(
            "America/Santiago", "23:30", "2026-04-04 22:00", "2026-04-05 03:00", id="repeated hour before midnight"
        ),
        pytest.param(
            "Africa/Cairo", "00:00", "2026-04-23 22:00", "2026-04-24 03:00", id="skipped midnight of a Friday"
        ),
        pytest.param("Australia/Lord_Howe", "01:45", "2026-04-05 00:00", "2026-04-05 04:00", id="repeated half hour"),
        pytest.param("Australia/Lord_Howe", "02:15", "2026-10-04 00:00", "2026-10-04 04:00", id="skipped half hour"),
        pytest.param("Antarctica/Troll", "01:30", "2026-10-25 00:00", "2026-10-25 06:00", id="two repeated hours"),
        pytest.param("Europe/Berlin", "0 0 1 * *", "2026-03-31 22:00", "2026-04-01 03:00", id="first of April"),
    ],
)
def test_each_minute_around_clock_change_has_one_backup(name: str, text: str, begin: str, end: str) -> None:
    """Each stretch holds one due time; the daemon ticks each minute and is late by nothing."""
    first, last = local(begin, name), local(end, name)
    schedule = Schedule.parse(text, ZoneInfo(name))
    daemon = SimulatedDaemon(schedule, succeeded=[first])
    ran = [tick for tick in minutes(first, last) if daemon.tick(tick)]
    assert ran == [schedule.following(first)]


def test_repeated_time_is_due_in_first_pass_only() -> None:
    schedule = Schedule.parse("02:30", ZoneInfo("Europe/Berlin"))
    first_pass = local("2026-10-25 02:30", "Europe/Berlin")
    for minute in minutes(first_pass, local("2026-10-25 03:00", "Europe/Berlin")):
        assert schedule.latest(minute) == first_pass
        assert schedule.following(minute) == local("2026-10-26 02:30", "Europe/Berlin")


def test_skipped_time_is_due_right_after_gap() -> None:
    schedule = Schedule.parse("02:30", ZoneInfo("Europe/Berlin"))
    after_the_gap = local("2026-03-29 03:00", "Europe/Berlin")
    assert schedule.following(after_the_gap - MINUTE) == schedule.latest(after_the_gap) == after_the_gap


def test_several_times_in_one_gap_are_one() -> None:
    schedule = Schedule.parse("0,15,30,45 2-3 * * *", ZoneInfo("Europe/Berlin"))
    after_the_gap = local("2026-03-29 03:00", "Europe/Berlin")
    assert schedule.latest(after_the_gap) == after_the_gap
    assert schedule.following(after_the_gap) == after_the_gap + 15 * MINUTE


def test_skipped_day_is_made_up_at_start_of_next() -> None:
    """Samoa went from 29 to 31 December 2011."""
    schedule = Schedule.parse("04:00", ZoneInfo("Pacific/Apia"))
    friday = schedule.following(local("2011-12-29 04:00", "Pacific/Apia"))
    assert friday == local("2011-12-31 00:00", "Pacific/Apia")
    assert schedule.following(friday) == local("2011-12-31 04:00", "Pacific/Apia")


@pytest.mark.parametrize("text", ["0 * * * *", "*/20 * * * *", "5 0-23 * * *", "*/30 */1 * * *"])
@pytest.mark.parametrize("begin", ["2026-03-29 00:00", "2026-10-25 00:00"])
def test_hourly_schedule_keeps_pace_across_clock_change(text: str, begin: str) -> None:
    schedule = Schedule.parse(text, ZoneInfo("Europe/Berlin"))
    at = schedule.following(local(begin, "Europe/Berlin"))
    pace = schedule.following(at) - at
    for _ in range(20):
        assert schedule.following(at) == at + pace
        at += pace


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("America/Santiago", "2026-09-06", (1, 6, 12, 18)),
        ("America/Santiago", "2026-04-05", (0, 6, 12, 18)),
        ("Australia/Lord_Howe", "2026-10-04", (0, 6, 12, 18)),
        ("Australia/Lord_Howe", "2026-04-05", (0, 6, 12, 18)),
    ],
)
def test_six_hourly_schedule_loses_none_on_day_of_clock_change(name: str, day: str, hours: tuple[int, ...]) -> None:
    schedule = Schedule.parse("0 */6 * * *", ZoneInfo(name))
    at = local(f"{day} 01:00", name) - 4 * HOUR
    for hour in hours:
        at = schedule.following(at)
        assert at == local(f"{day} {hour:02}:00", name)


# ---- why APScheduler only ticks: once an update makes one of these fail, read docs/adr/0007-what-is-due.md anew


def _fired(name: str, start: str, **fields: int) -> list[str]:
    """Return the first three local times at which APScheduler's own trigger fires, from the local time `start` on."""
    at = local(start, name).astimezone(ZoneInfo(name))
    trigger = CronTrigger(timezone=ZoneInfo(name), minute=fields.pop("minute", 0), **fields)
    fired: list[datetime] = []
    while len(fired) < 3:
        at = trigger.get_next_fire_time(fired[-1] if fired else None, at)
        fired.append(at)
    return [f"{at:%m-%d %H:%M %z}" for at in fired]


@pytest.mark.parametrize(
    ("name", "start", "fired"),
    [
        ("Europe/Berlin", "2026-03-28 12:00", ["03-29 00:00 +0100", "03-31 00:00 +0200", "04-01 00:00 +0200"]),
        ("America/New_York", "2026-03-07 12:00", ["03-08 00:00 -0500", "03-10 00:00 -0400", "03-11 00:00 -0400"]),
        ("Australia/Sydney", "2026-10-03 12:00", ["10-04 00:00 +1000", "10-06 00:00 +1100", "10-07 00:00 +1100"]),
        ("America/Santiago", "2026-09-04 12:00", ["09-05 00:00 -0400", "09-07 00:00 -0300", "09-08 00:00 -0300"]),
    ],
)
def test_apscheduler_loses_midnight_when_clocks_go_forward(name: str, start: str, fired: list[str]) -> None:
    assert _fired(name, start, hour=0) == fired
    zone = ZoneInfo(name)
    due = due_days(zone, time(0), _always, local(start, name), local(start, name) + 3 * DAY)
    assert len(due) == 3
    assert Schedule.parse("00:00", zone).following(due[0]) == due[1]


def test_apscheduler_loses_first_of_april() -> None:
    fired = ["03-01 00:00 +0100", "05-01 00:00 +0200", "06-01 00:00 +0200"]
    assert _fired("Europe/Berlin", "2026-02-28 12:00", day=1, hour=0) == fired


def test_apscheduler_fires_twice_in_repeated_hour() -> None:
    fired = ["10-25 02:30 +0200", "10-25 02:30 +0100", "10-26 02:30 +0100"]
    assert _fired("Europe/Berlin", "2026-10-24 12:00", hour=2, minute=30) == fired
