"""Each deploy gets one verdict after any sequence of events."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backupd.catalog import NoticeRecord
from backupd.notifications.deploy import SETTLE_TIME, AppVersion, is_pending, plan_deploy

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TIMEOUT = timedelta(minutes=5)


class DeployHarness:
    """Checks each five seconds, with the record saved in between, as by a daemon that restarts each time."""

    def __init__(self) -> None:
        self.now, self.record = NOW, dict[str, NoticeRecord]()
        self.reported: list[str] = []

    def check(self, version: str | None, error: str = "", times: int = 1) -> list[str]:
        before = len(self.reported)
        for _ in range(times):
            self.now += timedelta(seconds=5)
            plan = plan_deploy(AppVersion("app", version, error), self.record, TIMEOUT, self.now)
            self.record = dict(plan.record)
            self.reported += [notice.headline for notice in plan.notices]
        return self.reported[before:]


def test_healthy_new_version_is_reported_once_after_the_settle_time() -> None:
    harness = DeployHarness()
    assert harness.check("1.0") == []
    assert is_pending("app", harness.record)
    assert harness.check("1.0", times=3) == ["deploy OK: app 1.0"]
    assert harness.check("1.0", times=100) == []
    assert harness.check("1.1", times=100) == ["deploy OK: app 1.1 (before: 1.0)"]
    assert harness.check("1.0", times=100) == ["deploy OK: app 1.0 (before: 1.1)"], "a rollback is a deploy"


def test_version_that_becomes_healthy_in_time_is_not_reported_as_unhealthy() -> None:
    harness = DeployHarness()
    assert harness.check("1.0", "answered 503", times=20) == []
    assert harness.check("1.0", times=5) == ["deploy OK: app 1.0"]


def test_version_not_healthy_in_time_is_reported_once() -> None:
    harness = DeployHarness()
    assert harness.check("1.0", "answered 503", times=200) == ["deploy unhealthy: app 1.0"]
    assert harness.check("1.0", times=100) == [], "there is one verdict for each deploy"
    assert not is_pending("app", harness.record)


def test_version_that_stops_answering_before_it_is_healthy_is_unhealthy() -> None:
    harness = DeployHarness()
    harness.check("1.0")
    assert harness.check(None, "connection refused", times=100) == ["deploy unhealthy: app 1.0"]


def test_healthy_app_without_version_has_no_deploys() -> None:
    assert DeployHarness().check(None, times=100) == []


OUTAGE = "deploy unhealthy: app (before: 1.0) does not answer its health check"


def test_deploy_that_never_answers_is_reported_once_and_the_next_version_too() -> None:
    harness = DeployHarness()
    harness.check("1.0", times=5)
    assert harness.check(None, "connection refused", times=60) == []
    assert harness.check(None, "connection refused", times=2000) == [OUTAGE]
    assert harness.check("1.0", times=100) == ["deploy OK: app 1.0"], "a rollback is a deploy"


def test_app_that_never_answered_is_reported() -> None:
    assert DeployHarness().check(None, "no such host", times=2000) == [OUTAGE.replace(" (before: 1.0)", "")]


def test_flapping_app_is_reported_at_most_once_an_hour_and_a_short_restart_never() -> None:
    harness = DeployHarness()
    for _ in range(20):  # 2 hours of minutes
        harness.check("1.0", times=30)
        harness.check(None, "connection refused", times=42)
    assert harness.reported == ["deploy OK: app 1.0"]
    for _ in range(20):  # 4 hours, down for half of each ten minutes
        harness.check("1.0", times=60)
        harness.check(None, "connection refused", times=75)
    assert 2 <= harness.reported.count(OUTAGE) <= 4


def test_outage_before_and_after_a_verdict_is_reported_once() -> None:
    harness = DeployHarness()
    harness.check("1.0", "answered 503")
    assert harness.check(None, "connection refused", times=2000) == ["deploy unhealthy: app 1.0"]
    assert harness.check("1.0", times=100) == []


def test_two_versions_answering_in_turn_are_one_deploy() -> None:
    harness = DeployHarness()
    harness.check("1.0", times=5)
    for _ in range(30):
        assert harness.check("1.1") + harness.check("1.0") == []
    assert harness.check("1.1", times=5) == ["deploy OK: app 1.1 (before: 1.0)"]


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.booleans(), st.integers(1, 80)), max_size=30))
def test_version_that_stays_gets_exactly_one_verdict(life: list[tuple[str | None, bool, int]]) -> None:
    harness = DeployHarness()
    for version, healthy, times in life:
        harness.check(version, "" if healthy else "answered 503", times)
    verdicts = [
        headline.removeprefix("deploy ").partition(": app ")[2].partition(" ")[0] for headline in harness.reported
    ]
    assert all(one != other for one, other in pairwise(verdicts)), "never two in a row"
    last = harness.check("4", "answered 503", times=100)
    assert [headline.partition(" (")[0] for headline in last] == ["deploy unhealthy: app 4"]
    assert SETTLE_TIME < TIMEOUT
