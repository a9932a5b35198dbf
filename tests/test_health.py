"""Health: each problem with its severity, the limits, and the public text."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.catalog import CatalogUnavailable
from backupd.errors import ErrorKind
from backupd.formatting import human_age, human_duration
from backupd.health import (
    LASTING,
    REPEATED_FOR,
    REPEATED_RUNS,
    SOURCE_ERRORS,
    Failure,
    Freshness,
    Health,
    HealthFacts,
    RefusedGeneration,
    health_limit,
    within_limit,
)
from backupd.model import CLOCK_TOLERANCE, Hold, Task
from backupd.schedule import Schedule

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LIMIT = timedelta(hours=26)
WELL = Freshness("backup", "tasks", NOW - 8 * HOUR, LIMIT.total_seconds())
CORRUPT = Hold("tasks", "corrupt", NOW, "integrity_check of /data/tasks.db failed", "tasks-20261122-0300")
SHRUNK = replace(CORRUPT, kind="shrink", reason="/data/tasks.db: half of the rows are gone")


UNREADABLE = replace(CORRUPT, unreadable=True)
UNUSABLE = CatalogUnavailable("cannot use the catalog /data/.backupd/catalog", "check /data")


def judged(*freshness: Freshness, holds: tuple[Hold, ...] = (), failures: tuple[Failure, ...] = ()) -> Health:
    """Return the judgement at NOW."""
    return Health.of(HealthFacts(freshness, holds, failures), NOW)


def failed(
    kind: ErrorKind = "busy", *, runs: int = 1, ago: timedelta = SECOND, task: Task = "backup", subject: str = "tasks"
) -> Failure:
    """Return runs in a row of which the first failed `ago`."""
    return Failure(task, subject, kind, NOW - ago, runs, "no database at /data/tasks.db", "look at /data")


def aged(age: timedelta, task: Task = "backup", subject: str = "tasks") -> Freshness:
    """Return the standing of a proof that is `age` old."""
    return Freshness(task, subject, NOW - age, LIMIT.total_seconds())


def test_health_with_young_checks_is_healthy() -> None:
    health = judged(WELL, aged(HOUR, "replicate", "nas"), aged(HOUR, "drill", "local"))
    assert health.healthy
    assert (health.reasons, health.warnings, health.checked_at) == ((), (), NOW)
    assert len(health.freshness) == 3


def test_health_without_limits_is_healthy() -> None:
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
        (Freshness("replicate", "nas", None, 1), "there is no off-site copy at nas yet"),
        (Freshness("drill", "local", None, 1), "there is no proven restore from local yet"),
        (aged(-HOUR), "the last verified backup of tasks is dated in the future: check the clock"),
        (aged(-400 * DAY, "drill", "nas"), "the last proven restore from nas is dated in the future: check the clock"),
    ],
)
def test_each_reason_has_its_sentence(standing: Freshness, reason: str) -> None:
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
def test_age_at_limit_is_healthy_and_beyond_is_not(age: timedelta, within: bool) -> None:
    assert within_limit(aged(age), NOW) is within
    assert judged(aged(age)).healthy is within


def test_age_is_independent_of_time_zone() -> None:
    elsewhere = replace(aged(LIMIT), last_at=(NOW - LIMIT).astimezone(ZoneInfo("Asia/Kathmandu")))
    assert within_limit(elsewhere, NOW)


@pytest.mark.parametrize(
    ("hold", "headline"),
    [
        (CORRUPT, "the database of tasks is damaged: nothing is pruned"),
        (UNREADABLE, "the database of tasks can no longer be read: nothing is pruned"),
        (SHRUNK, "the database of tasks has shrunk: nothing is pruned until an operator accepts it"),
    ],
)
def test_held_source_is_unhealthy_at_once_and_names_the_restore(hold: Hold, headline: str) -> None:
    health = judged(WELL, holds=(hold,))
    (problem,) = health.problems
    assert (health.healthy, health.reasons, health.warnings) == (False, (headline,), ())
    assert "backupd restore tasks-20261122-0300" in problem.next_step
    assert ("backupd prune --unfreeze" in problem.next_step) == (hold is not CORRUPT)
    assert problem.since == NOW


@pytest.mark.parametrize(
    ("kind", "headline"),
    [
        ("missing", "the database of tasks is missing: no backup can be made"),
        ("unusable", "the database of tasks cannot be backed up in its current state"),
        ("corrupt", "the database of tasks is damaged: nothing is pruned"),
    ],
)
def test_source_missing_refused_or_damaged_in_one_backup_is_unhealthy_at_once(kind: ErrorKind, headline: str) -> None:
    health = judged(WELL, failures=(failed(kind),))
    assert health.reasons == (headline,)
    (problem,) = health.problems
    assert "backupd restore latest --source tasks" in problem.next_step
    assert (problem.detail, problem.hint) == ("no database at /data/tasks.db", "look at /data")


def test_restore_hint_names_replica_if_local_store_is_empty_and_nothing_without_copies() -> None:
    gone = replace(WELL, last_at=None)
    missing = (failed("missing"),)
    elsewhere = judged(gone, aged(HOUR, "replicate", "nas"), failures=missing).problems[0]
    assert "backupd restore latest --source tasks --from nas" in elsewhere.next_step
    assert judged(gone, failures=missing).problems[0].restore == ""


@pytest.mark.parametrize(
    ("runs", "ago", "unhealthy"),
    [
        (1, SECOND, False),
        (2, timedelta(minutes=5), False),
        (REPEATED_RUNS, timedelta(minutes=6), False),
        (REPEATED_RUNS - 1, REPEATED_FOR, False),
        (REPEATED_RUNS, REPEATED_FOR, True),
        (1, LASTING - SECOND, False),
        (1, LASTING, True),
    ],
)
@pytest.mark.parametrize("kind", ["busy", "no-space", "unreachable", "denied", "unproven", "interrupted", "other"])
def test_transient_failure_is_warning_until_repeated(
    kind: ErrorKind, runs: int, ago: timedelta, unhealthy: bool
) -> None:
    health = judged(WELL, failures=(failed(kind, runs=runs, ago=ago),))
    assert (health.healthy, len(health.reasons), len(health.warnings)) == (not unhealthy, unhealthy, not unhealthy)


@pytest.mark.parametrize("task", ["replicate", "drill", "prune", "scrub"])
@pytest.mark.parametrize("kind", list(SOURCE_ERRORS))
def test_damage_found_by_other_task_is_no_problem_of_source(task: Task, kind: ErrorKind) -> None:
    assert judged(WELL, failures=(failed(kind, task=task),)).healthy


def test_failures_are_reported_with_cause_and_count() -> None:
    health = judged(
        WELL,
        failures=(
            failed("unreachable", runs=4, ago=HOUR, task="replicate", subject="nas"),
            failed("unproven", task="drill"),
        ),
    )
    assert health.reasons == ("the replication to nas failed 4 times in a row: the replica cannot be reached",)
    assert health.warnings == ("the drill of tasks failed: the restored copy did not pass",)


def test_damage_under_hold_is_reported_once() -> None:
    assert len(judged(WELL, holds=(CORRUPT,), failures=(failed("corrupt"),)).problems) == 1
    assert len(judged(WELL, holds=(UNREADABLE,), failures=(failed("unusable"),)).problems) == 1
    assert len(judged(WELL, holds=(CORRUPT,), failures=(failed("missing"),)).problems) == 2
    assert len(judged(WELL, holds=(SHRUNK,), failures=(failed("corrupt"),)).problems) == 2


def test_damaged_generation_is_a_warning() -> None:
    health = Health.of(HealthFacts((WELL,), damaged=(("tasks-20261101-0300", "tasks"),)), NOW)
    assert (health.healthy, len(health.warnings)) == (True, 1)
    assert "tasks-20261101-0300 is damaged" in health.warnings[0]


def test_refused_generation_is_warning_with_next_step() -> None:
    first, second, third = "tasks-20261101-0300", "tasks-20261102-0300", "tasks-20261103-0300"
    refused = (
        RefusedGeneration(first, "tasks", "/data/x.manifest.json is not JSON", "manifest"),
        RefusedGeneration(second, "tasks", "its archive is gone", "archive"),
        RefusedGeneration(third, "tasks", "the manifest cannot be read: Permission denied", "access"),
    )
    health = Health.of(HealthFacts((WELL,), refused=refused), NOW)
    assert health.healthy
    assert health.warnings == (
        f"generation {first} does not count: its manifest cannot be used",
        f"generation {second} does not count: its archive is gone",
        f"generation {third} does not count: its manifest cannot be read",
    )
    assert [problem.next_step for problem in health.problems] == [
        f"if gunzip -t {first}.sqlite3.gz finds it intact, copy it elsewhere; then run backupd remove {first}",
        f"put {second}.sqlite3.gz back, or run backupd remove {second}",
        f"check owner and mode of {third}.manifest.json, and the disk (smartctl, dmesg)",
    ]


def test_unreadable_state_is_unhealthy_without_other_claims() -> None:
    never = replace(WELL, last_at=None)
    store = Health.of(HealthFacts((never,), store_unreadable=True), NOW)
    assert store.reasons == ("the directory of the backups cannot be read",)
    copy = replace(never, task="replicate", subject="nas")
    catalog = Health.of(HealthFacts((WELL, copy), catalog_error=UNUSABLE), NOW)
    assert [problem.kind for problem in catalog.problems] == ["catalog"]
    late = Health.of(HealthFacts((aged(40 * HOUR), copy), catalog_error=UNUSABLE), NOW)
    assert [problem.kind for problem in late.problems] == ["catalog", "late"]


_AGES = st.timedeltas(-400 * DAY, 400 * DAY)
_STANDINGS = st.builds(
    Freshness,
    st.sampled_from(["backup", "replicate", "drill", "prune", "scrub"]),
    st.sampled_from(["tasks", "nas", "local"]),
    st.none() | _AGES.map(lambda age: NOW - age),
    st.floats(0, 1e9),
)
_HOLDS = st.builds(replace, st.sampled_from([CORRUPT, SHRUNK]), source=st.sampled_from(["tasks", "notes"]))
_FAILURES = st.builds(
    failed,
    st.sampled_from(get_args(ErrorKind)),
    runs=st.integers(1, 9),
    ago=_AGES,
    task=st.sampled_from(get_args(Task)),
    subject=st.sampled_from(["tasks", "nas"]),
)


@given(
    st.lists(_STANDINGS, max_size=5),
    st.lists(_HOLDS, max_size=3),
    st.lists(_FAILURES, max_size=4),
    st.booleans(),
    st.none() | st.just(UNUSABLE),
)
def test_public_health_text_has_no_path_and_only_warnings_are_healthy(
    freshness: list[Freshness],
    holds: list[Hold],
    failures: list[Failure],
    unreadable: bool,
    catalog_error: CatalogUnavailable | None,
) -> None:
    facts = HealthFacts(tuple(freshness), tuple(holds), tuple(failures), (), (), unreadable, catalog_error)
    health = Health.of(facts, NOW)
    said = [*health.reasons, *health.warnings, *(problem.next_step for problem in health.problems)]
    assert not any("/" in sentence.replace("docs/runbook.md", "") or "\n" in sentence for sentence in said)
    assert all(said)
    assert health.healthy == all(problem.severity == "warning" for problem in health.problems)
    if holds or any(failure.task == "backup" and failure.kind in SOURCE_ERRORS for failure in failures):
        assert not health.healthy


@pytest.mark.parametrize(("files", "what"), [(frozenset(), "database"), (frozenset({"uploads"}), "directory")])
def test_every_text_on_lost_source_says_what_it_is(files: frozenset[str], what: str) -> None:
    for kind in ("missing", "unusable"):
        fresh = replace(WELL, subject="uploads")
        backed_up = HealthFacts((fresh,), failures=(failed(kind, subject="uploads"),), files=files)
        drilled = replace(backed_up, failures=(failed(kind, task="drill", subject="uploads"),))
        (lost,), (undrilled,) = Health.of(backed_up, NOW).problems, Health.of(drilled, NOW).problems
        assert str(lost).startswith(f"the {what} of uploads ")
        assert lost.resolved.startswith(f"the {what} of uploads ")
        assert f"if the {what} is lost, stop the app" in lost.next_step
        assert f"failed: the {what} " in str(undrilled)


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
def test_limit_is_longest_gap_plus_twelfth_but_at_least_two_hours(text: str, name: str, limit: timedelta) -> None:
    assert health_limit(Schedule.parse(text, ZoneInfo(name)), NOW) == limit


@pytest.mark.parametrize("text", ["04:00", "sun 02:30", "0 6 L * *", "0 */8 * * *"])
@pytest.mark.parametrize("name", ["Australia/Lord_Howe", "Antarctica/Troll"])
def test_backup_one_hour_late_is_within_limit(text: str, name: str) -> None:
    """Also when the clocks go back: backups by schedule are always within the limit."""
    schedule = Schedule.parse(text, ZoneInfo(name))
    limit = health_limit(schedule, NOW).total_seconds()
    at = schedule.latest(NOW)
    while at < NOW + 366 * DAY:
        following = schedule.following(at)
        assert within_limit(Freshness("backup", "tasks", at, limit), following + HOUR)
        at = following


# ---- spans


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.4, "0.4 s"),
        (5, "5 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
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
def test_duration_is_in_unit_with_two_digits(seconds: float, said: str) -> None:
    assert human_duration(seconds) == human_age(seconds) == said


def test_future_age_reads_in_duration() -> None:
    assert (human_age(-26 * 3600), human_age(-1)) == ("in 26 h", "in 1 s")


@pytest.mark.parametrize(
    ("reference", "command"),
    [
        ("uploads-20261122-0300", "backupd restore --point point-20261122-0300 --only uploads"),
        ("uploads-20261121-0300", "backupd list --points"),
        (None, "backupd restore --point latest --only uploads"),
    ],
)
def test_set_of_files_that_shrank_is_restored_by_its_restore_point(reference: str | None, command: str) -> None:
    hold = replace(SHRUNK, source="uploads", reference=reference)
    points = {"uploads-20261122-0300": "point-20261122-0300"}
    fresh = replace(WELL, subject="uploads")
    health = Health.of(HealthFacts((fresh,), (hold,), files=frozenset({"uploads"}), points=points), NOW)
    (problem,) = health.problems
    assert str(problem).startswith("the directory of uploads has shrunk: ")
    assert problem.restore == command
    assert f"if not, stop the app and restore it: {command}" in problem.next_step
