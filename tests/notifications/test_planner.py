"""When problems are reported: once a day while each lasts, and once at its end."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backupd.catalog import NoticeRecord
from backupd.notifications.planner import REPEAT_AFTER, Alert, Facts, Notice, Occurrence, plan_digest, plan_notices
from backupd.schedule import Schedule

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SUBJECTS = frozenset({"tasks", "notes"})


def alert(key: str = "failed tasks backup", delay: timedelta = timedelta(), since: datetime | None = None) -> Alert:
    return Alert(key, Notice("failure", f"{key} is there", "why", since, "do something"), f"{key} is over", delay)


class PlannerHarness:
    """What is reported as the minutes go by."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.record: dict[str, NoticeRecord] = {}

    def plan(
        self, *alerts: Alert, occurrences: tuple[Occurrence, ...] = (), unknown: str = "", after: timedelta = MINUTE
    ) -> list[str]:
        self.now += after
        facts = Facts(alerts, occurrences, frozenset(unknown.split()), SUBJECTS)
        plan = plan_notices(facts, self.record, self.now)
        self.record = dict(plan.record)
        return [f"{notice.label} {notice.headline}".strip() for notice in plan.notices]


def test_problem_is_reported_once_and_its_end_once() -> None:
    planner = PlannerHarness()
    assert planner.plan() == []
    assert planner.plan(alert()) == ["failed tasks backup is there"]
    assert planner.plan(alert()) == []
    assert planner.plan() == ["resolved failed tasks backup is over"]
    assert planner.plan() == []


def test_lasting_problem_is_reported_each_day() -> None:
    planner = PlannerHarness()
    reported = [planner.plan(alert()) for _ in range(3 * 24 * 60)]
    assert [minute for minute, words in enumerate(reported) if words] == [0, 1440, 2880]
    assert reported[1440] == ["still failed tasks backup is there"]


def test_transient_problem_is_reported_after_its_delay() -> None:
    planner, transient = PlannerHarness(), alert(delay=15 * MINUTE)
    assert planner.plan(transient) == []
    assert planner.plan() == [], "it was not reported"
    assert planner.plan(transient) == []
    assert planner.plan(transient, after=15 * MINUTE) == ["failed tasks backup is there"]
    assert PlannerHarness().plan(alert(delay=15 * MINUTE, since=NOW - timedelta(hours=1))) != [], "it has lasted before"


def test_returning_problem_is_reported_a_day_after_its_last_report() -> None:
    planner = PlannerHarness()
    planner.plan(alert())
    planner.plan()
    assert planner.plan(alert()) == []
    assert planner.plan() == [], "its return was not reported"
    assert planner.plan(alert(), after=REPEAT_AFTER) == ["failed tasks backup is there"]


def test_another_problem_is_reported_at_once() -> None:
    planner = PlannerHarness()
    planner.plan(alert())
    assert planner.plan(alert(), alert("shrink tasks 2026-11-25")) == ["shrink tasks 2026-11-25 is there"]


def test_problem_of_unknown_kind_is_not_resolved() -> None:
    planner = PlannerHarness()
    planner.plan(alert())
    assert planner.plan(unknown="failed late") == []
    assert planner.plan(unknown="late") == ["resolved failed tasks backup is over"]


def test_problem_of_unconfigured_subject_ends_without_report() -> None:
    planner = PlannerHarness()
    planner.plan(alert("failed gone backup"))
    assert planner.plan() == []
    assert planner.plan(alert("unreadable -")) == ["unreadable - is there"]
    assert planner.plan() == ["resolved unreadable - is over"]


def test_occurrence_is_reported_once_for_each_mark() -> None:
    planner, first, second = (
        PlannerHarness(),
        Occurrence("drill tasks", "1", Notice("success", "proven")),
        Occurrence("drill tasks", "2", Notice("success", "proven again")),
    )
    assert planner.plan(occurrences=(first,)) == ["proven"]
    assert planner.plan(occurrences=(first,)) == []
    assert planner.plan(occurrences=(second,)) == ["proven again"]


def test_report_dated_in_the_future_is_ignored() -> None:
    planner = PlannerHarness()
    planner.plan(alert(), after=timedelta(days=365))
    planner.now = NOW
    assert planner.plan(alert()) == ["failed tasks backup is there"]
    assert planner.plan(alert()) == []


def test_digest_is_sent_once_at_each_scheduled_time() -> None:
    weekly = Schedule.parse("mon 08:00", UTC)  # NOW is a Wednesday
    due, record = plan_digest(weekly, {}, NOW)
    assert not due
    reported = []
    for hour in range(24 * 21):
        due, record = plan_digest(weekly, record, NOW + timedelta(hours=hour))
        reported += [NOW + timedelta(hours=hour)] if due else []
    assert [(at.weekday(), at.hour) for at in reported] == [(0, 8)] * 3


KEYS = ("failed tasks backup", "late tasks backup", "corrupt notes 2026", "catalog -")
STEPS = st.lists(st.tuples(st.sets(st.sampled_from(KEYS)), st.integers(1, 2000)), min_size=1, max_size=60)


@given(STEPS)
def test_any_history_reports_each_problem_once_a_day_and_its_end_once(
    steps: list[tuple[set[str], int]],
) -> None:
    now, record = NOW, dict[str, NoticeRecord]()
    last_reported: dict[str, datetime] = {}
    open_problems: set[str] = set()
    for present, minutes in steps:
        now += minutes * MINUTE
        plan = plan_notices(Facts(tuple(alert(key) for key in sorted(present)), subjects=SUBJECTS), record, now)
        record = dict(plan.record)
        for notice in plan.notices:
            key = notice.headline.rpartition(" is ")[0]
            if notice.label == "resolved":
                assert key in open_problems, "an end is reported once, after its problem"
                assert key not in present
                open_problems.remove(key)
                continue
            assert key in present
            assert now - last_reported.get(key, now - REPEAT_AFTER) >= REPEAT_AFTER, "never twice within a day"
            last_reported[key] = now
            open_problems.add(key)
        for key in present:
            assert now - last_reported[key] < REPEAT_AFTER, "what is present was reported within the last day"
        assert not (open_problems - present), "each end is reported"


def test_notice_has_since_and_next_step() -> None:
    plan = plan_notices(Facts((alert(since=NOW - MINUTE),), subjects=SUBJECTS), {}, NOW)
    assert plan.notices == (Notice("failure", "failed tasks backup is there", "why", NOW - MINUTE, "do something", ""),)
