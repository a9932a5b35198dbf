"""One verdict for each deploy, whatever happens in between."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backupd.catalog import NoticeRecord
from backupd.notifications.deploy import SETTLE, AppVersion, is_pending, plan_deploy

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TIMEOUT = timedelta(minutes=5)


class Watch:
    """Looks each five seconds; what is not said in between is kept, as by a daemon that restarts each time."""

    def __init__(self) -> None:
        self.now, self.book = NOW, dict[str, NoticeRecord]()
        self.said: list[str] = []

    def look(self, version: str | None, trouble: str = "", looks: int = 1) -> list[str]:
        before = len(self.said)
        for _ in range(looks):
            self.now += timedelta(seconds=5)
            plan = plan_deploy(AppVersion("app", version, trouble), self.book, TIMEOUT, self.now)
            self.book = dict(plan.told)
            self.said += [item.headline for item in plan.items]
        return self.said[before:]


def test_a_new_version_that_is_well_is_told_once_when_it_has_settled() -> None:
    watch = Watch()
    assert watch.look("1.0") == []
    assert is_pending("app", watch.book)
    assert watch.look("1.0", looks=3) == ["deploy OK: app 1.0"]
    assert watch.look("1.0", looks=100) == []
    assert watch.look("1.1", looks=100) == ["deploy OK: app 1.1 (before: 1.0)"]
    assert watch.look("1.0", looks=100) == ["deploy OK: app 1.0 (before: 1.1)"], "a rollback is a deploy"


def test_one_that_takes_a_while_to_be_well_is_not_told_as_unhealthy() -> None:
    watch = Watch()
    assert watch.look("1.0", "answered 503", looks=20) == []
    assert watch.look("1.0", looks=5) == ["deploy OK: app 1.0"]


def test_one_that_is_not_well_in_time_is_told_once_and_nothing_after_that() -> None:
    watch = Watch()
    assert watch.look("1.0", "answered 503", looks=200) == ["deploy unhealthy: app 1.0"]
    assert watch.look("1.0", looks=100) == [], "there is one verdict for each deploy"
    assert not is_pending("app", watch.book)


def test_one_that_falls_silent_before_it_is_well_is_unhealthy() -> None:
    watch = Watch()
    watch.look("1.0")
    assert watch.look(None, "connection refused", looks=100) == ["deploy unhealthy: app 1.0"]


def test_an_app_that_is_well_and_does_not_tell_its_version_has_no_deploys() -> None:
    assert Watch().look(None, looks=100) == []


SILENT = "deploy unhealthy: app (before: 1.0) tells neither that it is well nor its version"


def test_a_deploy_that_never_answers_is_told_once_and_what_comes_up_after_it_as_well() -> None:
    watch = Watch()
    watch.look("1.0", looks=5)
    assert watch.look(None, "connection refused", looks=60) == []
    assert watch.look(None, "connection refused", looks=2000) == [SILENT]
    assert watch.look("1.0", looks=100) == ["deploy OK: app 1.0"], "a rollback is a deploy"


def test_an_app_that_never_answered_at_all_is_told_as_well() -> None:
    assert Watch().look(None, "no such host", looks=2000) == [SILENT.replace(" (before: 1.0)", "")]


def test_an_app_that_comes_and_goes_is_told_as_silent_at_most_once_an_hour_and_never_for_a_short_restart() -> None:
    watch = Watch()
    for _ in range(20):  # 2 hours of minutes
        watch.look("1.0", looks=30)
        watch.look(None, "connection refused", looks=42)
    assert watch.said == ["deploy OK: app 1.0"]
    for _ in range(20):  # 4 hours, the half of each ten minutes it is silent
        watch.look("1.0", looks=60)
        watch.look(None, "connection refused", looks=75)
    assert 2 <= watch.said.count(SILENT) <= 4


def test_a_silence_before_a_verdict_and_after_it_is_no_second_one() -> None:
    watch = Watch()
    watch.look("1.0", "answered 503")
    assert watch.look(None, "connection refused", looks=2000) == ["deploy unhealthy: app 1.0"]
    assert watch.look("1.0", looks=100) == []


def test_two_versions_that_answer_in_turn_while_one_replaces_the_other_are_one_deploy() -> None:
    watch = Watch()
    watch.look("1.0", looks=5)
    for _ in range(30):
        assert watch.look("1.1") + watch.look("1.0") == []
    assert watch.look("1.1", looks=5) == ["deploy OK: app 1.1 (before: 1.0)"]


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.booleans(), st.integers(1, 80)), max_size=30))
def test_a_version_that_stays_gets_exactly_one_verdict(life: list[tuple[str | None, bool, int]]) -> None:
    watch = Watch()
    for version, well, looks in life:
        watch.look(version, "" if well else "answered 503", looks)
    verdicts = [headline.removeprefix("deploy ").partition(": app ")[2].partition(" ")[0] for headline in watch.said]
    assert all(one != other for one, other in pairwise(verdicts)), "never two in a row"
    last = watch.look("4", "answered 503", looks=100)
    assert [headline.partition(" (")[0] for headline in last] == ["deploy unhealthy: app 4"]
    assert SETTLE < TIMEOUT
