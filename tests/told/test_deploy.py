"""One verdict for each deploy, whatever happens in between."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backupd.catalog import Told
from backupd.told.deploy import SETTLE, Seen, is_pending, plan_deploy

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TIMEOUT = timedelta(minutes=5)


class Watch:
    """Looks each five seconds; what is not said in between is kept, as by a daemon that restarts each time."""

    def __init__(self) -> None:
        self.now, self.book = NOW, dict[str, Told]()
        self.said: list[str] = []

    def look(self, version: str | None, trouble: str = "", looks: int = 1) -> list[str]:
        before = len(self.said)
        for _ in range(looks):
            self.now += timedelta(seconds=5)
            plan = plan_deploy(Seen("app", version, trouble), self.book, TIMEOUT, self.now)
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


def test_an_app_that_does_not_tell_its_version_has_no_deploys() -> None:
    assert Watch().look(None, looks=100) == []


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
