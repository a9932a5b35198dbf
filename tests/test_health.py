"""How health is judged and told: each reason, each warning, the limits, and what strangers may read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.health import Health, HealthFacts, Standing, health_limit, within_limit
from backupd.model import CLOCK_TOLERANCE, Hold, Task
from backupd.schedule import Schedule
from backupd.spans import human_age, human_duration, human_span

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LIMIT = timedelta(hours=26)
WELL = Standing("backup", "tasks", NOW - 8 * HOUR, LIMIT.total_seconds())
CORRUPT = Hold("tasks", "corrupt", NOW, "integrity_check of /data/tasks.db failed", "tasks-20261122-0300")
SHRUNK = replace(CORRUPT, kind="shrink", reason="/data/tasks.db: half of the rows are gone")


def judged(*standings: Standing, holds: tuple[Hold, ...] = (), unknown: tuple[str, ...] = ()) -> Health:
    """Return the judgement at NOW."""
    return Health.of(HealthFacts(standings, holds, unknown), NOW)


def aged(age: timedelta, task: Task = "backup", subject: str = "tasks") -> Standing:
    """Return the standing of a proof that is `age` old."""
    return Standing(task, subject, NOW - age, LIMIT.total_seconds())


def test_all_is_well_when_every_proof_is_young_enough() -> None:
    health = judged(WELL, aged(HOUR, "replicate", "nas"), aged(HOUR, "drill", "local"))
    assert health.healthy
    assert (health.reasons, health.warnings, health.checked_at) == ((), (), NOW)
    assert len(health.standings) == 3


def test_nothing_that_is_watched_is_well() -> None:
    assert judged().healthy


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (aged(40 * HOUR), "the last verified backup of tasks is 40 h old, more than 26 h"),
        (aged(9 * DAY, "replicate", "nas"), "the last off-site copy at nas is 9 d old, more than 26 h"),
        (aged(35 * DAY, "drill", "local"), "the last proven restore from local is 35 d old, more than 26 h"),
        (aged(3 * DAY, "scrub"), "the last scrub of tasks is 3 d old, more than 26 h"),
        (replace(WELL, limit_s=90), "the last verified backup of tasks is 8 h old, more than 90 s"),
        (replace(WELL, last_at=None), "there is no verified backup of tasks yet"),
        (Standing("replicate", "nas", None, 1), "there is no off-site copy at nas yet"),
        (Standing("drill", "local", None, 1), "there is no proven restore from local yet"),
        (aged(-HOUR), "the last verified backup of tasks is dated in the future: check the clock"),
        (aged(-400 * DAY, "drill", "nas"), "the last proven restore from nas is dated in the future: check the clock"),
    ],
)
def test_each_reason_is_told_in_words(standing: Standing, reason: str) -> None:
    health = judged(WELL, standing)
    assert not health.healthy
    assert health.reasons == (reason,)


@pytest.mark.parametrize(
    ("age", "within"),
    [
        (timedelta(), True),
        (LIMIT, True),
        (LIMIT + timedelta(microseconds=1), False),
        (-CLOCK_TOLERANCE, True),
        (-CLOCK_TOLERANCE - timedelta(microseconds=1), False),
    ],
    ids=str,
)
def test_exactly_the_limit_is_well_and_any_more_is_not(age: timedelta, within: bool) -> None:
    assert within_limit(aged(age), NOW) is within
    assert judged(aged(age)).healthy is within


def test_proof_of_another_zone_is_as_old_as_its_instant() -> None:
    elsewhere = replace(aged(LIMIT), last_at=(NOW - LIMIT).astimezone(ZoneInfo("Asia/Kathmandu")))
    assert within_limit(elsewhere, NOW)


def test_corrupt_source_is_a_reason_and_a_shrunken_one_a_warning() -> None:
    corrupt, shrunk = judged(WELL, holds=(CORRUPT,)), judged(WELL, holds=(SHRUNK,))
    assert (corrupt.healthy, corrupt.reasons, corrupt.warnings) == (False, ("tasks is damaged: nothing is pruned",), ())
    assert (shrunk.healthy, shrunk.reasons) == (True, ())
    assert shrunk.warnings == ("tasks has shrunk: nothing is pruned until an operator accepts it",)


def test_what_could_not_be_found_out_is_a_reason_and_told_first() -> None:
    health = judged(aged(40 * HOUR), holds=(CORRUPT, replace(SHRUNK, source="notes")), unknown=("the catalog is away",))
    assert health.reasons == (
        "the catalog is away",
        "the last verified backup of tasks is 40 h old, more than 26 h",
        "tasks is damaged: nothing is pruned",
    )
    assert health.warnings == ("notes has shrunk: nothing is pruned until an operator accepts it",)


_AGES = st.timedeltas(-400 * DAY, 400 * DAY)
_STANDINGS = st.builds(
    Standing,
    st.sampled_from(["backup", "replicate", "drill", "prune", "scrub"]),
    st.sampled_from(["tasks", "nas", "local"]),
    st.none() | _AGES.map(lambda age: NOW - age),
    st.floats(0, 1e9),
)
_HOLDS = st.builds(replace, st.sampled_from([CORRUPT, SHRUNK]), source=st.sampled_from(["tasks", "notes"]))


@given(st.lists(_STANDINGS, max_size=5), st.lists(_HOLDS, max_size=3))
def test_nothing_said_holds_a_path_and_health_needs_every_proof(standings: list[Standing], holds: list[Hold]) -> None:
    health = judged(*standings, holds=tuple(holds))
    said = (*health.reasons, *health.warnings)
    assert not any("/" in sentence or "\n" in sentence for sentence in said)
    damaged = any(hold.kind == "corrupt" for hold in holds)
    assert health.healthy == (all(within_limit(standing, NOW) for standing in standings) and not damaged)


# ---- the limit that a schedule implies


@pytest.mark.parametrize(
    ("text", "name", "limit"),
    [
        ("04:00", "UTC", 26 * HOUR),
        ("04:00", "Europe/Berlin", 27 * HOUR + timedelta(minutes=5)),
        ("sun 05:00", "UTC", 7 * DAY + 14 * HOUR),
        ("0 6 1 * *", "UTC", 31 * DAY + 62 * HOUR),
        ("0 5 * * mon-fri", "UTC", 3 * DAY + 6 * HOUR),
        ("0 */6 * * *", "UTC", 8 * HOUR),
        ("* * * * *", "Europe/Berlin", 2 * HOUR + timedelta(minutes=1)),
    ],
)
def test_limit_is_the_longest_gap_and_a_twelfth_but_two_hours_more_at_least(
    text: str, name: str, limit: timedelta
) -> None:
    assert health_limit(Schedule.parse(text, ZoneInfo(name)), NOW) == limit


@pytest.mark.parametrize("text", ["04:00", "sun 02:30", "0 6 L * *", "0 */8 * * *"])
@pytest.mark.parametrize("name", ["Australia/Lord_Howe", "Antarctica/Troll"])
def test_backup_that_is_an_hour_late_is_never_beyond_the_limit(text: str, name: str) -> None:
    """Also when the clocks go back: whoever does all by schedule is not called unwell."""
    schedule = Schedule.parse(text, ZoneInfo(name))
    limit = health_limit(schedule, NOW).total_seconds()
    at = schedule.latest(NOW)
    while at < NOW + 366 * DAY:
        following = schedule.following(at)
        assert within_limit(Standing("backup", "tasks", at, limit), following + HOUR)
        at = following


# ---- spans


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (40, "40 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (26 * 3600, "26 h"),
        (72 * 3600 - 1, "72 h"),
        (72 * 3600, "3 d"),
        (9 * 86400, "9 d"),
        (400 * 86400, "400 d"),
    ],
)
def test_span_is_said_in_the_unit_that_people_would_use(seconds: float, said: str) -> None:
    assert human_span(seconds) == human_age(seconds) == said


def test_an_age_in_the_future_and_how_long_something_took_are_said_by_the_same_units() -> None:
    assert (human_age(-26 * 3600), human_age(-1)) == ("in 26 h", "in 1 s")
    assert [human_duration(seconds) for seconds in (0.04, 9.94, 9.96, 119, 7200)] == [
        *("0.0 s", "9.9 s", "10 s", "119 s", "2 h"),
    ]
