"""What is said when: each trouble once a day for as long as it lasts, its end once, and nothing else."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backupd.catalog import NoticeRecord
from backupd.notifications.planner import AGAIN_AFTER, Notice, plan_digest, plan_notices
from backupd.notifications.problems import Facts, Occurrence, Trouble
from backupd.schedule import Schedule

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SUBJECTS = frozenset({"tasks", "notes"})


def trouble(
    key: str = "failed tasks backup", patience: timedelta = timedelta(), since: datetime | None = None
) -> Trouble:
    return Trouble(key, f"{key} is there", "why", "do something", f"{key} is over", since, patience)


class PlannerHarness:
    """What a daemon says as the minutes go by."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.book: dict[str, NoticeRecord] = {}

    def look(
        self, *troubles: Trouble, news: tuple[Occurrence, ...] = (), blind: str = "", after: timedelta = MINUTE
    ) -> list[str]:
        self.now += after
        facts = Facts(troubles, news, frozenset(blind.split()), SUBJECTS)
        plan = plan_notices(facts, self.book, self.now)
        self.book = dict(plan.told)
        return [f"{item.label} {item.headline}".strip() for item in plan.items]


def test_a_trouble_is_said_once_and_its_end_once() -> None:
    said = PlannerHarness()
    assert said.look() == []
    assert said.look(trouble()) == ["failed tasks backup is there"]
    assert said.look(trouble()) == []
    assert said.look() == ["over failed tasks backup is over"]
    assert said.look() == []


def test_a_trouble_that_lasts_is_said_again_each_day() -> None:
    said = PlannerHarness()
    heard = [said.look(trouble()) for _ in range(3 * 24 * 60)]
    assert [minute for minute, words in enumerate(heard) if words] == [0, 1440, 2880]
    assert heard[1440] == ["still failed tasks backup is there"]


def test_what_may_pass_is_said_only_once_it_lasts() -> None:
    said, passing = PlannerHarness(), trouble(patience=15 * MINUTE)
    assert said.look(passing) == []
    assert said.look() == [], "nobody heard of it"
    assert said.look(passing) == []
    assert said.look(passing, after=15 * MINUTE) == ["failed tasks backup is there"]
    assert PlannerHarness().look(trouble(patience=15 * MINUTE, since=NOW - timedelta(hours=1))) != [], (
        "it has lasted before"
    )


def test_one_that_comes_back_is_said_when_a_day_has_passed_since_it_was_said() -> None:
    said = PlannerHarness()
    said.look(trouble())
    said.look()
    assert said.look(trouble()) == []
    assert said.look() == [], "nobody heard that it was back"
    assert said.look(trouble(), after=AGAIN_AFTER) == ["failed tasks backup is there"]


def test_another_trouble_does_not_wait() -> None:
    said = PlannerHarness()
    said.look(trouble())
    assert said.look(trouble(), trouble("shrink tasks 2026-11-25")) == ["shrink tasks 2026-11-25 is there"]


def test_what_cannot_be_seen_is_not_over() -> None:
    said = PlannerHarness()
    said.look(trouble())
    assert said.look(blind="failed late") == []
    assert said.look(blind="late") == ["over failed tasks backup is over"]


def test_what_nobody_looks_after_any_more_is_forgotten_in_silence() -> None:
    said = PlannerHarness()
    said.look(trouble("failed gone backup"))
    assert said.look() == []
    assert said.look(trouble("unreadable -")) == ["unreadable - is there"]
    assert said.look() == ["over unreadable - is over"]


def test_news_is_said_once_for_each_mark() -> None:
    said, first, second = (
        PlannerHarness(),
        Occurrence("drill tasks", "1", "proven", ""),
        Occurrence("drill tasks", "2", "proven again", ""),
    )
    assert said.look(news=(first,)) == ["proven"]
    assert said.look(news=(first,)) == []
    assert said.look(news=(second,)) == ["proven again"]


def test_what_a_clock_that_ran_ahead_has_said_counts_for_nothing() -> None:
    said = PlannerHarness()
    said.look(trouble(), after=timedelta(days=365))
    said.now = NOW
    assert said.look(trouble()) == ["failed tasks backup is there"]
    assert said.look(trouble()) == []


def test_the_first_digest_comes_at_its_time_and_then_each_one_once() -> None:
    weekly = Schedule.parse("mon 08:00", UTC)  # NOW is a Wednesday
    due, told = plan_digest(weekly, {}, NOW)
    assert not due
    heard = []
    for hour in range(24 * 21):
        due, told = plan_digest(weekly, told, NOW + timedelta(hours=hour))
        heard += [NOW + timedelta(hours=hour)] if due else []
    assert [(at.weekday(), at.hour) for at in heard] == [(0, 8)] * 3


KEYS = ("failed tasks backup", "late tasks backup", "corrupt notes 2026", "catalog -")
STEPS = st.lists(st.tuples(st.sets(st.sampled_from(KEYS)), st.integers(1, 2000)), min_size=1, max_size=60)


@given(STEPS)
def test_never_twice_within_a_day_never_unsaid_and_over_exactly_once(steps: list[tuple[set[str], int]]) -> None:
    now, book = NOW, dict[str, NoticeRecord]()
    last_said: dict[str, datetime] = {}
    open_troubles: set[str] = set()
    for there, minutes in steps:
        now += minutes * MINUTE
        plan = plan_notices(Facts(tuple(trouble(key) for key in sorted(there)), subjects=SUBJECTS), book, now)
        book = dict(plan.told)
        for item in plan.items:
            key = item.headline.rpartition(" is ")[0]
            if item.label == "over":
                assert key in open_troubles, "an end is told once, of what was told"
                assert key not in there
                open_troubles.remove(key)
                continue
            assert key in there
            assert now - last_said.get(key, now - AGAIN_AFTER) >= AGAIN_AFTER, "never twice within a day"
            last_said[key] = now
            open_troubles.add(key)
        for key in there:
            assert now - last_said[key] < AGAIN_AFTER, "never unsaid: what is there was told within the last day"
        assert not (open_troubles - there), "what is over was told"


def test_an_item_says_since_when_and_what_to_do() -> None:
    plan = plan_notices(Facts((trouble(since=NOW - MINUTE),), subjects=SUBJECTS), {}, NOW)
    assert plan.items == (Notice("failure", "failed tasks backup is there", "why", NOW - MINUTE, "do something", ""),)
