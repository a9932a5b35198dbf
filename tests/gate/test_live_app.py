"""Whether the app came up with what was delivered; a real server answers as the app does while Swarm replaces it."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from backupd.errors import Cancelled, GateStepFailed
from backupd.gate import live_app
from backupd.gate.live_app import await_version, is_version, version_now
from backupd.gate.model import LiveApp, Push
from support.caprover_server import (
    Build,
    LiveVersion,
    flaps,
    live_version,
    never_comes_up,
    rolls_back,
    tells_no_version,
)
from support.daemon import free_port

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PUSH = Push("1", "ana/app", "refs/heads/main", COMMIT, "0" * 40, "ana")
BUILD = Build(COMMIT, b"")


@pytest.fixture
def live() -> Iterator[LiveVersion]:
    with live_version() as running:
        yield running


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_app, "_POLL_S", 0.02)


def never() -> bool:
    return False


def app(live: LiveVersion, timeout_s: float = 20) -> LiveApp:
    return LiveApp(live.health_url, timeout_s=timeout_s)


def test_new_version_that_stays_healthy_is_up(live: LiveVersion) -> None:
    before = version_now(app(live))
    assert before == "old"
    live.then = lambda build: iter([(0.1, "old", True), (0.1, None, False), (0.1, build.git_hash, True)])
    live.deploy(BUILD)
    said = await_version(app(live), PUSH, before, never, settle_s=0.3)
    assert said.startswith(f"the app is healthy and reports {COMMIT}, 0.")
    assert said.endswith("s after the delivery")


def test_version_must_stay_for_ten_seconds(live: LiveVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    live.version = COMMIT
    seconds = iter(range(1000))
    monkeypatch.setattr(live_app.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(live_app, "pause", lambda _seconds, _cancelled: None)
    asked = []
    monkeypatch.setattr(live_app, "abandonable", lambda ask, _cancelled: asked.append(1) or ask())
    monkeypatch.setattr(live_app, "check_app", lambda _app: live_app.AppVersion("app", COMMIT))
    await_version(app(live, 1000), PUSH, None, never)
    assert len(asked) == 6, "each look takes two seconds of this clock"


def test_silent_return_to_old_version_is_noticed(live: LiveVersion) -> None:
    live.then = rolls_back
    live.deploy(BUILD)
    with pytest.raises(GateStepFailed, match="went back to the old") as failed:
        await_version(app(live, 1.5), PUSH, "old", never, settle_s=0.5)
    assert "log" in failed.value.hint


def test_version_that_does_not_come_up_is_told_with_last_answer(live: LiveVersion) -> None:
    live.then = never_comes_up
    live.deploy(BUILD)
    with pytest.raises(GateStepFailed, match=rf"not healthy after 0\.5 s: .*answered 503.*reports {COMMIT}"):
        await_version(app(live, 0.5), PUSH, "old", never, settle_s=0.1)


def test_app_that_does_not_answer_is_told() -> None:
    asked = LiveApp(f"http://127.0.0.1:{free_port()}/health", timeout_s=0.3)
    assert version_now(asked) is None
    with pytest.raises(GateStepFailed, match="Connection refused"):
        await_version(asked, PUSH, None, never)


def test_flapping_versions_are_not_up(live: LiveVersion) -> None:
    live.then = flaps
    live.deploy(BUILD)
    with pytest.raises(GateStepFailed, match="does not stay up"):
        await_version(app(live, 1), PUSH, "old", never, settle_s=1)


def test_healthy_app_without_version_proves_nothing(live: LiveVersion) -> None:
    live.then = tells_no_version
    live.deploy(BUILD)
    with pytest.raises(
        GateStepFailed, match="reports no version: whether 0123456789 runs cannot be determined"
    ) as failed:
        await_version(app(live, 0.5), PUSH, "old", never, settle_s=0.1)
    assert "CAPROVER_GIT_COMMIT_SHA" in failed.value.hint


def test_old_version_at_time_limit_is_told(live: LiveVersion) -> None:
    with pytest.raises(GateStepFailed, match=r"still reports old after 0\.2 s: the build failed, or"):
        await_version(app(live, 0.2), PUSH, "old", never)


def test_other_version_at_time_limit_is_told(live: LiveVersion) -> None:
    live.version = "1.9\x1b[2J"
    with pytest.raises(GateStepFailed, match="which is neither 0123456789 nor commit 0123456789") as failed:
        await_version(app(live, 0.2), PUSH, "old", never)
    assert str(failed.value).isprintable()
    assert "version_field" in failed.value.hint


def test_version_of_before_is_told(live: LiveVersion) -> None:
    live.version = COMMIT[:12]
    said = await_version(app(live), PUSH, version_now(app(live)), never, settle_s=0.1)
    assert said == "the app is healthy and reports 0123456789ab, as it did before the delivery: it may not have changed"


def test_version_that_is_up_at_time_limit_may_settle(live: LiveVersion) -> None:
    live.version = COMMIT
    assert await_version(app(live, 0), PUSH, "old", never, settle_s=1e-4)  # less than an answer takes


def test_wait_for_app_ends_when_cancelled(live: LiveVersion) -> None:
    began = time.monotonic()
    with pytest.raises(Cancelled):
        await_version(app(live, 600), PUSH, "old", lambda: len(live.listener.requests) > 2)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("reported", "tag", "same"),
    [
        (COMMIT, None, True),
        (COMMIT.upper(), None, True),
        (COMMIT[:7], None, True),
        (f" {COMMIT[:10]}\n", None, True),
        (COMMIT[:6], None, False),
        (COMMIT + "0", None, False),
        (COMMIT[1:], None, False),
        ("main", None, False),
        ("", None, False),
        (None, None, False),
        ("v1.2", "v1.2", True),
        ("1.2", "v1.2", True),
        ("v1.2", "1.2", True),
        (COMMIT[:7], "v1.2", True),
        ("1.20", "v1.2", False),
        ("v1", "v1.2", False),
        ("", "v", False),
    ],
)
def test_version_is_commit_or_tag(reported: str | None, tag: str | None, same: bool) -> None:
    push = replace(PUSH, ref=f"refs/tags/{tag}") if tag else PUSH
    assert is_version(reported, push) is same
